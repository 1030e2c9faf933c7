"""Oblivious keys: RFC 9497 OPRF(ristretto255, SHA-512), mode 0x00, over libsodium's group (``rbcl``).

A bank blinds the identifiers of its customers, a holder evaluates them under its key without seeing them,
the bank finalizes; the holder derives the same keys for its whole universe. Of each 64-byte output the first
16 bytes are the row's pad key and the next 16 its public tag.

    blinds, blinded = blind(identifiers, os.urandom)        # bank
    evaluated = evaluate(key, blinded)                      # holder: learns how many
    keys = finalize(blinds, evaluated)                      # bank: equals the holder's derive(key, ...)

Assumes: one-more gap Diffie-Hellman in ristretto255, SHA-512 as a random oracle (RFC 9497 section 7). A bank
can have any identifier evaluated, not only its customers': cap and count the evaluations. Mode 0x00 does not
prove which key a holder used; semi-honest holders use one.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import rbcl

from fedshare.errors import ParameterError, ProtocolError
from fedshare.sealed.randomness import Randomness, fresh_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = [
    "ELEMENT_BYTES",
    "Blinds",
    "OprfKey",
    "RowKeys",
    "blind",
    "derive",
    "evaluate",
    "finalize",
    "hash_to_group",
]

ELEMENT_BYTES = 32

# RFC 9497 section 3.1 and 4.1: mode OPRF, suite ristretto255-SHA512.
_CONTEXT = b"OPRFV1-" + b"\x00" + b"-ristretto255-SHA512"
_GROUP_DST = b"HashToGroup-" + _CONTEXT
_KEY_DST = b"DeriveKeyPair" + _CONTEXT
# RFC 9496 section 4: the order of the group.
_ORDER = 2**252 + 27742317777372353535851937790883648493
_MAX_INPUT_BYTES = 2**16 - 1
# Rows a thread takes at a time; the group operations release the interpreter lock.
_BATCH = 256

_T = TypeVar("_T")
_U = TypeVar("_U")


@dataclass(frozen=True, slots=True)
class RowKeys:
    """The keys of rows, in the order of their identifiers.

    Attributes:
        pad_keys: secret, shape ``[rows, 16]`` uint8; opens sealed columns.
        tags: public names of the rows, shape ``[rows, 16]`` uint8.
    """

    pad_keys: NDArray[np.uint8] = field(repr=False)
    tags: NDArray[np.uint8] = field(repr=False)

    def __len__(self) -> int:
        return len(self.tags)


@dataclass(frozen=True, slots=True)
class OprfKey:
    """A holder's secret scalar."""

    _scalar: bytes = field(repr=False)

    @classmethod
    def generate(cls, randomness: Randomness) -> OprfKey:
        """Return a fresh key: RFC 9497 ``DeriveKeyPair`` of a random seed."""
        return cls.from_seed(fresh_seed(randomness), b"")

    @classmethod
    def from_seed(cls, seed: bytes, info: bytes) -> OprfKey:
        """Return the key of RFC 9497 section 3.2.1, ``DeriveKeyPair``.

        Raises:
            ParameterError: the seed is not 32 bytes or the info longer than 65,535.
        """
        if len(seed) != 32:
            raise ParameterError(f"expected a seed of 32 bytes, got {len(seed)}")
        material = seed + _prefixed(info)
        for counter in range(256):
            scalar = _reduce(_expand(material + bytes([counter]), _KEY_DST))
            if scalar:
                return cls(_scalar_bytes(scalar))
        raise ParameterError("no key follows from this seed: use another")

    @classmethod
    def from_bytes(cls, encoded: bytes) -> OprfKey:
        """Return the key that :meth:`to_bytes` encoded.

        Raises:
            ParameterError: not 32 bytes, zero, or not reduced modulo the group order.
        """
        if len(encoded) != 32 or not 0 < int.from_bytes(encoded, "little") < _ORDER:
            raise ParameterError("expected 32 bytes of a nonzero scalar below the group order")
        return cls(bytes(encoded))

    def to_bytes(self) -> bytes:
        """Return the secret scalar, 32 bytes little-endian: keep it like a private key."""
        return self._scalar


@dataclass(frozen=True, slots=True)
class Blinds:
    """What the bank keeps between :func:`blind` and :func:`finalize`; secret."""

    _identifiers: tuple[bytes, ...] = field(repr=False)
    _scalars: tuple[int, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self._scalars)


def blind(identifiers: Sequence[bytes], randomness: Randomness, *, workers: int = 1) -> tuple[Blinds, bytes]:
    """Return the blinding factors and the blinded elements (32 bytes each) of ``identifiers``.

    Args:
        identifiers: normalised, at most 65,535 bytes each.
        randomness: 64 bytes are drawn for each identifier.
        workers: threads to use.

    Raises:
        ParameterError: an identifier is too long, or maps to the identity (probability 2^-252).
    """
    drawn = randomness(64 * len(identifiers))
    if len(drawn) != 64 * len(identifiers):
        raise ParameterError(f"expected {64 * len(identifiers)} random bytes, got {len(drawn)}")
    scalars = tuple(_reduce(drawn[start : start + 64]) for start in range(0, len(drawn), 64))
    if 0 in scalars:
        raise ParameterError("a blinding factor is zero: the random source is broken")
    pairs = list(zip(identifiers, scalars, strict=True))
    elements = _map(lambda pair: _multiply(_scalar_bytes(pair[1]), hash_to_group(pair[0])), pairs, workers)
    return Blinds(tuple(identifiers), scalars), b"".join(elements)


