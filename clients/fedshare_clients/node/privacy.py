"""A label holder's privacy budget and the noise on its outcomes, kept in the node's state folder."""

from __future__ import annotations

import hmac
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedshare.errors import RefusedError
from fedshare.privacy.budget import asked_by, spent_by, verify_affordable, verify_noise
from fedshare.privacy.randomised_response import training_labels

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray

    from fedshare.contract.model import Contract
    from fedshare.privacy.budget import Spending

    from .config import PrivacyConfig
    from .data.table import Table
    from .state import NodeState

__all__ = ["PrivacyAccount"]

# Of the keyed hashes by which outcomes are pinned down; an unnoticed change of one has a chance of 2^-64.
_CUSTOMER_BYTES = 16
_OUTCOME_BYTES = 8


class PrivacyAccount:
    """What runs may take and have taken. Everything spent is on the disk before anything is released."""

    def __init__(
        self, party: str, config: PrivacyConfig, state: NodeState, now: Callable[[], datetime]
    ) -> None:
        self._party = party
        self._epoch = config.label_epoch
        self._state = state
        self._now = now
        self._limits = config.limits()
        self._limited = config.limited()
        self._without_noise = config.without_noise

    def verify(self, contract: Contract, table: Table) -> None:
        """Check, before anything is computed, that the budget has room for a run and that its noise is still good.

        Raises:
            RefusedError: ``privacy_budget_exceeded``, ``noise_missing`` or ``label_epoch_stale``.
        """
        asked = asked_by(contract, self._epoch)
        spent = self._state.privacy_spent()
        verify_affordable(spent, asked, self._limits, party=self._party)
        verify_noise(contract, spent, self._limited, self._without_noise, party=self._party)
        if contract.label_epsilon() is not None:
            self._verify_outcomes(table)

    def spend(self, run_id: int, contract: Contract) -> list[Spending]:
        """Return what a run takes, after storing it durably.

        Raises:
            RefusedError: another run has taken what was left, or noise that this one lacks.
            StorageError: the disk refused.
        """
        asked = asked_by(contract, self._epoch)

        def verify(spent: list[Spending]) -> None:
            verify_affordable(spent, asked, self._limits, party=self._party)
            # A run under noise may have begun since this one was checked.
            verify_noise(contract, spent, self._limited, self._without_noise, party=self._party)

        self._state.spend_privacy(run_id, asked, verify, self._now())
        return asked

    def outcomes(self, contract: Contract, table: Table) -> NDArray[np.float64]:
        """Return what training uses of the labels of ``table``, shape ``[n]``."""
        epsilon = contract.label_epsilon()
        if epsilon is None:
            return table.label
        return training_labels(table.label, table.identifiers, self._state.label_key(), self._epoch, epsilon)

    def statement(self, contract: Contract) -> dict[str, Any]:
        """Return what a run under ``contract`` took, and what all runs have taken, for this party's own result."""
        spendings, asked = self._state.privacy_spent(), asked_by(contract, self._epoch)
        return {
            each.mechanism: {
                "epsilon": each.epsilon,
                "delta": each.delta,
                "spent": asdict(spent_by(spendings, each.mechanism)),
                "limit": asdict(self._limits[each.mechanism]),
            }
            for each in asked
        }

    def _verify_outcomes(self, table: Table) -> None:
        """Pin the outcomes of this epoch down: the same flips on a changed outcome would show that it changed."""
        key = self._state.label_key()
        pinned = {}
        for identifier, label in zip(table.identifiers, table.label.tolist(), strict=True):
            customer = hmac.digest(key, b"fedshare customer|" + identifier, "sha256")[:_CUSTOMER_BYTES]
            outcome = hmac.digest(key, b"fedshare outcome|%d|" % label + identifier, "sha256")
            pinned[customer] = outcome[:_OUTCOME_BYTES]
        changed = self._state.pin_outcomes(self._epoch, pinned)
        if changed:
            raise RefusedError(
                "label_epoch_stale",
                f"outcomes have changed since label epoch {self._epoch} began: name another privacy.label_epoch, "
                "which takes from the budget anew, or restore them",
                party=self._party,
                private=True,
            )
