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


class _Log(_Terms):
    coordinator_key: str
    witnesses: dict[str, str]


class Terms(_Terms):
    """A contract's terms.

    Attributes:
        parties: who has to approve and may take part.
        code_digest: of the only code that may run.
        valid_from: first instant at which a run may be opened.
        valid_until: last instant.
        outputs: what may leave the institutions.
        scoring: how the model may be used; ``None`` if it may not.
        log: whose word counts in the log; ``None`` in a contract that does not say.
    """

    parties: tuple[PartyTerms, ...]
    code_digest: str
    valid_from: AwareDatetime
    valid_until: AwareDatetime
    outputs: _Outputs = _Outputs()
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

    def covers(self, seconds: int) -> bool:
        """Whether the contract is valid at a POSIX time."""
        return self.valid_from.timestamp() <= seconds <= self.valid_until.timestamp()
