"""Which customers of a bank stay out of a run, because its sums beside those of earlier runs would show few of them.

``fedshare.privacy.differences`` decides; this module says what a run sums over, and remembers it before anything is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from fedshare.privacy.differences import Marks, hold_back
from fedshare.privacy.dropped import verify_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from fedshare.contract.model import Contract

    from .data.table import Table

__all__ = ["SumMemory", "held_back"]


class SumMemory(Protocol):
    """Where a bank remembers over whom its sums were, whatever the contract."""

    def extend_sums(self, choose: Callable[[bytes, list[Marks]], Sequence[Marks]]) -> None:
        """Store durably what ``choose`` returns for the key of the marks and all that is stored; no two calls overlap.

        Raises:
            RefusedError: of ``choose``; nothing is stored then.
            StorageError: the disk refused; nothing may be sent then.
        """

    def ever_droppable(self) -> list[Marks]:
        """Return who this bank might have dropped, for each bank that it drops shared customers for."""


def held_back(
    memory: SumMemory,
    contract: Contract,
    party: str,
    table: Table,
    labels: NDArray[np.float64],
    training: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Return which customers of ``table`` must not enter the run, after remembering the others.

    Training customers are in sums that leave the bank, held-out ones only where there are several. With ``privacy.network``
    nothing leaves without noise, and nobody is held back.

    Args:
        memory: of this bank.
        contract: of the run.
        party: this bank.
        table: the customers that could take part.
        labels: their outcomes as training uses them, shape ``[n]``.
        training: which of them train, shape ``[n]``.

    Raises:
        RefusedError: ``few_customers_changed``.
    """
    held = np.zeros(len(table), dtype=np.bool_)
    if contract.privacy.network is not None:
        return held
    groups = np.where(training, 0, 1)
    summed = training if len(contract.banks()) == 1 else np.ones(len(table), dtype=np.bool_)
    wholes = memory.ever_droppable()

    def choose(key: bytes, earlier: list[Marks]) -> list[Marks]:
        identifiers = [table.identifiers[row] for row in np.flatnonzero(summed).tolist()]
        marks = Marks.of(key, identifiers, labels[summed], table.weight[summed])
        held[summed] = hold_back(marks, groups[summed], earlier, contract.minimum_cohort, party=party)
        verify_whole(wholes, marks.take(~held[summed] & training[summed]), party=party)
        return [marks.take(~held[summed] & (groups[summed] == group)) for group in np.unique(groups[summed])]

    memory.extend_sums(choose)
    return held
