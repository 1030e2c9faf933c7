"""What runs in which a bank's shared customers are dropped ask of all its later runs.

The bank does not know whom it dropped, and so not over whom the sums were. If some of those who might have been dropped were in
later sums and others not, the difference of two runs might show a single one, however many the bank holds back. So they stay
together, with the same outcomes and weights: whole, they are two groups of the minimum cohort at least, those who were
dropped and the others, as the other bank checks before it drops anyone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedshare.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .differences import Marks

__all__ = ["droppable", "may_drop", "verify_whole"]


def droppable(marks: Marks, earlier: Sequence[Marks], dropped: Sequence[Marks]) -> NDArray[np.bool_]:
    """Return which customers may be dropped from now on, shape ``[n]``: the most that were in the same sums so far.

    Args:
        marks: of the customers of a run's training sums.
        earlier: who was in each sum of every earlier run.
        dropped: who might have been dropped in earlier ones; nobody may be dropped by two other banks.
    """
    before = [np.isin(*pair) for each in earlier for pair in zip(marks.kinds(), each.kinds(), strict=True)]
    taken = np.zeros(len(marks.customers), dtype=np.bool_)
    for each in dropped:
        taken |= np.isin(marks.customers, each.customers)
    memberships = np.stack([taken, *before], axis=1)
    _, alike, sizes = np.unique(memberships[~taken], axis=0, return_inverse=True, return_counts=True)
    chosen = np.zeros(len(taken), dtype=np.bool_)
    if len(sizes):
        chosen[~taken] = alike.ravel() == np.argmax(sizes)
    return chosen


def may_drop(shared: int, droppable_count: int, own: int, minimum: int) -> bool:
    """Return whether ``shared`` customers may be dropped: neither they nor either bank's rest are fewer than ``minimum``."""
    return minimum <= shared <= min(droppable_count, own) - minimum


def verify_whole(wholes: Sequence[Marks], present: Marks, *, party: str) -> None:
    """Check that every group of customers that must stay together is ``present``, with all outcomes as before.

    Outcomes that have all changed will not do: if the unit of all weights or the noise changed, and one outcome with it,
    multiples of two runs' sums would differ by that one.

    Raises:
        RefusedError: ``few_customers_changed``: some are missing. The message does not say how many.
    """
    for whole in wholes:
        unchanged = np.isin(whole.outcomes, present.outcomes).all()
        if not unchanged or not np.isin(whole.customers, present.customers).all():
            raise _refusal(party)


def _refusal(party: str) -> RefusedError:
    return RefusedError(
        "few_customers_changed",
        "customers of an earlier run that dropped shared customers are gone, held back or held out, or have another outcome, "
        "weight or noise: the runs' difference might show a single one, so all of them must take part; take their earlier rows",
        party=party,
        private=True,
    )