def evaluate(key: OprfKey, blinded: bytes, *, workers: int = 1) -> bytes:
    """Return the blinded elements evaluated under ``key``, in their order.

    Raises:
        ProtocolError: the length is not a multiple of 32, or an element is not the canonical encoding of a
            group element other than the identity.
    """
    scalar = key.to_bytes()
    return b"".join(_map(lambda element: _multiply(scalar, element), _elements(blinded), workers))


def finalize(blinds: Blinds, evaluated: bytes, *, workers: int = 1) -> RowKeys:
    """Return the keys of the identifiers that were blinded.

    Raises:
        ProtocolError: the holder returned another number of elements, or an invalid one.
    """
    elements = _elements(evaluated)
    if len(elements) != len(blinds):
        raise ProtocolError(f"expected {len(blinds)} evaluated elements, got {len(elements)}")
    rows = list(zip(blinds._identifiers, _inverses(blinds._scalars), elements, strict=True))  # noqa: SLF001
    outputs = _map(lambda row: _output(row[0], _multiply(_scalar_bytes(row[1]), row[2])), rows, workers)
    return _row_keys(outputs)


def derive(key: OprfKey, identifiers: Sequence[bytes], *, workers: int = 1) -> RowKeys:
    """Return the keys of a holder's own rows (RFC 9497 section 3.3.1, ``Evaluate``).

    Raises:
        ParameterError: as :func:`blind`.
    """
    scalar = key.to_bytes()
    outputs = _map(lambda name: _output(name, _multiply(scalar, hash_to_group(name))), identifiers, workers)
    return _row_keys(outputs)


def _row_keys(outputs: Sequence[bytes]) -> RowKeys:
    rows = np.frombuffer(b"".join(outputs), dtype=np.uint8).reshape(len(outputs), 64)
    return RowKeys(np.ascontiguousarray(rows[:, :16]), np.ascontiguousarray(rows[:, 16:32]))


def _output(identifier: bytes, element: bytes) -> bytes:
    """RFC 9497 section 3.3.1, the hash of ``Finalize``."""
    return hashlib.sha512(_prefixed(identifier) + _prefixed(element) + b"Finalize").digest()


def _prefixed(text: bytes) -> bytes:
    if len(text) > _MAX_INPUT_BYTES:
        raise ParameterError(f"expected at most {_MAX_INPUT_BYTES} bytes, got {len(text)}")
    return len(text).to_bytes(2, "big") + text


def _expand(message: bytes, tag: bytes) -> bytes:
    """RFC 9380 section 5.3.1, ``expand_message_xmd`` with SHA-512 for 64 bytes: one output block."""
    suffix = tag + bytes([len(tag)])
    first = hashlib.sha512(bytes(128) + message + b"\x00\x40\x00" + suffix).digest()
    return hashlib.sha512(first + b"\x01" + suffix).digest()


def hash_to_group(identifier: bytes) -> bytes:
    """Return the group element of an identifier, 32 bytes (RFC 9380, ristretto255's one-way map).

    Raises:
        ParameterError: it is longer than 65,535 bytes.
    """
    if len(identifier) > _MAX_INPUT_BYTES:
        raise ParameterError(
            f"expected identifiers of at most {_MAX_INPUT_BYTES} bytes, got {len(identifier)}"
        )
    return bytes(rbcl.crypto_core_ristretto255_from_hash(_expand(identifier, _GROUP_DST)))


def _multiply(scalar: bytes, element: bytes) -> bytes:
    """Return scalar * element; libsodium refuses encodings that are not canonical and the identity."""
    try:
        return bytes(rbcl.crypto_scalarmult_ristretto255(scalar, element))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ProtocolError(
            "expected the canonical encoding of a ristretto255 element other than the identity"
        ) from error


def _elements(encoded: bytes) -> list[bytes]:
    if len(encoded) % ELEMENT_BYTES:
        raise ProtocolError(f"expected a multiple of {ELEMENT_BYTES} bytes of elements, got {len(encoded)}")
    return [encoded[start : start + ELEMENT_BYTES] for start in range(0, len(encoded), ELEMENT_BYTES)]


def _reduce(wide: bytes) -> int:
    return int.from_bytes(wide, "little") % _ORDER


def _scalar_bytes(scalar: int) -> bytes:
    return scalar.to_bytes(32, "little")


def _inverses(scalars: Sequence[int]) -> list[int]:
    """Return the inverses modulo the group order, with one inversion for all (Montgomery 1987)."""
    prefixes = [1]
    for scalar in scalars:
        prefixes.append(prefixes[-1] * scalar % _ORDER)
    running = pow(prefixes[-1], -1, _ORDER)
    inverses = [0] * len(scalars)
    for index in range(len(scalars) - 1, -1, -1):
        inverses[index] = running * prefixes[index] % _ORDER
        running = running * scalars[index] % _ORDER
    return inverses


def _map(function: Callable[[_T], _U], items: Sequence[_T], workers: int) -> list[_U]:
    if workers == 1 or len(items) <= _BATCH:
        return [function(item) for item in items]
    batches = [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda batch: [function(item) for item in batch], batches)
        return [result for batch in results for result in batch]
