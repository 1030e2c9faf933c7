"""How much at most a contract lets pass, in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedshare.contract.model import Contract, Party

__all__ = ["MAX_POINTS", "bins_at_most", "columns_at_most", "sums_at_most"]

MAX_POINTS = 200
"""Points at which the leading bank may ask the others for the loss, in one iteration."""


def bins_at_most(party: Party) -> int:
    """Return the most bins that a party's columns are cut into, with one each for missing values."""
    return sum(column.bins + 1 for column in party.columns)


def sums_at_most(contract: Contract, holder: Party) -> int:
    """Return the most sums over customers that a holder is shown: its bins times the queries of every run."""
    return bins_at_most(holder) * (contract.model.max_iterations + 1) * contract.max_runs


def columns_at_most(contract: Contract) -> int:
    """Return how many columns of scores a holder releases in one serving run that lasts as long as the contract."""
    if contract.scoring is None:
        return 0
    seconds = (contract.valid_until - contract.valid_from).total_seconds()
    return 1 + int(seconds // contract.scoring.refresh_seconds)
