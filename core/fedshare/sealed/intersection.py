"""How many customers two parties share, and nothing about which.

Both raise what the other sends to a secret power of their own, in a random order; an identifier that both have ends
as the same element whichever way round, and everything else as elements that say nothing.

    a -> b: shuffled a H(x)        b -> a: shuffled b a H(x), shuffled b H(y)        a counts b a H(x) among a b H(y)

Source: Huberman, Franklin, Hogg 1999, "Enhancing privacy and trust in electronic communities"; with the shuffle, De
Cristofaro, Gasti, Tsudik 2012, "Fast and private computation of cardinality of set intersection and union", section 3,
in ristretto255. Lists are filled up to a power of two with elements of random identifiers, so that lengths tell
the order of magnitude only.

Assumes: both are semi-honest; decisional Diffie-Hellman in ristretto255 and the hash as a random oracle. A key is used
with one peer in one run. A dishonest party can list enterprises that are not its customers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedshare.errors import ProtocolError

from .oblivious import ELEMENT_BYTES, OprfKey, evaluate, hash_to_group
from .randomness import Randomness, Stream, fresh_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["count_common", "raised", "raised_again"]

_DOMAIN = b"fedshare shared customers v1|"
_LEAST = 1024


def raised(key: OprfKey, identifiers: Sequence[bytes], randomness: Randomness, *, workers: int = 1) -> bytes:
    """Return the elements of ``identifiers`` under ``key``, filled up and shuffled, 32 bytes each.

    Args:
        key: fresh, for one peer.
        identifiers: distinct.
        randomness: for the order and the elements that fill up.
        workers: threads to use.
    """
    size = max(_LEAST, 1 << (len(identifiers) - 1).bit_length())
    stream = Stream(fresh_seed(randomness))
    names = [_DOMAIN + identifier for identifier in identifiers]
    names += [b"filling|" + stream.read(32) for _ in range(size - len(names))]
    elements = b"".join(hash_to_group(name) for name in names)
    return _shuffled(evaluate(key, elements, workers=workers), stream)


def raised_again(key: OprfKey, elements: bytes, randomness: Randomness, *, workers: int = 1) -> bytes:
    """Return the peer's elements under ``key`` as well, shuffled.

    Raises:
        ProtocolError: the length is not that of a filled-up list, or an element is invalid or there twice.
    """
    count, rest = divmod(len(elements), ELEMENT_BYTES)
    if rest or count < _LEAST or count & (count - 1):
        raise ProtocolError(
            f"expected a power of two of elements, {_LEAST} at least, got {len(elements)} bytes"
        )
    # Prevent a list of one element, many times over, from telling whether that enterprise is a customer.
    if len(set(_split(elements))) < count:
        raise ProtocolError("an element is there twice: every customer counts once")
    return _shuffled(evaluate(key, elements, workers=workers), Stream(fresh_seed(randomness)))


def count_common(own: bytes, other: bytes) -> int:
    """Return how many elements under both keys are in both lists."""
    return len(set(_split(own)) & set(_split(other)))


def _split(elements: bytes) -> list[bytes]:
    return [elements[start : start + ELEMENT_BYTES] for start in range(0, len(elements), ELEMENT_BYTES)]


def _shuffled(elements: bytes, stream: Stream) -> bytes:
    rows = np.frombuffer(elements, dtype=np.uint8).reshape(-1, ELEMENT_BYTES)
    return rows[np.argsort(stream.uniform((len(rows),)))].tobytes()
