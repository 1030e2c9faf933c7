"""Products with a one-hot matrix that is kept as codes, never as zeros and ones.

``codes[i, f]`` is the one column in which row ``i`` has a one within column group ``f``. All sums are
float64.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["OneHotMatrix"]

# Rows per chunk of a gather: keeps the intermediate [rows, F] array within a few MiB whatever n is.
_CHUNK_ROWS = 65_536


class OneHotMatrix:
    """The matrix X of shape ``[n, m]`` with one 1 per row and column group."""

    def __init__(self, codes: NDArray[np.int32], width: int) -> None:
        self.codes = codes
        self.width = width

    def times(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return X w, shape ``[n]``, for ``weights`` of shape ``[m]``."""
        scores = np.empty(len(self.codes))
        for start in range(0, len(self.codes), _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            np.take(weights, self.codes[chunk]).sum(axis=1, out=scores[chunk])
        return scores

    def transposed_times(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return X^T v, shape ``[m]``, for ``values`` of shape ``[n]``."""
        totals = np.zeros(self.width)
        for group in self.codes.T:
            totals += np.bincount(group, values, self.width)
        return totals

    def columns(self, values: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
        """Return the columns of diag(v) X, for ``values`` v of shape ``[n]``: what each row adds to each entry of X^T v."""
        for column in range(self.width):
            yield np.where((self.codes == column).any(axis=1), values, 0.0)

    def gram(self, row_weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return X^T diag(r) X, shape ``[m, m]``, for ``row_weights`` r of shape ``[n]``."""
        gram = np.diag(self.transposed_times(row_weights))
        if not len(self.codes):
            return gram
        low = self.codes.min(axis=0).astype(np.int64)
        sizes = self.codes.max(axis=0) - low + 1
        local = np.ascontiguousarray((self.codes - low).T)
        for left, right in combinations(range(len(local)), 2):
            pair = np.bincount(
                local[left] * sizes[right] + local[right], row_weights, int(sizes[left] * sizes[right])
            ).reshape(sizes[left], sizes[right])
            rows, columns = _span(low, sizes, left), _span(low, sizes, right)
            gram[rows, columns] = pair
            gram[columns, rows] = pair.T
        return gram


def _span(low: NDArray[np.int64], sizes: NDArray[np.int64], group: int) -> slice:
    return slice(int(low[group]), int(low[group] + sizes[group]))
