"""Whether a party's rows still look like those that a model was trained on, column by column (CSI).

A party keeps how many of its rows were in each bin when it trained, and holds its rows of today against that. Both are its
own and stay with it.

    >>> kept = row_reference(Design.assigned(design.columns, table, party="tax"))      # in training
    >>> drifts = column_drifts(kept, table_of_today, party="tax")
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .bins import ColumnBins, Design
from .stability import stability_index

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from .bins import ColumnTable
    from .stability import Stability

__all__ = ["ColumnDrift", "column_drifts", "row_reference"]

_FALSE_ALARMS = 0.05


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """One column, then and now.

    Attributes:
        name: the column.
        labels: of its bins.
        before: share of the rows of training in each bin.
        now: share of the rows of today in each bin.
        stability: the index, and what it says; among unchanged columns, any one of all exceeds ``by_chance`` with a
            probability of at most 0.05.
    """

    name: str
    labels: tuple[str, ...]
    before: tuple[float, ...]
    now: tuple[float, ...]
    stability: Stability


def row_reference(design: Design) -> dict[str, Any]:
    """Return the bins, and how many rows are in each, as JSON values for ``column_drifts``."""
    return {"bins": design.to_dict(), "counts": _counts(design).tolist()}


def column_drifts(reference: Mapping[str, Any], table: ColumnTable, *, party: str) -> list[ColumnDrift]:
    """Return every column of the model, the one that has moved most first.

    Samples of this size are independent draws in the distribution behind ``by_chance``. Rows of the same enterprises at two
    times move less than that by chance, so it errs towards ``stable``.

    Args:
        reference: what ``row_reference`` gave when the model was trained.
        table: the rows of today.
        party: whose rows, for the error.

    Raises:
        DataError: a column is missing, a cell of a numeric one is text or infinite, or there is no row.
    """
    columns = [ColumnBins.from_dict(each) for each in reference["bins"]["columns"]]
    design = Design.assigned(columns, table, party=party)
    before, now = np.array(reference["counts"], dtype=np.int64), _counts(design)
    drifts = []
    for index, column in enumerate(columns):
        bins = slice(design.offsets[index], design.offsets[index + 1])
        # Bonferroni: with many columns, some would exceed the threshold of one by chance.
        found = stability_index(before[bins], now[bins], confidence=1.0 - _FALSE_ALARMS / len(columns))
        drifts.append(
            ColumnDrift(column.name, column.labels, _shares(before[bins]), _shares(now[bins]), found)
        )
    return sorted(drifts, key=lambda drift: -drift.stability.index)


def _counts(design: Design) -> NDArray[np.int64]:
    return np.bincount(design.codes.ravel(), minlength=design.width)


def _shares(counts: NDArray[np.int64]) -> tuple[float, ...]:
    return tuple((counts / counts.sum()).tolist())
