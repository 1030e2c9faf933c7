"""Words of Z_2^64: as little-endian bytes on the wire, and as fixed-point numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedshare.errors import ParameterError, ProtocolError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["decode_fixed", "encode_fixed", "pack_words", "unpack_words", "verify_range"]


def pack_words(words: NDArray[np.int64]) -> bytes:
    """Return ``words`` as 8 little-endian bytes each."""
    return words.astype("<i8", copy=False).tobytes()


def unpack_words(data: bytes, count: int, what: str) -> NDArray[np.int64]:
    """Return the ``count`` words in ``data``, read-only.

    Raises:
        ProtocolError: ``data`` is not exactly ``count`` words; the message names ``what`` was expected.
    """
    if len(data) != 8 * count:
        raise ProtocolError(f"{what}: expected {count} words ({8 * count} bytes), got {len(data)} bytes")
    return np.frombuffer(data, dtype="<i8").astype(np.int64, copy=False)


def verify_range(words: NDArray[np.int64], step: str) -> None:
    """Check that the masks in a sum over banks cancelled: what remains of one is out of range in one word out of two.

    Raises:
        ProtocolError: they did not; the message names ``step``.
    """
    if np.any(words > 2**62) or np.any(words < -(2**62)):
        raise ProtocolError(
            f"{step}: the banks' masks do not cancel; every bank must run the code that the contract names"
        )


def encode_fixed(values: NDArray[np.float64], scale_bits: int, what: str) -> NDArray[np.int64]:
    """Return ``values`` in fixed point, rounded to multiples of 2^-``scale_bits``.

    Raises:
        ParameterError: a value is not finite or its magnitude reaches 2^(62 - ``scale_bits``).
    """
    limit = 2.0 ** (62 - scale_bits)
    if not np.all(np.abs(values) < limit):
        raise ParameterError(
            f"{what}: every value must be finite and smaller than 2^{62 - scale_bits} in magnitude; training has "
            "diverged or a column is not binned"
        )
    return np.rint(values * 2.0**scale_bits).astype(np.int64)


def decode_fixed(words: NDArray[np.int64], scale_bits: int) -> NDArray[np.float64]:
    """Return the values of fixed-point ``words``."""
    return words.astype(np.float64) * 2.0**-scale_bits
