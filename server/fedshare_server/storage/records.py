"""The rows of the store as frozen values; times are aware and in UTC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "ContractRecord",
    "DecisionRecord",
    "EventRecord",
    "InvitationRecord",
    "LogRecord",
    "PartyRecord",
    "ProgressRecord",
    "RunRecord",
]


@dataclass(frozen=True, slots=True)
class PartyRecord:
    """An enrolled institution.

    Attributes:
        party: its id.
        role: ``feature_holder`` or ``label_holder``.
        identity_key: Ed25519 public key, 32 bytes.
        flower_key: its Flower node's public key, PEM.
        witness_key: verifier key of its witness.
        certificate_digest: SHA-256 of its TLS public key, hex.
        enrolled_at: when.
    """

    party: str
    role: str
    identity_key: bytes
    flower_key: str
    witness_key: str
    certificate_digest: str
    enrolled_at: datetime


@dataclass(frozen=True, slots=True)
class InvitationRecord:
    """An invitation, used or not.

    Attributes:
        key_digest: SHA-256 of the invitation's TLS public key, hex.
        party: who is invited.
        role: as what.
        replaces: the party is enrolled already and may bring new keys.
        expires_at: until when it can be used.
        used_at: when it was used, or ``None``.
    """

    key_digest: str
    party: str
    role: str
    replaces: bool
    expires_at: datetime
    used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ContractRecord:
    """A drafted contract.

    Attributes:
        digest: SHA-256 of ``canonical``, hex.
        name: for people; several contracts may share one.
        canonical: RFC 8785 JSON.
        parties: ids of those who have to sign, sorted.
        drafted_at: when.
    """

    digest: str
    name: str
    canonical: bytes
    parties: tuple[str, ...]
    drafted_at: datetime


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """A party's final word on a contract.

    Attributes:
        digest: of the contract.
        party: who decided.
        approved: whether it signed the contract.
        envelope: the DSSE envelope, JSON.
        decided_at: when it arrived.
        is_revoked: whether the party took its approval back.
    """

    digest: str
    party: str
    approved: bool
    envelope: bytes
    decided_at: datetime
    is_revoked: bool = False


@dataclass(frozen=True, slots=True)
class LogRecord:
    """Something that is said and not in the audit log yet.

    Attributes:
        number: the position in the order in which it is to be logged.
        data: an entry, or the coordinator's statement, which is still to be signed.
        is_signed: which of the two.
    """

    number: int
    data: bytes
    is_signed: bool


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run of a contract.

    Attributes:
        run_id: Flower's, 64 bits.
        digest: of the contract.
        phase: where it is or where it ended.
        status: ``running``, ``completed``, ``refused``, ``failed`` or ``aborted``.
        reason: the first cause if it did not complete.
        started_at: when.
        finished_at: when it ended, or ``None``.
        model_run: the training run whose model it serves; ``None`` if it trains.
    """

    run_id: int
    digest: str
    phase: str
    status: str
    reason: str
    started_at: datetime
    finished_at: datetime | None
    model_run: int | None = None


@dataclass(frozen=True, slots=True)
class ProgressRecord:
    """How far a party is.

    Attributes:
        run_id: the run.
        party: who reports.
        phase: of the run.
        iteration: of training, from 0.
        seconds: since the run began at the party.
        bytes_sent: of envelopes in the run so far.
        bytes_received: likewise.
        loss: mean training loss if the contract shows it to the coordinator.
        number: the position in the order of arrival; 0 before it is stored.
    """

    run_id: int
    party: str
    phase: str
    iteration: int
    seconds: float
    bytes_sent: int
    bytes_received: int
    loss: float | None = None
    number: int = 0


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something an operator may want to read later.

    Attributes:
        number: the position in the order of arrival.
        at: when.
        run_id: the run it is about, or ``None``.
        party: who caused it, or empty for the coordinator.
        kind: a stable word.
        text: one sentence without data.
    """

    number: int
    at: datetime
    run_id: int | None
    party: str
    kind: str
    text: str
