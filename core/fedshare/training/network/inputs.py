"""What a network sees of a bank's columns: one scaled number and a flag per numeric column, one code per category.

Both follow from the columns' bins, which all banks share, so that no bank sends a statistic of its own for them. A number is
placed among the edges of its column's bins: edges stand evenly between -1 and 1, which makes quantiles of them
uniform, and beyond the outer edges the distance grows as its logarithm. A missing number is 0, and its flag 1.

Source: Gorishniy, Rubachev, Khrulkov and Babenko 2021, "Revisiting Deep Learning Models for Tabular Data", section
4.3: quantile transformation of the features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedshare.credit.column import ColumnBins
from fedshare.credit.values import numeric_values
from fedshare.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from fedshare.contract.model import Column
    from fedshare.credit.bins import ColumnTable

__all__ = ["Inputs", "Schema", "encode", "public_bins"]

# Further out, a number says no more.
_LIMIT = 3.0
# Makes the variance of a number that is uniform on [-1, 1] one.
_SPREAD = 3.0**0.5


@dataclass(frozen=True, slots=True)
class Schema:
    """What a network is built for.

    Attributes:
        numeric: how many numbers per customer.
        categories: how many codes each categorical column has.
    """

    numeric: int
    categories: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Customers as a network sees them.

    Attributes:
        numeric: float32, shape ``[n, 2 F]``: the scaled numbers, then the flags.
        categories: int64, shape ``[n, C]``.
        schema: the same at every bank.
    """

    numeric: NDArray[np.float32]
    categories: NDArray[np.int64]
    schema: Schema

    @classmethod
    def joined(cls, parts: Sequence[Inputs]) -> Inputs:
        """Return the customers of all parts, which have one schema, one part after another."""
        return cls(
            np.concatenate([part.numeric for part in parts]),
            np.concatenate([part.categories for part in parts]),
            parts[0].schema,
        )


def encode(columns: Sequence[ColumnBins], table: ColumnTable, *, party: str) -> Inputs:
    """Return the rows of ``table`` as a network sees them.

    Args:
        columns: the bins of every column, the same at every bank.
        table: the rows.
        party: whose they are, for the error.

    Raises:
        DataError: a numeric column holds text or infinite values.
    """
    numbers, flags, codes = [], [], []
    for column in columns:
        cells = table.column(column.name)
        if column.kind == "categorical":
            codes.append(column.assign(cells, party=party, source=table.source))
            continue
        values = numeric_values(cells, party=party, source=table.source, field=column.name)
        is_missing = np.isnan(values)
        numbers.append(np.where(is_missing, 0.0, _place(values, np.array(column.edges))))
        flags.append(is_missing)
    return Inputs(
        _columns([*numbers, *flags], len(table)).astype(np.float32),
        _columns(codes, len(table)).astype(np.int64),
        Schema(2 * len(numbers), tuple(each.size for each in columns if each.kind == "categorical")),
    )


def public_bins(columns: Sequence[Column], ranges: Mapping[str, tuple[float, float]]) -> list[ColumnBins]:
    """Return bins that follow from the contract alone: even ones over each range, and the listed categories.

    Raises:
        ConfigError: a numeric column has no range.
    """
    found = []
    for column in columns:
        if column.kind == "categorical":
            found.append(
                ColumnBins(column.name, "categorical", (), column.categories, len(column.categories))
            )
            continue
        if column.name not in ranges:
            raise ConfigError(f"column {column.name} has no range in the contract")
        edges = np.linspace(*ranges[column.name], column.bins - 1) if column.bins > 2 else ranges[column.name]
        found.append(ColumnBins(column.name, "numeric", tuple(map(float, edges)), (), len(edges) + 1))
    return found


def _place(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where ``values`` stand among ascending ``edges``, scaled to unit variance between them."""
    positions = np.linspace(-1.0, 1.0, len(edges) + 2)[1:-1]
    step = 2.0 / (len(edges) + 1)
    width = edges[-1] - edges[0] or abs(edges[0]) or 1.0
    below, above = np.maximum(edges[0] - values, 0.0), np.maximum(values - edges[-1], 0.0)
    placed = np.interp(values, edges, positions)
    placed += step * (np.log1p(above / width * len(edges)) - np.log1p(below / width * len(edges)))
    placed_within: NDArray[np.float64] = np.clip(_SPREAD * placed, -_LIMIT, _LIMIT)
    return placed_within


def _columns(columns: Sequence[NDArray[Any]], rows: int) -> NDArray[Any]:
    return np.column_stack(columns) if columns else np.empty((rows, 0))
