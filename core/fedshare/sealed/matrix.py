"""The two matrices of a sealed product: the public one of the ring, and a holder's private one.

``PublicMatrix`` is A = (a_1, ..., a_J), one uniform ring element for every block of 4096 rows, expanded from
a seed that nobody chose. ``OneHot`` and ``Dense`` are a holder's X. ``hint`` is H = X^T A: for every column x

    H_x = sum_j a_j(Y^-1) x_j     so that     <x, (a_j s)_j> = <H_x, s>   for every s.

Everything streams over blocks: beyond X itself and H no array grows with the number of rows.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import scipy.sparse

from fedshare.errors import ParameterError
from fedshare.sealed.randomness import SEED_BYTES, Stream
from fedshare.sealed.ring import (
    RING_DIMENSION,
    Words,
    add_up_limbs,
    exact_bound,
    inverse,
    limb_spectra,
    spectrum,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MAX_ABS_X", "MAX_COLUMNS", "Dense", "OneHot", "PrivateMatrix", "PublicMatrix", "hint"]

#: Columns one query may ask for; the security argument of ``docs/sealed.md`` is made for at most these.
MAX_COLUMNS = 1500

#: Largest absolute value in a dense column (exactness of the ring products).
MAX_ABS_X = 2**17

_COLUMN_GROUP = 32
_CHUNK_ROWS = 16 * RING_DIMENSION


class PublicMatrix:
    """The public ring elements for ``rows`` rows, regenerated from the seed whenever they are read."""

    __slots__ = ("_seed", "rows")

    def __init__(self, seed: bytes, rows: int) -> None:
        """Expand the contract's seed.

        Args:
            seed: 32 public bytes that no party chose, such as a hash of the signed contract.
            rows: rows of the holder's universe, at least 1.

        Raises:
            ParameterError: the seed is not 32 bytes or there are no rows.
        """
        if len(seed) != SEED_BYTES:
            raise ParameterError(f"expected a ring seed of {SEED_BYTES} bytes, got {len(seed)}")
        if rows < 1:
            raise ParameterError(f"expected at least one row, got {rows}")
        self._seed = bytes(seed)
        self.rows = rows

    def __repr__(self) -> str:
        return f"PublicMatrix(rows={self.rows})"

    @property
    def blocks(self) -> int:
        """J, the number of ring elements."""
        return -(-self.rows // RING_DIMENSION)

    def elements(self, start: int, stop: int) -> Words:
        """Return a_start, ..., a_(stop-1), counted from 0, shape ``[stop - start, 4096]``."""
        stream = Stream(self._seed, skip_bytes=start * RING_DIMENSION * 8)
        return stream.uniform((stop - start, RING_DIMENSION))


class PrivateMatrix(Protocol):
    """A holder's X, by columns and blocks of rows."""

    @property
    def rows(self) -> int:
        """Rows of the universe."""

    @property
    def columns(self) -> int:
        """Columns, at most 1,500."""

    @property
    def max_abs(self) -> int:
        """A bound on every entry."""

    def block(self, index: int, first: int, last: int) -> NDArray[Any]:
        """Return columns first..last-1 of block ``index``, padded to shape ``[last - first, 4096]``."""

    def transposed_product(self, words: Words) -> Words:
        """Return X^T words modulo 2^64, shape ``[columns]``."""


class OneHot:
    """Features in bins: every row has one 1 among the columns of each feature."""

    __slots__ = ("_codes", "columns")

    max_abs = 1

    def __init__(self, codes: NDArray[np.int32], columns: int) -> None:
        """Take the column index of every row and feature.

        Args:
            codes: shape ``[rows, features]`` int32, in 0..columns-1; no two features share columns.
            columns: m, at most 1,500.

        Raises:
            ParameterError: shape, type or range differ from the above.
        """
        _check_columns(columns)
        if codes.ndim != 2 or codes.dtype != np.int32 or codes.size == 0:
            raise ParameterError(
                f"expected codes of shape [rows, features] int32, got {codes.shape} {codes.dtype}"
            )
        ranges = sorted(zip(codes.min(axis=0).tolist(), codes.max(axis=0).tolist(), strict=True))
        if ranges[0][0] < 0 or max(last for _, last in ranges) >= columns:
            raise ParameterError(f"expected column indices in 0..{columns - 1}, some codes are outside")
        if any(following[0] <= previous[1] for previous, following in pairwise(ranges)):
            raise ParameterError("expected every feature to have columns of its own, two features share one")
        self._codes = np.ascontiguousarray(codes)
        self.columns = columns

    def __repr__(self) -> str:
        return f"OneHot(rows={self.rows}, features={self._codes.shape[1]}, columns={self.columns})"

    @property
    def rows(self) -> int:
        """Rows of the universe."""
        return len(self._codes)

    def block(self, index: int, first: int, last: int) -> NDArray[np.float64]:
        """Return columns first..last-1 of block ``index``, shape ``[last - first, 4096]``."""
        codes = self._codes[index * RING_DIMENSION : (index + 1) * RING_DIMENSION]
        rows, features = np.nonzero((codes >= first) & (codes < last))
        block = np.zeros((last - first, RING_DIMENSION))
        block[codes[rows, features] - first, rows] = 1.0
        return block

    def transposed_product(self, words: Words) -> Words:
        """Return X^T words modulo 2^64: unsigned arithmetic wraps, so every sum is exact."""
        rows, features = self._codes.shape
        total = np.zeros(self.columns, dtype=np.uint64)
        ones = np.ones(min(rows, _CHUNK_ROWS) * features, dtype=np.uint64)
        for start in range(0, rows, _CHUNK_ROWS):
            codes = self._codes[start : start + _CHUNK_ROWS]
            ends = np.arange(0, codes.size + 1, features, dtype=np.int32)
            chunk = scipy.sparse.csr_array(
                (ones[: codes.size], codes.ravel(), ends), shape=(len(codes), self.columns), copy=False
            )
            total += chunk.T @ words[start : start + _CHUNK_ROWS].view(np.uint64)
        return total.view(np.int64)


