"""The terms of a contract that an auditor can hold the log against.

Only what the rules need is read, so that an auditor of today can read the contract of tomorrow; a contract
that lacks one of these terms is refused.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from fedshare.errors import ProtocolError

__all__ = ["PartyTerms", "Terms"]


class _Terms(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class PartyTerms(_Terms):
    """A party as the contract names it."""

    id: str
    role: Literal["feature_holder", "label_holder"]
    identity_key: str


class _Outputs(_Terms):
    coordinator_metrics: bool = False


class _Scoring(_Terms):
    """That there is such a section is all that counts here."""


class _Spending(_Terms):
    epsilon: float
    delta: float = 0.0


class _Privacy(_Terms):
    labels: _Spending | None = None
    network: _Spending | None = None


class _Log(_Terms):
    coordinator_key: str
    witnesses: dict[str, str]


class _BetweenBanks(_Terms):
    lost_bank: Literal["end", "repeat", "recover"] = "end"


class Terms(_Terms):
    """A contract's terms.

    Attributes:
        parties: who has to approve and may take part.
        code_digest: of the only code that may run.
        valid_from: first instant at which a run may be opened.
        valid_until: last instant.
        outputs: what may leave the institutions.
        max_runs: so many runs may train; ``None`` in a contract that does not say.
        between_banks: whether a run goes on without a bank that was lost.
        privacy: the most that a run may take of each budget.
        scoring: how the model may be used; ``None`` if it may not.
        log: whose word counts in the log; ``None`` in a contract that does not say.
    """

    parties: tuple[PartyTerms, ...]
    code_digest: str
    valid_from: AwareDatetime
    valid_until: AwareDatetime
    outputs: _Outputs = _Outputs()
    max_runs: int | None = None
    between_banks: _BetweenBanks = _BetweenBanks()
    privacy: _Privacy = _Privacy()
    scoring: _Scoring | None = None
    log: _Log | None = None

    @classmethod
    def parse(cls, document: str, digest: str) -> Terms:
        """Read a contract's canonical JSON.

        Raises:
            ProtocolError: its digest is another, or it lacks a term.
        """
        if sha256(document.encode()).hexdigest() != digest:
            raise ProtocolError("the contract's text has another digest than the entry says")
        try:
            return cls.model_validate_json(document)
        except ValidationError as error:
            raise ProtocolError("the contract's text lacks a term that an audit needs") from error

    def role(self, party: str) -> str | None:
        """Return the party's role, or ``None`` if the contract does not name it."""
        return next((terms.role for terms in self.parties if terms.id == party), None)

    def expendable(self) -> frozenset[str]:
        """Return the parties without which a run may complete: label holders but the first, if the contract says so."""
        if self.between_banks.lost_bank == "end":
            return frozenset()
        banks = [party.id for party in self.parties if party.role == "label_holder"]
        return frozenset(banks[1:])

    def allows(self, mechanism: Literal["labels", "network"], epsilon: float, delta: float) -> bool:
        """Whether one run may take so much of the budget of ``mechanism``; decimals may have been rounded up."""
        most = self.privacy.labels if mechanism == "labels" else self.privacy.network
        return most is not None and epsilon <= most.epsilon + 1e-9 and delta <= most.delta + 1e-12

    def covers(self, seconds: int) -> bool:
        """Whether the contract is valid at a POSIX time."""
        return self.valid_from.timestamp() <= seconds <= self.valid_until.timestamp()
