"""Products with bits that one party has and numbers that another has, of which each ends with a share.

The *receiver* has a bit m per row, which stays as it is; the *sender* has numbers v, new ones for every label. Per label the
sender says one number per row, and the two shares add up to -m v modulo 2^64: what takes the numbers of the rows with a bit
out of a sum. The sender learns nothing of the bits, the receiver nothing of the numbers.

    offer, setup = ReceiverSetup.create(randomness)            # receiver -> sender
    points, other = SenderSetup.create(offer, randomness)      # sender -> receiver
    columns, receiver = setup.choose(points, bits)             # receiver -> sender
    sender = other.accept(columns, len(bits))
    message, mine = sender.drop(values, label)                 # sender -> receiver
    yours = receiver.drop(message, label)                      # mine + yours = -bits * values

128 base transfers (Chou, Orlandi 2015, "The simplest protocol for oblivious transfer", in ristretto255) are extended to
any number of rows (Ishai, Kilian, Nissim, Petrank 2003, "Extending oblivious transfers efficiently"; with seeds, Asharov,
Lindell, Schneider, Zohner 2013): the sender has a secret s and a key q per row, the receiver the key t = q xor m s. With h the
hash of a key under a label, the sender says h(q) - h(q xor s) + v, and the receiver finds h(q) + m v (Gilboa 1999).

Every key of the receiver is one xor s away from a key that it must know nothing of, under many labels, so h has to be a
tweakable correlation robust hash: TMMO, pi(pi(x) xor label) xor pi(x), under a fixed public permutation pi (Guo, Katz, Wang, Yu
2020, section 7.4).

Assumes: both are semi-honest; computational Diffie-Hellman in ristretto255, SHA-256 as a random oracle, AES-256 pseudo-random
and AES-128 under a public key an ideal permutation.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
import rbcl
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from fedshare.errors import ParameterError, ProtocolError

from .oblivious import ELEMENT_BYTES, OprfKey, evaluate
from .product import OneTime
from .randomness import Randomness, Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Receiver", "ReceiverSetup", "Sender", "SenderSetup", "columns_bytes"]

T = TypeVar("T", bound=np.generic)
Words: TypeAlias = NDArray[np.int64]
Halves: TypeAlias = NDArray[np.uint64]

_BASE = 128
_KEY_BYTES = _BASE // 8
# Rows at a time; a multiple of 8, so that chunks of columns begin on a byte.
_CHUNK_ROWS = 2**15

#: The public key of the permutation: the first half of SHA-256 of a sentence, so that nobody chose it.
_PERMUTATION_KEY = hashlib.sha256(b"fedshare oblivious transfer v1 permutation").digest()[:16]


def columns_bytes(rows: int) -> int:
    """Return how many bytes the receiver's columns for ``rows`` rows have: 16 per row, rounded up to 8 rows."""
    return _BASE * -(-rows // 8)


class ReceiverSetup(OneTime):
    """The receiver before it chooses; it sends the base transfers."""

    __slots__ = ("_offer", "_scalar")

    def __init__(self, scalar: OprfKey, offer: bytes) -> None:
        super().__init__()
        self._scalar = scalar
        self._offer = offer

    @classmethod
    def create(cls, randomness: Randomness) -> tuple[bytes, ReceiverSetup]:
        """Return the message to the sender, one element of 32 bytes, and the setup."""
        scalar = OprfKey.generate(randomness)
        offer = bytes(rbcl.crypto_scalarmult_ristretto255_base(scalar.to_bytes()))
        return offer, cls(scalar, offer)

    def choose(self, points: bytes, bits: NDArray[np.bool_]) -> tuple[bytes, Receiver]:
        """Return the message to the sender and what shares products with ``bits`` from then on.

        Args:
            points: the sender's 128 elements.
            bits: one per row, shape ``[rows]``.

        Raises:
            ParameterError: used before, or ``bits`` are none.
            ProtocolError: not 128 elements, or an invalid one.
        """
        if bits.dtype != np.bool_ or bits.ndim != 1:
            raise ParameterError(f"expected bits of shape [rows] bool, got {bits.shape} {bits.dtype}")
        if len(points) != _BASE * ELEMENT_BYTES:
            raise ProtocolError(
                f"expected {_BASE} elements ({_BASE * ELEMENT_BYTES} bytes), got {len(points)} bytes"
            )
        multiplied = evaluate(self._scalar, points)
        own = evaluate(self._scalar, self._offer)
        self._use()
        packed = np.packbits(bits)
        columns = np.empty((_BASE, len(packed)), dtype=np.uint8)
        zeros = np.empty_like(columns)
        for number, (point, element) in enumerate(zip(_elements(points), _elements(multiplied), strict=True)):
            other = bytes(rbcl.crypto_core_ristretto255_sub(element, own))
            zeros[number] = _expanded(_seed(number, self._offer, point, element), len(packed))
            ones = _expanded(_seed(number, self._offer, point, other), len(packed))
            columns[number] = zeros[number] ^ ones ^ packed
        return columns.tobytes(), Receiver(bits.copy(), _images(zeros, len(bits)))


class SenderSetup(OneTime):
    """The sender before the receiver has chosen; it receives the base transfers, with the bits of s as choices."""

    __slots__ = ("_seeds", "_spread")

    def __init__(self, spread: bytes, seeds: Sequence[bytes]) -> None:
        super().__init__()
        self._spread = spread
        self._seeds = tuple(seeds)

    @classmethod
    def create(cls, offer: bytes, randomness: Randomness) -> tuple[bytes, SenderSetup]:
        """Return the answer to the receiver's ``offer``, 128 elements, and the setup.

        Raises:
            ProtocolError: the offer is not one valid element.
        """
        if len(offer) != ELEMENT_BYTES:
            raise ProtocolError(f"expected one element of {ELEMENT_BYTES} bytes, got {len(offer)} bytes")
        spread = randomness(_KEY_BYTES)
        if len(spread) != _KEY_BYTES:
            raise ParameterError(f"expected {_KEY_BYTES} random bytes, got {len(spread)}")
        points, seeds = [], []
        for number, chosen in enumerate(np.unpackbits(np.frombuffer(spread, dtype=np.uint8)).tolist()):
            scalar = OprfKey.generate(randomness)
            shared = evaluate(scalar, offer)
            point = bytes(rbcl.crypto_scalarmult_ristretto255_base(scalar.to_bytes()))
            if chosen:
                point = bytes(rbcl.crypto_core_ristretto255_add(point, offer))
            points.append(point)
            seeds.append(_seed(number, offer, point, shared))
        return b"".join(points), cls(spread, seeds)

    def accept(self, columns: bytes, rows: int) -> Sender:
        """Return what shares products with the receiver's bits from then on.

        Raises:
            ParameterError: used before.
            ProtocolError: the columns are not those of so many rows.
        """
        if len(columns) != columns_bytes(rows):
            raise ProtocolError(
                f"expected columns for {rows} rows ({columns_bytes(rows)} bytes), got {len(columns)} bytes"
            )
        self._use()
        spread = np.frombuffer(self._spread, dtype=np.uint8)
        keys = np.frombuffer(columns, dtype=np.uint8).reshape(_BASE, -1) * np.unpackbits(spread)[:, None]
        for number, seed in enumerate(self._seeds):
            keys[number] ^= _expanded(seed, keys.shape[1])
        return Sender(_images(keys, rows), _images(keys ^ (255 * np.unpackbits(spread))[:, None], rows))


@dataclass(frozen=True, slots=True)
class _Labels:
    """The labels that were used: under one, two vectors would show their difference."""

    used: set[bytes]

    def tweak(self, label: bytes) -> Halves:
        if not label or label in self.used:
            raise ParameterError(
                "expected a label that was not used before: every vector needs one of its own"
            )
        self.used.add(label)
        return np.frombuffer(hashlib.sha256(label).digest()[:_KEY_BYTES], dtype=np.uint64)


class Sender:
    """The party with the numbers."""

    __slots__ = ("_flipped", "_images", "_labels")

    def __init__(self, images: Halves, flipped: Halves) -> None:
        """Take pi(q) and pi(q xor s) per row, shape ``[rows, 2]`` each."""
        self._images = images
        self._flipped = flipped
        self._labels = _Labels(set())

    def __len__(self) -> int:
        return len(self._images)

    def __repr__(self) -> str:
        return f"Sender(rows={len(self)})"

    def split(self, sizes: Sequence[int]) -> list[Sender]:
        """Return one sender per group of rows; this one is not used any more.

        Raises:
            ParameterError: the sizes do not add up to the rows.
        """
        parts = zip(_parts(self._images, sizes), _parts(self._flipped, sizes), strict=True)
        return [Sender(*part) for part in parts]

    def drop(self, values: Words, label: bytes) -> tuple[Words, Words]:
        """Return the message to the receiver and the own share of -m v, shape ``[rows]`` each.

        Raises:
            ParameterError: the label was used before or is empty, or the values have another shape or type.
        """
        if values.dtype != np.int64 or values.shape != (len(self),):
            raise ParameterError(
                f"expected values of shape [{len(self)}] int64, got {values.shape} {values.dtype}"
            )
        tweak = self._labels.tweak(label)
        share = _hashed(self._images, tweak)
        return share - _hashed(self._flipped, tweak) + values, share


class Receiver:
    """The party with the bits."""

    __slots__ = ("_bits", "_images", "_labels")

    def __init__(self, bits: NDArray[np.bool_], images: Halves) -> None:
        """Take the bits and pi(t) per row, shape ``[rows, 2]``."""
        self._bits = bits
        self._images = images
        self._labels = _Labels(set())

    def __len__(self) -> int:
        return len(self._bits)

    def __repr__(self) -> str:
        return f"Receiver(rows={len(self)})"

    def split(self, sizes: Sequence[int]) -> list[Receiver]:
        """Return one receiver per group of rows; this one is not used any more.

        Raises:
            ParameterError: the sizes do not add up to the rows.
        """
        parts = zip(_parts(self._bits, sizes), _parts(self._images, sizes), strict=True)
        return [Receiver(*part) for part in parts]

    def drop(self, message: Words, label: bytes) -> Words:
        """Return the own share of -m v, shape ``[rows]``.

        Raises:
            ParameterError: the label was used before or is empty.
            ProtocolError: the message has another shape or type.
        """
        if message.dtype != np.int64 or message.shape != (len(self),):
            raise ProtocolError(f"expected {len(self)} words, got {message.shape} {message.dtype}")
        found = _hashed(self._images, self._labels.tweak(label))
        share: Words = -(found + np.where(self._bits, message, 0))
        return share


def _parts(rows: NDArray[T], sizes: Sequence[int]) -> list[NDArray[T]]:
    if sum(sizes) != len(rows) or min(sizes, default=0) < 0:
        raise ParameterError(f"expected sizes that add up to {len(rows)} rows, got {sum(sizes)}")
    return np.split(rows, np.cumsum(sizes)[:-1])


def _elements(joined: bytes) -> list[bytes]:
    return [joined[start : start + ELEMENT_BYTES] for start in range(0, len(joined), ELEMENT_BYTES)]


def _seed(number: int, offer: bytes, point: bytes, shared: bytes) -> bytes:
    return hashlib.sha256(b"fedshare base transfer v1|" + bytes([number]) + offer + point + shared).digest()


def _expanded(seed: bytes, size: int) -> NDArray[np.uint8]:
    return np.frombuffer(Stream(seed).read(size), dtype=np.uint8)


def _permuted(blocks: Halves) -> Halves:
    # One public permutation over independent blocks is the construction: no message has a pattern to show.
    permutation = Cipher(algorithms.AES(_PERMUTATION_KEY), modes.ECB()).encryptor()  # noqa: S305
    return np.frombuffer(permutation.update(blocks.tobytes()), dtype=np.uint64).reshape(-1, 2)


def _images(columns: NDArray[np.uint8], rows: int) -> Halves:
    """Return pi of the key of every row, shape ``[rows, 2]``: bit j of a row's key stands in column j."""
    images = np.empty((rows, 2), dtype=np.uint64)
    for start in range(0, rows, _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, rows)
        bits = np.unpackbits(columns[:, start // 8 : -(-stop // 8)], axis=1)[:, : stop - start]
        images[start:stop] = _permuted(np.ascontiguousarray(np.packbits(bits.T, axis=1)).view(np.uint64))
    return images


def _hashed(images: Halves, tweak: Halves) -> Words:
    """Return the low 64 bits of pi(pi(x) xor tweak) xor pi(x) per row."""
    hashed = np.empty(len(images), dtype=np.int64)
    for start in range(0, len(images), _CHUNK_ROWS):
        chunk = images[start : start + _CHUNK_ROWS]
        hashed[start : start + _CHUNK_ROWS] = (_permuted(chunk ^ tweak) ^ chunk)[:, 0].view(np.int64)
    return hashed
