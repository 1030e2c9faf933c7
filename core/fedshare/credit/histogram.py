"""Scores of one bank or of many as sums over cells of a fixed grid: what evaluation over all banks is made of.

Everything here adds up over banks, so that masked sums can feed it, and comes in two steps: first the banks say in which
ranges of cells they have the minimum cohort, and cells are grouped so that two banks at least have it in each group; then
customers and outcomes are summed, over groups only. No number of customers below the minimum cohort is ever summed.

    >>> votes = sum(range_votes(cell_counts(bank.scores), minimum_cohort) for bank in banks)   # a masked sum
    >>> groups = voted_groups(votes)                                                           # the same at every bank
    >>> customers = sum(np.bincount(groups, cell_counts(bank.scores)) for bank in banks)       # a masked sum
    >>> sums = sum(cell_sums(b.labels, b.scores, b.weights, groups) for b in banks)            # a masked sum
    >>> histogram = ScoreHistogram.from_sums(groups, customers, sums)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from fedshare.errors import DataError, ParameterError

from .metrics import checked_sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "CELLS",
    "RANGES",
    "SUMS",
    "Bounded",
    "ScoreHistogram",
    "cell_counts",
    "cell_sums",
    "merge_cells",
    "range_votes",
    "voted_groups",
]

_LIMIT = 8.0
_STEPS_PER_UNIT = 32
_EDGES = np.arange(-_LIMIT * _STEPS_PER_UNIT, _LIMIT * _STEPS_PER_UNIT + 1) / _STEPS_PER_UNIT

CELLS = len(_EDGES) + 1
"""Cells of the grid: log-odds from -8 to 8 in steps of 1/32, and one beyond either end."""

RANGES = 2 * CELLS - 1
"""Ranges of cells about which the banks vote."""

_BANKS_PER_GROUP = 2

SUMS = ("weight", "default_weight", "pd", "pd_squared", "pd_default", "odds")
"""What ``cell_sums`` adds up per cell, weighted: 1, y, p, p^2, p y and p / (1 - p), the last for p up to 0.99966 only."""


@dataclass(frozen=True, slots=True)
class Bounded:
    """A figure of a histogram, and between which bounds the figure of the single scores lies for certain."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class ScoreHistogram:
    """Customers of ascending risk in groups; every array has shape ``[G]``.

    Attributes:
        upper: log-odds that no score of the group exceeds; infinite for the last.
        customers: how many there are.
        weight: sum of their weights.
        default_weight: sum of the weights of those that defaulted.
        pd: weighted sum of the predicted default probability p.
        pd_squared: weighted sum of p^2.
        pd_default: weighted sum of p over those that defaulted.
        odds: weighted sum of p / (1 - p).
    """

    upper: NDArray[np.float64]
    customers: NDArray[np.int64]
    weight: NDArray[np.float64]
    default_weight: NDArray[np.float64]
    pd: NDArray[np.float64]
    pd_squared: NDArray[np.float64]
    pd_default: NDArray[np.float64]
    odds: NDArray[np.float64]

    @classmethod
    def from_sums(
        cls, groups: NDArray[np.int64], customers: NDArray[np.int64], sums: NDArray[np.float64]
    ) -> ScoreHistogram:
        """Return the histogram of summed numbers of customers and ``cell_sums`` per group.

        Raises:
            ParameterError: the shapes are not those of one grid and one grouping.
        """
        size = int(groups[-1]) + 1
        if groups.shape != (CELLS,) or customers.shape != (size,) or sums.shape != (len(SUMS), size):
            raise ParameterError(
                f"expected {CELLS} cells and sums of shape {(len(SUMS), size)}, found {len(groups)} and {sums.shape}"
            )
        ends = np.append(_EDGES, np.inf)
        last = np.searchsorted(groups, np.arange(size), side="right") - 1
        return cls(ends[last], customers, *sums)

    @classmethod
    def of(
        cls, labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, *, minimum: int
    ) -> ScoreHistogram:
        """Return the histogram of one bank's own customers, in groups of at least ``minimum``."""
        counts = cell_counts(scores)
        groups = merge_cells(counts, minimum)
        customers = np.bincount(groups, counts).astype(np.int64)
        return cls.from_sums(groups, customers, cell_sums(labels, scores, weights, groups))

    def to_json(self) -> dict[str, list[float]]:
        """Return the arrays as JSON values, the last of ``upper`` left out: it is infinite; ``from_json`` is the inverse."""
        names = ("upper", "customers", *SUMS)
        arrays = {name: getattr(self, name).tolist() for name in names}
        return {**arrays, "upper": arrays["upper"][:-1]}

    @classmethod
    def from_json(cls, document: Mapping[str, Sequence[float]]) -> ScoreHistogram:
        """Return the histogram that ``to_json`` wrote.

        Raises:
            ParameterError: an array is missing or has another length.
        """
        arrays = [np.array(document.get(name, ()), dtype=np.float64) for name in SUMS]
        upper = np.append(document.get("upper", ()), np.inf)
        customers = np.array(document.get("customers", ()), dtype=np.int64)
        if any(each.shape != upper.shape for each in (customers, *arrays)):
            raise ParameterError(
                "expected a histogram of sums over groups, found arrays of different lengths"
            )
        return cls(upper, customers, *arrays)

    @property
    def default_rate(self) -> float:
        """The weighted share of customers that defaulted."""
        return float(self.default_weight.sum() / self.weight.sum())

    def auc(self) -> Bounded:
        """Return the AUC. Pairs within one group count one half, and could count nothing or one.

        Raises:
            DataError: either outcome has no weight.
        """
        bad, good = self._outcomes()
        wins = float(bad @ (np.cumsum(good) - good))
        tied = float(bad @ good)
        return Bounded(wins + tied / 2, wins, wins + tied)

    def ks(self) -> Bounded:
        """Return the largest distance at the groups' edges; within a group it may be larger. Raises as ``auc``."""
        bad, good = (np.append(0.0, np.cumsum(each)) for each in self._outcomes())
        at_edges = float(np.abs(bad - good).max())
        within = np.maximum(bad[1:] - good[:-1], good[1:] - bad[:-1])
        return Bounded(at_edges, at_edges, float(within.max()))

    def brier(self) -> float:
        """Return the mean squared difference of probability and outcome; exact, whatever the groups."""
        squares = self.pd_squared - 2 * self.pd_default + self.default_weight
        return float(squares.sum() / self.weight.sum())

    def _outcomes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the share of all defaulters, and of all others, in each group."""
        good = self.weight - self.default_weight
        if not (self.default_weight.sum() > 0 and good.sum() > 0):
            raise DataError("both outcomes, 0 and 1, are needed to measure a ranking; found one")
        return self.default_weight / self.default_weight.sum(), good / good.sum()


def cell_counts(scores: ArrayLike) -> NDArray[np.int64]:
    """Return the customers per cell, shape ``[CELLS]``.

    Args:
        scores: log-odds of default, shape ``[n]``.
    """
    return np.bincount(_cells(scores), minlength=CELLS)


def merge_cells(counts: NDArray[np.int64], minimum: int) -> NDArray[np.int64]:
    """Return the group of every cell, ascending from 0, so that each group has at least ``minimum`` customers.

    Raises:
        DataError: all customers together are fewer than ``minimum``.
    """
    total = int(counts.sum())
    if counts.shape != (CELLS,) or minimum < 1 or total < minimum:
        raise DataError(
            f"expected {CELLS} cells with at least {max(minimum, 1)} customers together, found {len(counts)} and {total}"
        )
    groups = np.empty(CELLS, dtype=np.int64)
    group, held, left = 0, 0, total
    for cell, count in enumerate(counts.tolist()):
        # The last group takes what would be too few for another one.
        if held >= minimum and left >= minimum:
            group, held = group + 1, 0
        groups[cell] = group
        held, left = held + count, left - count
    return groups


def range_votes(counts: NDArray[np.int64], minimum: int) -> NDArray[np.int64]:
    """Return of every range of cells whether it holds at least ``minimum`` customers: 0 or 1, shape ``[RANGES]``.

    The ranges are all cells, and the halves of each range that has several.

    Args:
        counts: of one bank's customers per cell, shape ``[CELLS]``.
        minimum: the minimum cohort.
    """
    ends = np.append(0, np.cumsum(counts))
    return np.array([ends[end] - ends[start] >= minimum for start, end in _ranges(0, CELLS)], dtype=np.int64)


def voted_groups(votes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the group of every cell, ascending from 0, so that two banks at least have the minimum cohort in each group.

    Whichever bank subtracts its own part is then left with the minimum cohort.

    Args:
        votes: ``range_votes`` summed over banks, shape ``[RANGES]``.

    Raises:
        DataError: fewer than two banks have the minimum cohort in all cells together.
    """
    if votes.shape != (RANGES,) or votes[0] < _BANKS_PER_GROUP:
        raise DataError("expected two banks at least with the minimum cohort of held-out customers")
    return np.searchsorted(_group_ends(votes, 0, CELLS, 0), np.arange(CELLS), side="right").astype(np.int64)


