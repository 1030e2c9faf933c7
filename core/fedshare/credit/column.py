"""The bins of one column: how its holder cuts it, and how thin bins are merged.

A numeric column is cut at quantiles into bins of at least a minimum count; a value so frequent that it fills
a bin alone gets one alone. Missing values have a bin of their own if there are enough of them. A categorical
column has one bin for each frequent category and one for all others. Every value there can ever be falls
into exactly one bin.

Merging follows counts only, never outcomes:

- a thin numeric bin joins its neighbour with fewer customers, thinnest bin first;
- a thin missing bin joins the numeric bin with most customers, the one that says least about an enterprise;
- a thin category joins the other categories; if those are thin together, the next smallest category joins
  them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedshare.errors import DataError

from .values import categorical_values, numeric_values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "ColumnBins",
    "categories_of_counts",
    "cut_column",
    "numbers_of_counts",
    "verify_usable",
]

Kind = Literal["numeric", "categorical"]
Monotone = Literal["none", "increasing", "decreasing"]


@dataclass(frozen=True, slots=True)
class ColumnBins:
    """The bins of one column.

    Attributes:
        name: the column.
        kind: ``numeric`` or ``categorical``.
        edges: numeric: ascending lower bounds of all ordered bins but the first, which has none.
        categories: categorical: the categories with a bin of their own, most frequent first.
        fallback: the bin of a missing number, or of a category not in ``categories``. It stands after all
            others if it is a bin of its own.
        monotone: the direction in which weights must go along the ordered bins.
    """

    name: str
    kind: Kind
    edges: tuple[float, ...]
    categories: tuple[str, ...]
    fallback: int
    monotone: Monotone = "none"

    @property
    def ordered(self) -> int:
        """How many bins, from the first on, stand in the order of the values; 0 for categories."""
        return len(self.edges) + 1 if self.kind == "numeric" else 0

    @property
    def size(self) -> int:
        """The number of bins."""
        named = self.ordered if self.kind == "numeric" else len(self.categories)
        return max(named, self.fallback + 1)

    @property
    def labels(self) -> tuple[str, ...]:
        """One readable label per bin."""
        rest = "missing" if self.kind == "numeric" else "other"
        named = (
            _intervals(self.edges)
            if self.kind == "numeric"
            else [each or "missing" for each in self.categories]
        )
        if self.fallback == len(named):
            return (*named, rest)
        named[self.fallback] += f" or {rest}"
        return tuple(named)

    def assign(self, values: NDArray[Any], *, party: str = "", source: str = "") -> NDArray[np.int32]:
        """Return the bin of every value, shape ``[n]``.

        Raises:
            DataError: a cell of a numeric column is text or infinite.
        """
        if self.kind == "categorical":
            return self._assign_categories(categorical_values(values))
        numbers = numeric_values(values, party=party, source=source, field=self.name)
        codes = np.searchsorted(np.array(self.edges), numbers, side="right")
        return np.where(np.isnan(numbers), self.fallback, codes).astype(np.int32)

    def merge(self, counts: NDArray[np.float64], minimum: float) -> tuple[ColumnBins, NDArray[np.int64]]:
        """Return bins with at least ``minimum`` customers each, and the new bin of every old bin.

        One bin alone may remain, with fewer customers or not: such a column carries no signal.

        Args:
            counts: customers per bin, shape ``[size]``; may be noisy.
            minimum: the smallest count a bin may have.
        """
        if self.kind == "numeric":
            return self._merge_ordered(counts, minimum)
        return self._merge_categories(counts, minimum)

    def to_dict(self) -> dict[str, Any]:
        """Return the bins as JSON values; ``from_dict`` is the inverse."""
        return {
            "name": self.name,
            "kind": self.kind,
            "edges": list(self.edges),
            "categories": list(self.categories),
            "fallback": self.fallback,
            "monotone": self.monotone,
            "labels": list(self.labels),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ColumnBins:
        """Return the bins that ``to_dict`` described.

        Raises:
            DataError: the document is not such a description.
        """
        try:
            bins = cls(
                name=str(document["name"]),
                kind=document["kind"],
                edges=tuple(float(edge) for edge in document["edges"]),
                categories=tuple(str(each) for each in document["categories"]),
                fallback=int(document["fallback"]),
                monotone=document["monotone"],
            )
            described = list(document["labels"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError("the description of the bins is incomplete or of another kind") from error
        ascending = all(low < high for low, high in pairwise(bins.edges)) and np.isfinite(bins.edges).all()
        known = bins.kind in ("numeric", "categorical") and bins.monotone in (
            "none",
            "increasing",
            "decreasing",
        )
        named = bins.ordered if bins.kind == "numeric" else len(bins.categories)
        if not (known and ascending and 0 <= bins.fallback <= named and described == list(bins.labels)):
            raise DataError("the description of the bins contradicts itself", field=bins.name)
        return bins

    def _assign_categories(self, texts: NDArray[np.str_]) -> NDArray[np.int32]:
        known, index = np.unique(texts, return_inverse=True)
        position = {category: code for code, category in enumerate(self.categories)}
        codes = np.array([position.get(str(each), self.fallback) for each in known], dtype=np.int32)
        return codes[index] if known.size else np.empty(0, dtype=np.int32)

    def _merge_ordered(
        self, counts: NDArray[np.float64], minimum: float
    ) -> tuple[ColumnBins, NDArray[np.int64]]:
        """Join thin ordered bins with neighbours, then a thin missing bin with the fullest of them."""
        runs = [[index] for index in range(self.ordered)]
        sizes = [float(count) for count in counts[: self.ordered]]
        own_missing = self.fallback == self.ordered
        while len(runs) > 1 and min(sizes) < minimum:
            thin = int(np.argmin(sizes))
            sides = [side for side in (thin - 1, thin + 1) if 0 <= side < len(runs)]
            left = min(thin, min(sides, key=lambda side: sizes[side]))
            runs[left : left + 2] = [runs[left] + runs[left + 1]]
            sizes[left : left + 2] = [sizes[left] + sizes[left + 1]]
        groups = np.empty(self.size, dtype=np.int64)
        for new, run in enumerate(runs):
            groups[run] = new
        if own_missing:
            keeps_missing = counts[self.fallback] >= minimum and min(sizes) >= minimum
            groups[self.fallback] = len(runs) if keeps_missing else int(np.argmax(sizes))
        edges = tuple(self.edges[run[0] - 1] for run in runs[1:])
        return replace(self, edges=edges, fallback=int(groups[self.fallback])), groups

    def _merge_categories(
        self, counts: NDArray[np.float64], minimum: float
    ) -> tuple[ColumnBins, NDArray[np.int64]]:
        """Join thin categories with the others, and more of them while the others are thin together."""
        named = len(self.categories)
        kept = [index for index in range(named) if counts[index] >= minimum]
        # Where no row was of another category, these share the fullest bin, and need one of their own only
        # if bins join.
        if self.fallback < named and len(kept) == named:
            return self, np.arange(named, dtype=np.int64)
        others = float(counts.sum() - counts[kept].sum())
        while kept and others < minimum:
            smallest = min(kept, key=lambda index: counts[index])
            kept.remove(smallest)
            others += float(counts[smallest])
        groups = np.full(self.size, len(kept), dtype=np.int64)
        groups[kept] = np.arange(len(kept))
        categories = tuple(self.categories[index] for index in kept)
        return replace(self, categories=categories, fallback=len(kept)), groups


def cut_column(
    name: str,
    values: NDArray[Any],
    *,
    kind: Kind,
    bins: int,
    minimum: int,
    monotone: Monotone = "none",
    party: str = "",
    source: str = "",
) -> tuple[ColumnBins, int]:
    """Return the bins of a column, one alone if it says nothing, and how many values it has, a missing one counting.

    Args:
        name: the column.
        values: one per row; numbers or text, missing cells None, NaN or blank.
        kind: ``numeric`` or ``categorical``.
        bins: how many bins at most, beside the one for missing or other values; at least 2.
        minimum: rows each bin must have.
        monotone: the direction weights must go; numeric columns only.
        party: who holds the column, for the error.
        source: the file or table, for the error.

    Raises:
        DataError: text or infinite values in a numeric column, or a direction for a categorical column.
    """
    if kind == "categorical" and monotone != "none":
        raise DataError(
            f"categories have no order; the contract must not ask for {monotone} weights",
            party=party,
            source=source,
            field=name,
        )
    if kind == "categorical":
        return _fit_categories(name, categorical_values(values), bins, minimum)
    numbers = numeric_values(values, party=party, source=source, field=name)
    return _fit_numbers(name, numbers, bins, minimum, monotone)


def verify_usable(bins: ColumnBins, distinct: int, minimum: int, *, party: str, source: str) -> None:
    """Check that a column says something.

    Args:
        bins: as fitted.
        distinct: how many values it has, a missing one counting as a value.
        minimum: rows each bin must have.
        party: who holds the column, for the error.
        source: the file or table, for the error.

    Raises:
        DataError: it is constant, or does not fill two bins.
    """
    if distinct < 2:
        message = "the column is constant; leave it out of the contract"
    elif bins.size < 2:
        message = (
            f"no two bins have {minimum} rows each; leave the column out of the contract or lower its "
            "minimum cohort"
        )
    else:
        return
    raise DataError(message, party=party, source=source, field=bins.name)


def _fit_categories(name: str, texts: NDArray[np.str_], bins: int, minimum: int) -> tuple[ColumnBins, int]:
    """Return bins for the most frequent categories, and how many categories there are."""
    distinct, rows = np.unique(texts, return_counts=True)
    return categories_of_counts(name, distinct.tolist(), rows, 0, bins, minimum), len(distinct)


def categories_of_counts(
    name: str,
    categories: Sequence[str],
    counts: NDArray[np.int64],
    others: int,
    bins: int,
    minimum: int,
) -> ColumnBins:
    """Return bins for the most frequent categories.

    Args:
        name: the column.
        categories: distinct.
        counts: rows of each.
        others: rows of categories that are not listed.
        bins: how many categories have a bin of their own at most.
        minimum: rows each bin must have; one bin alone may remain.
    """
    order = np.lexsort((np.array(categories, dtype=np.str_), -counts))[:bins]
    kept = counts[order].astype(np.float64)
    named = ColumnBins(name, "categorical", (), tuple(categories[index] for index in order), len(order))
    rest = others + int(counts.sum() - counts[order].sum())
    fitted, _ = (
        named.merge(np.append(kept, rest), max(minimum, 1))
        if rest
        else replace(named, fallback=0).merge(kept, minimum)
    )
    return fitted


def _fit_numbers(
    name: str, numbers: NDArray[np.float64], bins: int, minimum: int, monotone: Monotone
) -> tuple[ColumnBins, int]:
    """Return bins cut at quantiles, and how many values there are, a missing one counting as a value."""
    present = numbers[~np.isnan(numbers)]
    distinct, rows = np.unique(present, return_counts=True)
    missing = len(numbers) - len(present)
    fitted = numbers_of_counts(name, distinct, rows, missing, bins, minimum, monotone)
    return fitted, len(distinct) + (missing > 0)


def numbers_of_counts(
    name: str,
    values: NDArray[np.float64],
    counts: NDArray[np.int64],
    missing: int,
    bins: int,
    minimum: int,
    monotone: Monotone,
) -> ColumnBins:
    """Return bins cut at quantiles.

    Args:
        name: the column.
        values: ascending; a count may stand for all values from one up to the next.
        counts: rows of each, at least 1.
        missing: rows without a value.
        bins: how many at most, beside the one for missing values.
        minimum: rows each bin must have; one bin alone may remain.
        monotone: the direction weights must go.
    """
    edges = _quantile_edges(values, counts, bins, minimum)
    whole = ColumnBins(name, "numeric", edges, (), len(edges) + 1, monotone)
    placed = np.bincount(whole.assign(values), counts, minlength=whole.size).astype(np.float64)
    placed[whole.fallback] += missing
    # A missing bin without any row is merged away too, so that `fallback` says where a missing number goes.
    fitted, _ = whole.merge(placed, max(minimum, 1))
    return fitted


def _quantile_edges(
    distinct: NDArray[np.float64], rows: NDArray[np.int64], bins: int, minimum: int
) -> tuple[float, ...]:
    """Return lower bounds that cut the values into at most ``bins`` parts of nearly equal count.

    What is left is shared out afresh after each cut, so that a frequent value, which gets a bin alone, does
    not thin out the rest.
    """
    reach = np.cumsum(rows)
    present = int(reach[-1]) if len(reach) else 0
    edges: list[float] = []
    start = 0
    for left in range(bins, 1, -1):
        before = int(reach[start - 1]) if start else 0
        target = max((present - before) / left, minimum)
        end = int(np.searchsorted(reach, before + target))
        frequent = end < len(rows) and rows[end] >= target
        if frequent and end > start and reach[end - 1] - before >= minimum:
            end -= 1
        if end + 1 >= len(distinct) or present - reach[end] < minimum:
            break
        start = end + 1
        edges.append(float(distinct[start]))
    return tuple(edges)


def _intervals(edges: tuple[float, ...]) -> list[str]:
    """Return the labels of the ordered bins."""
    if not edges:
        return ["any"]
    inner = [f"[{low:g}, {high:g})" for low, high in pairwise(edges)]
    return [f"< {edges[0]:g}", *inner, f">= {edges[-1]:g}"]
