"""How many customers two parties share, and nothing about which; or which of one's own the other has, without a name.

Both raise what the other sends to a secret power of their own, in a random order; an identifier that both have ends
as the same element whichever way round, and everything else as elements that say nothing.

    a -> b: shuffled a H(x)        b -> a: shuffled b a H(x), shuffled b H(y)        a counts b a H(x) among a b H(y)

Source: Huberman, Franklin, Hogg 1999, "Enhancing privacy and trust in electronic communities"; with the shuffle, De
Cristofaro, Gasti, Tsudik 2012, "Fast and private computation of cardinality of set intersection and union", section 3,
in ristretto255. Lists are filled up to a power of two with elements of random identifiers, so that lengths tell
the order of magnitude only. Where b H(y) comes in an order that only its sender can read, not filled up, a learns at which
places there is a customer of its own (``find_common``), which is the count and no more.

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

    from numpy.typing import NDArray

__all__ = ["count_common", "find_common", "raised", "raised_again", "raised_in_order"]

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
    filling = [b"filling|" + stream.read(32) for _ in range(size - len(identifiers))]
    elements = _hashed(identifiers) + b"".join(hash_to_group(name) for name in filling)
    return _shuffled(evaluate(key, elements, workers=workers), stream)


def raised_in_order(key: OprfKey, identifiers: Sequence[bytes], *, workers: int = 1) -> bytes:
    """Return the elements of ``identifiers`` under ``key``, 32 bytes each, as they stand.

    Args:
        key: fresh, for one peer.
        identifiers: distinct, in a random order that the peer never learns.
        workers: threads to use.
    """
    return evaluate(key, _hashed(identifiers), workers=workers)


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


def find_common(key: OprfKey, elements: bytes, again: bytes, *, workers: int = 1) -> NDArray[np.bool_]:
    """Return at which places of the peer's ``elements`` there is one that this party has too.

    Args:
        key: as the own list was raised with.
        elements: the peer's, in its order.
        again: the own list, raised again and shuffled by the peer.
        workers: threads to use.

    Raises:
        ProtocolError: an element is invalid.
    """
    both = set(_split(again))
    return np.array(
        [each in both for each in _split(evaluate(key, elements, workers=workers))], dtype=np.bool_
    )


def _hashed(identifiers: Sequence[bytes]) -> bytes:
    return b"".join(hash_to_group(_DOMAIN + identifier) for identifier in identifiers)


def _split(elements: bytes) -> list[bytes]:
    return [elements[start : start + ELEMENT_BYTES] for start in range(0, len(elements), ELEMENT_BYTES)]


def _shuffled(elements: bytes, stream: Stream) -> bytes:
    rows = np.frombuffer(elements, dtype=np.uint8).reshape(-1, ELEMENT_BYTES)
    return rows[np.argsort(stream.uniform((len(rows),)))].tobytes()
