"""The masked sum: several parties' vectors are added up, and nobody sees any of them.

Numbers stand in fixed point in Z_2^64. Every two parties share a seed; both expand it to the same words, one
adds them and the other subtracts them, so the masks cancel in the sum of all and a single masked vector is
uniform to everyone who lacks one of its seeds. A range check leaves room for all parties, so that the sum cannot
wrap. Where a party may be lost on the way, each vector carries a self mask as well and the seeds are shared
out: :mod:`.recovery`.

Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning",
section 4. The seeds have 32 bytes and the expansion is AES-256-CTR.

Assumes: a seed is known to its two parties only and used for one sum.

    words = masked(encode(values, bits=24, parties=3, what="update"), seeds_of_this_party)
    total = decode(add_up([words, *others]), bits=24)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedshare.errors import ParameterError
from fedshare.sealed.randomness import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["MAX_BITS", "add_up", "decode", "encode", "limit", "masked"]

Words: TypeAlias = NDArray[np.int64]

#: The most fractional bits: beyond, float64 has no finer steps for numbers near one.
MAX_BITS = 52

_SUM_BITS = 62  # one bit below the sign: the rounding of every term stays inside as well
_CHUNK_WORDS = 1 << 15  # 256 KiB: mask and total stay in the cache


def limit(bits: int, parties: int) -> float:
    """Return what every value's magnitude must stay below: 2^(62 - bits) / parties.

    Raises:
        ParameterError: ``bits`` is not between 0 and 52 or ``parties`` not positive.
    """
    if not 0 <= bits <= MAX_BITS or parties < 1:
        raise ParameterError(
            f"expected 0 to {MAX_BITS} fractional bits and at least one party, found {bits} and {parties}"
        )
    return 2.0 ** (_SUM_BITS - bits) / parties


def encode(values: NDArray[np.float64], *, bits: int, parties: int, what: str) -> Words:
    """Return ``values`` in fixed point, rounded to multiples of 2^-``bits``.

    Args:
        values: this party's contribution, shape ``[n]``.
        bits: fractional bits, the same at every party.
        parties: how many contributions will be added up.
        what: names the sum in an error.

    Raises:
        ParameterError: a value is not finite or reaches ``limit(bits, parties)``, so that the sum might wrap.
    """
    bound = limit(bits, parties)
    # Not `(abs >= bound).any()`: a NaN must not pass.
    if not np.all(np.abs(values) < bound):
        found = "not finite" if not np.isfinite(values).all() else f"{bound:g} or larger in magnitude"
        raise ParameterError(
            f"{what}: a value is {found}; every value must be finite and smaller than {bound:g}, so that the "
            f"sum of {parties} parties fits"
        )
    words: Words = np.rint(values * 2.0**bits).astype(np.int64)
    return words


def decode(words: Words, *, bits: int) -> NDArray[np.float64]:
    """Return the values of fixed-point ``words``."""
    return words.astype(np.float64) * 2.0**-bits


def masked(words: Words, seeds: Iterable[tuple[int, bytes]]) -> Words:
    """Return ``words`` plus the mask of every seed, modulo 2^64.

    Args:
        words: shape ``[n]``.
        seeds: sign, +1 or -1, and 32 bytes; of the two holders of a seed one takes each sign.

    Raises:
        ParameterError: a sign is neither, or a seed not 32 bytes.
    """
    total: Words = words.astype(np.int64, copy=True)
    for sign, seed in seeds:
        if sign not in (1, -1):
            raise ParameterError(f"expected the sign of a mask to be 1 or -1, found {sign}")
        stream = Stream(seed)
        add = np.add if sign > 0 else np.subtract
        for start in range(0, len(total), _CHUNK_WORDS):
            part = total[start : start + _CHUNK_WORDS]
            add(part, stream.uniform((len(part),)), out=part)
    return total


def add_up(vectors: Sequence[Words]) -> Words:
    """Return the sum of masked vectors of one length, modulo 2^64.

    Raises:
        ParameterError: there is none, or their lengths differ.
    """
    if len({len(vector) for vector in vectors}) != 1:
        raise ParameterError("expected at least one vector, and all of one length")
    total: Words = np.zeros(len(vectors[0]), dtype=np.int64)
    for vector in vectors:
        total += vector
    return total