def _ranges(start: int, end: int) -> Iterator[tuple[int, int]]:
    yield start, end
    if end - start > 1:
        middle = (start + end) // 2
        yield from _ranges(start, middle)
        yield from _ranges(middle, end)


def _group_ends(votes: NDArray[np.int64], start: int, end: int, at: int) -> list[int]:
    """Return where the groups of a range end, none if it has too few votes; ``at`` is its place among all ranges."""
    if votes[at] < _BANKS_PER_GROUP:
        return []
    middle = (start + end) // 2
    if middle == start:
        return [end]
    left = _group_ends(votes, start, middle, at + 1)
    right = _group_ends(votes, middle, end, at + 2 * (middle - start))
    # A half with too few joins the nearest group of the other.
    return [*left, *right] if right else [*left[:-1], end]


def cell_sums(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None, groups: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return what ``SUMS`` names, per group, shape ``[len(SUMS), G]``.

    Args:
        labels: 0 or 1, shape ``[n]``.
        scores: log-odds of default, shape ``[n]``.
        weights: at least 0, shape ``[n]``; all 1 if not given.
        groups: the group of every cell.

    Raises:
        DataError: as ``metrics.roc_points``, but one outcome alone is allowed.
    """
    outcome, score, weight = checked_sample(labels, scores, weights)
    p = expit(score)
    odds = np.exp(np.minimum(score, _LIMIT))
    at, size = groups[_cells(score)], int(groups[-1]) + 1
    terms = (np.ones_like(p), outcome, p, p * p, p * outcome, odds)
    return np.stack([np.bincount(at, weight * term, size) for term in terms])


def _cells(scores: ArrayLike) -> NDArray[np.int64]:
    return np.searchsorted(_EDGES, np.asarray(scores, dtype=np.float64), side="left")
