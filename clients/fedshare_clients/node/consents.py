"""Consents as a node checks them: under one contract, against what this node knows of withdrawals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fedshare.errors import RefusedError
from fedshare.identity.keys import decode_public_key
from fedshare.scoring.consent import (
    consent_digest,
    verify_consent,
    verify_in_force,
    verify_withdrawal,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from fedshare.contract.model import Contract
    from fedshare.scoring.consent import Consent, Withdrawal

__all__ = ["ConsentDesk", "Withdrawals", "consent_key"]


class Withdrawals(Protocol):
    """What a node remembers of consents that were taken back, durably."""

    def is_withdrawn(self, consent: str) -> bool:
        """Return whether the consent of this digest was taken back."""

    def save_withdrawal(self, contract: str, consent: str, enterprise: bytes, withdrawn_at: datetime) -> None:
        """Remember that a consent was taken back; the enterprise enters no training under the contract from now on."""

    def restore(self, contract: str, enterprise: bytes, given_at: datetime) -> None:
        """Let an enterprise enter training under the contract again that consented after all that it took back."""

    def withdrawn_enterprises(self, contract: str) -> set[bytes]:
        """Return the enterprises that enter no training under the contract with this digest."""


def consent_key(contract: Contract, party: str = "") -> bytes:
    """Return the key that attests consents under ``contract``.

    Raises:
        RefusedError: ``profile_not_agreed``: the contract does not let profiles be shown.
    """
    if contract.scoring is None or contract.scoring.profile is None:
        raise RefusedError(
            "profile_not_agreed",
            "the contract has no scoring.profile: no profile is shown under it",
            party=party,
        )
    return decode_public_key(contract.scoring.profile.consent_key)


@dataclass(frozen=True, slots=True)
class ConsentDesk:
    """See the module.

    Attributes:
        contract: the contract.
        withdrawals: what this node remembers.
        now: the time, with its zone.
    """

    contract: Contract
    withdrawals: Withdrawals
    now: Callable[[], datetime]

    def verify(self, envelope: bytes, bank: str) -> tuple[Consent, str]:
        """Return the consent in untrusted bytes, and its digest, if it lets ``bank`` see a profile now.

        An enterprise that took an earlier consent back enters training again.

        Raises:
            ProtocolError: it is not signed by the contract's key, or no consent.
            RefusedError: the contract shows no profiles, or the consent is not for this, over or withdrawn.
        """
        consent = verify_consent(envelope, consent_key(self.contract))
        digest = consent_digest(consent)
        withdrawn = self.withdrawals.is_withdrawn(digest)
        verify_in_force(consent, self.contract.digest(), bank, self.now(), withdrawn=withdrawn)
        self.withdrawals.restore(self.contract.digest(), consent.enterprise.encode(), consent.given_at)
        return consent, digest

    def withdraw(self, envelope: bytes) -> Withdrawal:
        """Remember the withdrawal in untrusted bytes, and return it. Raises as ``verify``."""
        withdrawal = verify_withdrawal(envelope, consent_key(self.contract))
        # Prevent a withdrawal from reaching contracts, and banks, that the consent had nothing to do with.
        if withdrawal.contract_digest != self.contract.digest():
            raise RefusedError("consent_differs", "the withdrawal is of a consent under another contract")
        self.withdrawals.save_withdrawal(
            withdrawal.contract_digest,
            withdrawal.consent,
            withdrawal.enterprise.encode(),
            withdrawal.withdrawn_at,
        )
        return withdrawal

    def withdrawn(self) -> set[bytes]:
        """Return the enterprises that have taken a consent back under the contract, and given none since."""
        return self.withdrawals.withdrawn_enterprises(self.contract.digest())