class Dense:
    """Bounded integer columns, kept in the narrowest integer type that holds them."""

    __slots__ = ("_values", "max_abs")

    def __init__(self, values: NDArray[np.int64]) -> None:
        """Take the matrix.

        Args:
            values: shape ``[rows, columns]`` int64, at most 1,500 columns, absolute values up to 2^17.

        Raises:
            ParameterError: shape, type or range differ from the above.
        """
        if values.ndim != 2 or values.dtype != np.int64 or values.size == 0:
            raise ParameterError(
                f"expected values of shape [rows, columns] int64, got {values.shape} {values.dtype}"
            )
        _check_columns(values.shape[1])
        low, high = int(values.min()), int(values.max())
        self.max_abs = max(-low, high, 1)
        if self.max_abs > MAX_ABS_X:
            raise ParameterError(
                f"expected absolute values up to {MAX_ABS_X}, some are larger: rescale the column"
            )
        self._values = np.ascontiguousarray(values, dtype=np.min_scalar_type(-self.max_abs))

    def __repr__(self) -> str:
        return f"Dense(rows={self.rows}, columns={self.columns})"

    @property
    def rows(self) -> int:
        """Rows of the universe."""
        return int(self._values.shape[0])

    @property
    def columns(self) -> int:
        """Columns."""
        return int(self._values.shape[1])

    def block(self, index: int, first: int, last: int) -> NDArray[np.float64]:
        """Return columns first..last-1 of block ``index``, shape ``[last - first, 4096]``."""
        values = self._values[index * RING_DIMENSION : (index + 1) * RING_DIMENSION, first:last]
        block = np.zeros((last - first, RING_DIMENSION))
        block[:, : len(values)] = values.T
        return block

    def transposed_product(self, words: Words) -> Words:
        """Return X^T words modulo 2^64, with 16-bit limbs of ``words`` in float64 matrix products.

        Exact: a chunk has at most 2^12 rows, so a sum stays below 2^12 * 2^17 * 2^16 < 2^53.
        """
        # A megabyte of float64 at a time stays in the processor's cache.
        chunk_rows = min(2**12, max(2**6, 2**17 // self.columns))
        total = np.zeros((self.columns, 4), dtype=np.int64)
        for start in range(0, self.rows, chunk_rows):
            values = self._values[start : start + chunk_rows].astype(np.float64)
            limbs = words[start : start + chunk_rows].astype("<i8", copy=False).view("<u2").reshape(-1, 4)
            total += (values.T @ limbs.astype(np.float64)).astype(np.int64)
        return np.asarray((total << np.array([0, 16, 32, 48])).sum(axis=1))


def hint(public: PublicMatrix, private: PrivateMatrix) -> Words:
    """Return H = X^T A, shape ``[columns, 4096]``: once per data set, secret like X itself.

    Raises:
        ParameterError: the matrices have different numbers of rows.
    """
    if private.rows != public.rows:
        raise ParameterError(f"expected a matrix of {public.rows} rows, got {private.rows}")
    hints = np.empty((private.columns, RING_DIMENSION), dtype=np.int64)
    for first in range(0, private.columns, _COLUMN_GROUP):
        last = min(first + _COLUMN_GROUP, private.columns)
        hints[first:last] = _hint_of_columns(public, private, first, last)
    return hints


def _hint_of_columns(public: PublicMatrix, private: PrivateMatrix, first: int, last: int) -> Words:
    """Return the hint's rows first..last-1, with as few inverse transforms as is exact."""
    width = 16 if private.max_abs <= exact_bound(16) else 8
    group = exact_bound(width) // private.max_abs
    total = np.zeros((last - first, RING_DIMENSION), dtype=np.int64)
    for start in range(0, public.blocks, group):
        stop = min(start + group, public.blocks)
        sums = np.zeros((64 // width, last - first, RING_DIMENSION // 2), dtype=np.complex128)
        for index in range(start, stop):
            # On the unit circle Y^-1 is the conjugate of Y, so a(Y^-1) has the conjugate spectrum.
            turned = limb_spectra(public.elements(index, index + 1), width).conj()
            block = spectrum(private.block(index, first, last))
            for number, limb in enumerate(turned):
                sums[number] += block * limb
        total += add_up_limbs(inverse(sums), width)
    return total


def _check_columns(columns: int) -> None:
    if not 1 <= columns <= MAX_COLUMNS:
        raise ParameterError(
            f"expected 1 to {MAX_COLUMNS} columns per query, got {columns}: ask in several queries"
        )
