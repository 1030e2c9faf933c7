"""A label holder's privacy budget and the noise on its outcomes, kept in the node's state folder."""

from __future__ import annotations

import hmac
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedshare.errors import RefusedError
from fedshare.privacy.budget import asked_by, spent_by, verify_affordable, verify_noise
from fedshare.privacy.randomised_response import training_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray

    from fedshare.contract.model import Contract
    from fedshare.privacy.budget import Spending

    from .config import PrivacyConfig
    from .data.table import Table
    from .state import NodeState

__all__ = ["PrivacyAccount", "verify_limits"]

# Of the keyed hashes by which outcomes are pinned down; an unnoticed change of one has a chance of 2^-64.
_CUSTOMER_BYTES = 16
_OUTCOME_BYTES = 8


def verify_limits(
    contract: Contract, config: PrivacyConfig, spent: Iterable[Spending], *, party: str
) -> None:
    """Check that a label holder's own settings leave room for a run, after runs that took ``spent``.

    Raises:
        RefusedError: ``privacy_budget_exceeded`` or ``noise_missing``; no later run of the contract would do better.
    """
    before = list(spent)
    verify_affordable(before, asked_by(contract, config.label_epoch), config.limits(), party=party)
    verify_noise(contract, before, config.limited(), config.without_noise, party=party)


class PrivacyAccount:
    """What runs may take and have taken. Everything spent is on the disk before anything is released."""

    def __init__(
        self, party: str, config: PrivacyConfig, state: NodeState, now: Callable[[], datetime]
    ) -> None:
        self._party = party
        self._config = config
        self._epoch = config.label_epoch
        self._state = state
        self._now = now

    def verify(self, contract: Contract, table: Table) -> None:
        """Check, before anything is computed, that the budget has room for a run and that its noise is still good.

        Raises:
            RefusedError: ``privacy_budget_exceeded``, ``noise_missing`` or ``label_epoch_stale``.
        """
        verify_limits(contract, self._config, self._state.privacy_spent(), party=self._party)
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
            # Another run, under noise or not, may have begun since this one was checked.
            verify_limits(contract, self._config, spent, party=self._party)

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
        limits = self._config.limits()
        return {
            each.mechanism: {
                "epsilon": each.epsilon,
                "delta": each.delta,
                "spent": asdict(spent_by(spendings, each.mechanism)),
                "limit": asdict(limits[each.mechanism]),
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
