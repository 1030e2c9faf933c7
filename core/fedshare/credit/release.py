"""Which cells of a table of sums may be shown: none that says something about few customers, now or by comparison.

A table has one cell per industry, or per region, and a total. Showing a total and all cells but one shows that one, so
cells are left out in company (complementary suppression); and two answers at different times show their difference, so
a cell is shown again only if enough customers changed in it, or none (differencing check). Cells left out appear as one
sum, the rest, and stay left out; and what is in the rest must be enough when all that earlier answers showed of it, and that
has not changed, is taken from it. Decisions look at counts only, which are summed before any amount is.

    >>> plan = plan_release(customers, minimum=30)
    >>> later = plan_release(customers_now, minimum=30, earlier=[Earlier(plan, changed)])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedshare.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Earlier", "ReleasePlan", "plan_release"]


@dataclass(frozen=True, slots=True, eq=False)
class ReleasePlan:
    """What is shown of a table.

    Attributes:
        shown: whether each cell is shown by itself, shape ``[C]``.
        withheld: nothing is shown at all, not even the total.
    """

    shown: NDArray[np.bool_]
    withheld: bool

    @property
    def has_rest(self) -> bool:
        """Whether any cell is left out."""
        return not bool(self.shown.all())

    def groups(self) -> NDArray[np.int64]:
        """Return the group in whose sum each cell is: those shown in order, then one for the rest, shape ``[C]``."""
        return np.where(self.shown, np.cumsum(self.shown) - 1, np.count_nonzero(self.shown)).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Earlier:
    """An answer given before.

    Attributes:
        plan: what it showed.
        changed: customers of each cell who came, left or have another amount since, shape ``[C]``. Nobody moves between cells:
            who did would cancel in the sum over both and hide others' changes there.
    """

    plan: ReleasePlan
    changed: NDArray[np.int64]


def plan_release(
    customers: NDArray[np.int64],
    *,
    minimum: int,
    earlier: Sequence[Earlier] = (),
    within: NDArray[np.bool_] | None = None,
) -> ReleasePlan:
    """Return which cells to show.

    Whatever is shown, the rest included, is about at least ``minimum`` customers or none, and since every earlier answer
    at least ``minimum`` of them changed or none. No cell is shown that an earlier answer left out, so that the rest only
    grows and no two answers together show more than each of these sums and its change. Empty cells are shown, and hide nobody.

    Args:
        customers: of each cell, shape ``[C]``: of all banks, or, for what a bank could work out by subtracting its own
            part, of all others.
        minimum: the minimum cohort, at least 1.
        earlier: every answer given before about the same cells, with changes of the same customers.
        within: cells that may be shown at most; all if not given.

    Raises:
        ParameterError: shapes differ, a count is negative, or the minimum is below 1.
    """
    for counts in (customers, *(each.changed for each in earlier)):
        if counts.shape != customers.shape or counts.ndim != 1 or (counts < 0).any():
            raise ParameterError(
                f"expected {customers.shape} counts of at least 0, found shape {counts.shape}"
            )
    if minimum < 1:
        raise ParameterError("the minimum cohort is at least 1")
    shown = (customers == 0) | (customers >= minimum)
    for answer in earlier:
        if not answer.plan.withheld:
            shown &= answer.plan.shown
    if within is not None:
        shown &= within
    while True:
        hidden = _first_problem(shown, customers, minimum, earlier)
        if hidden is None:
            return ReleasePlan(shown, withheld=False)
        if not (hidden & shown).any():
            return ReleasePlan(np.zeros_like(shown), withheld=True)
        shown = shown & ~hidden


def _first_problem(
    shown: NDArray[np.bool_], customers: NDArray[np.int64], minimum: int, earlier: Sequence[Earlier]
) -> NDArray[np.bool_] | None:
    """Return cells to hide as well, none of them shown if that is no help, or None if all is well."""
    # What is left of a sum that holds the cell when the cell's sum of an earlier answer is taken from it, or is not.
    left = customers.copy()
    given = [answer for answer in earlier if not answer.plan.withheld]
    for answer in given:
        few = (answer.changed > 0) & (answer.changed < minimum) & shown
        if few.any():
            return few
        left = np.where(answer.plan.shown, np.minimum(left, answer.changed), left)
    rests = [int(left[~shown].sum())]
    rests += [
        int(left[~shown & answer.plan.shown].sum() + answer.changed[~answer.plan.shown].sum())
        for answer in given
    ]
    if any(0 < each < minimum for each in rests):
        return _next_smallest(shown & (left > 0), customers)
    return None


def _next_smallest(shown: NDArray[np.bool_], customers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the shown cell with fewest customers; no cell if none with customers is shown."""
    chosen = np.zeros_like(shown)
    candidates = np.flatnonzero(shown & (customers > 0))
    if candidates.size:
        chosen[candidates[np.argmin(customers[candidates])]] = True
    return chosen
