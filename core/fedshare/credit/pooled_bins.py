"""Bins of the columns that several banks have, from counts over the customers of all of them.

Quantiles over all customers come from sums of counts in cells, which a masked sum gives: first in some 256 coarse
cells, each of which holds the numbers between two values about a factor of four apart, then in the 256 fine cells of those
coarse ones that hold many customers. A fine cell is as wide as a bfloat16 is exact, 1/128 of the value, and edges of
bins are edges of cells: nobody sees another bank's value more closely than that, nor, where customers are few, than
the coarse cell. Categories are counted only if the contract lists them, so no bank sees another's spelling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .bins import ColumnSpec, Design
from .column import categories_of_counts, numbers_of_counts, verify_usable
from .values import MISSING, categorical_values, numeric_values

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from .bins import ColumnTable

__all__ = ["SharedColumnSpec", "fit_pooled_design"]


_COARSE = 256
# A coarse cell with less than this share of a bin stays whole: no edge then lies further off than this.
_SHARE_OF_A_BIN = 8


class SharedColumnSpec(ColumnSpec, Protocol):
    """What a contract says of a column that several banks have."""

    @property
    def categories(self) -> Sequence[str]: ...  # noqa: D102


def _cell_bounds() -> NDArray[np.float64]:
    """Return every finite bfloat16 in ascending order; a cell holds the numbers from one up to the next."""
    patterns = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    return np.unique(patterns[np.isfinite(patterns)].astype(np.float64))


_BOUNDS = _cell_bounds()


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """The counts of one numeric column, as far as they are known."""

    coarse: NDArray[np.int64]
    missing: int

    def thick(self, bins: int) -> NDArray[np.int64]:
        """Return the coarse cells to look into."""
        return np.flatnonzero(self.coarse * _SHARE_OF_A_BIN * bins > self.coarse.sum())

    def refined(
        self, thick: NDArray[np.int64], fine: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the lower bounds of all filled cells, the finest known, and their counts."""
        counts = np.zeros(len(_BOUNDS) + _COARSE, dtype=np.int64)
        counts[: len(self.coarse) * _COARSE : _COARSE] = self.coarse
        for cell, inside in zip(thick, fine.reshape(len(thick), _COARSE), strict=True):
            counts[cell * _COARSE : (cell + 1) * _COARSE] = inside
        filled = np.flatnonzero(counts)
        return _BOUNDS[filled], counts[filled]


def fit_pooled_design(
    table: ColumnTable,
    columns: Sequence[SharedColumnSpec],
    minimum: int,
    total: Callable[[str, NDArray[np.float64]], NDArray[np.float64]],
    *,
    party: str,
) -> Design:
    """Return this bank's rows under bins that are the same at every bank.

    Args:
        table: this bank's customers.
        columns: what the contract says of each column, the same at every bank.
        minimum: customers of all banks that each bin must have.
        total: the sum over banks; called twice, with integers.
        party: this bank, for the error.

    Raises:
        DataError: a cell of a numeric column is text or infinite, or over all banks a column is constant or has
            no two bins of ``minimum`` customers.
    """
    codes = [_codes(table, column, party) for column in columns]
    sizes = [_size(column) for column in columns]
    counts = [
        np.bincount(_coarse(each) if column.kind == "numeric" else each, minlength=size)
        for column, each, size in zip(columns, codes, sizes, strict=True)
    ]
    first = _split(total("customers per coarse cell", _joined(counts)), sizes)
    cells = {
        column.name: _Cells(summed[:-1], int(summed[-1]))
        for column, summed in zip(columns, first, strict=True)
        if column.kind == "numeric"
    }
    thick = [
        cells[column.name].thick(column.bins) if column.name in cells else np.empty(0, dtype=np.int64)
        for column in columns
    ]
    inside = [_inside(each, chosen) for each, chosen in zip(codes, thick, strict=True)]
    second = _split(total("customers per fine cell", _joined(inside)), [len(each) for each in inside])
    fitted = []
    for column, summed, chosen, fine in zip(columns, first, thick, second, strict=True):
        if column.kind == "numeric":
            known = cells[column.name]
            values, rows = known.refined(chosen, fine)
            bins = numbers_of_counts(
                column.name, values, rows, known.missing, column.bins, minimum, column.monotone
            )
            distinct = len(values) + (known.missing > 0)
        else:
            bins = categories_of_counts(
                column.name, _listed(column), summed[:-1], int(summed[-1]), column.bins, minimum
            )
            distinct = int(np.count_nonzero(summed))
        verify_usable(bins, distinct, minimum, party=party, source=table.source)
        fitted.append(bins)
    return Design.assigned(fitted, table, party=party)


def _listed(column: SharedColumnSpec) -> list[str]:
    """Return the categories that are counted: the contract's, and the missing one."""
    return [*column.categories, MISSING]


def _size(column: SharedColumnSpec) -> int:
    """Return how many counts a column has in the first sum; the last is of missing or of other values."""
    return (-(-len(_BOUNDS) // _COARSE) if column.kind == "numeric" else len(_listed(column))) + 1


def _codes(table: ColumnTable, column: SharedColumnSpec, party: str) -> NDArray[np.int64]:
    """Return the fine cell of every number, -1 where it is missing, or the position of every category."""
    cells = table.column(column.name)
    if column.kind == "categorical":
        listed = _listed(column)
        position = {category: index for index, category in enumerate(listed)}
        return np.array(
            [position.get(str(each), len(listed)) for each in categorical_values(cells)], np.int64
        )
    numbers = numeric_values(cells, party=party, source=table.source, field=column.name)
    found = np.maximum(np.searchsorted(_BOUNDS, numbers, side="right") - 1, 0)
    return np.where(np.isnan(numbers), -1, found).astype(np.int64)


def _coarse(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(codes < 0, -(-len(_BOUNDS) // _COARSE), codes // _COARSE)


def _inside(codes: NDArray[np.int64], thick: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the counts per fine cell of the chosen coarse cells, one coarse cell after another."""
    if not len(thick):
        return np.empty(0, dtype=np.int64)
    position = np.full(len(_BOUNDS) // _COARSE + 1, -1, dtype=np.int64)
    position[thick] = np.arange(len(thick))
    present = codes[codes >= 0]
    at = position[present // _COARSE]
    chosen = at >= 0
    return np.bincount(
        at[chosen] * _COARSE + present[chosen] % _COARSE, minlength=len(thick) * _COARSE
    ).astype(np.int64)


def _joined(counts: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    return np.concatenate(counts).astype(np.float64)


def _split(summed: NDArray[np.float64], sizes: Sequence[int]) -> list[NDArray[np.int64]]:
    return np.split(np.rint(summed).astype(np.int64), np.cumsum(sizes)[:-1])
