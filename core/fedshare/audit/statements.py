"""What an entry says: one statement by one party about what it did or saw.

Every statement is a frozen model that refuses unknown fields. Its bytes are canonical JSON (RFC 8785) without
numbers other than integers, so that a statement has one spelling and everyone hashes the same bytes. Nothing
in a statement may identify an enterprise: not a code, not a row, not a plain hash of either (codes are public
and can be enumerated); use `fedshare.audit.commitments`.

::

    statement = Approval(issuer="bank-a", issued_at=1_700_000_000, contract_digest=digest)
    parse_statement(statement.to_bytes()) == statement
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from fedshare.errors import ProtocolError

__all__ = [
    "COORDINATOR",
    "MAX_TOTALS",
    "Approval",
    "ContractPublished",
    "Enrolment",
    "EnvelopeTotal",
    "Envelopes",
    "ModelManifest",
    "PhaseClosed",
    "PhaseOpened",
    "PrivacySpent",
    "PrivateEvent",
    "PrivateHead",
    "Refusal",
    "Rejection",
    "Revocation",
    "RunClosed",
    "RunOpened",
    "Scoring",
    "Statement",
    "parse_statement",
]

# The issuer name that no party may have.
COORDINATOR = "coordinator"

PartyId: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}\z")]
Word: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]{0,63}\z")]
Digest: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\z")]
# A 64-bit number as text: JSON numbers lose bits above 2^53.
RunId: TypeAlias = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,19})\z")]
PublicKey: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{43}=\z")]
Decimal: TypeAlias = Annotated[str, StringConstraints(pattern=r"^-?[0-9]{1,20}(\.[0-9]{1,20})?\z")]
Reason: TypeAlias = Annotated[str, StringConstraints(max_length=500)]
Count: TypeAlias = Annotated[int, Field(ge=0, le=2**53 - 1)]
# A contract of this length, quoted inside the statement, still fits an entry after base64.
Document: TypeAlias = Annotated[str, StringConstraints(max_length=40_000)]
# So many totals with the longest words fit an entry.
MAX_TOTALS = 128


class _Statement(BaseModel):
    """What every statement says.

    Attributes:
        issuer: the party that signs, or `COORDINATOR`.
        issued_at: POSIX seconds by the issuer's clock.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    issuer: PartyId
    issued_at: Count

    def to_bytes(self) -> bytes:
        """Return the canonical JSON."""
        return _canonical(self.model_dump(mode="json"))


class Enrolment(_Statement):
    """The issuer joins with these keys; signed with the identity key it names, which shows that it has it.

    A second enrolment replaces the key and must be signed by the key that it replaces.

    Attributes:
        role: as in the contract, or ``coordinator``.
        identity_key: base64 of the 32-byte Ed25519 key that signs the issuer's later statements.
        flower_key: the node's public key at the SuperLink, or empty.
        witness_key: the verifier key of the issuer's witness, or empty.
    """

    kind: Literal["enrolment"] = "enrolment"
    role: Literal["feature_holder", "label_holder", "coordinator"]
    identity_key: PublicKey
    flower_key: Annotated[str, StringConstraints(max_length=1000)] = ""
    witness_key: Annotated[str, StringConstraints(max_length=1000)] = ""


class ContractPublished(_Statement):
    """A contract is put to its parties.

    Attributes:
        contract_digest: SHA-256 of ``document``.
        document: the contract's canonical JSON.
    """

    kind: Literal["contract"] = "contract"
    contract_digest: Digest
    document: Document


class Approval(_Statement):
    """The issuer agrees to the contract."""

    kind: Literal["approval"] = "approval"
    contract_digest: Digest


class Rejection(_Statement):
    """The issuer does not agree to the contract."""

    kind: Literal["rejection"] = "rejection"
    contract_digest: Digest
    reason: Reason = ""


class Revocation(_Statement):
    """The issuer takes its approval back: no run may be opened under the contract from here on."""

    kind: Literal["revocation"] = "revocation"
    contract_digest: Digest
    reason: Reason = ""


class _RunStatement(_Statement):
    run_id: RunId
    contract_digest: Digest


class RunOpened(_RunStatement):
    """The coordinator starts a run.

    Attributes:
        code_digest: of the wheel that it asks the nodes to run.
        model_run: the training run whose model is served; empty in a run that trains.
    """

    kind: Literal["run_opened"] = "run_opened"
    code_digest: Digest
    model_run: RunId | Literal[""] = ""


class RunClosed(_RunStatement):
    """The run is over.

    Attributes:
        cause: a word, e.g. the code of the refusal that ended it; empty for a completed run.
    """

    kind: Literal["run_closed"] = "run_closed"
    outcome: Literal["completed", "failed", "refused"]
    cause: Word | Literal[""] = ""


class PhaseOpened(_RunStatement):
    """The coordinator asks the nodes to begin a phase; none releases anything before this is witnessed."""

    kind: Literal["phase_opened"] = "phase_opened"
    phase: Word


class PhaseClosed(_RunStatement):
    """All nodes have finished the phase."""

    kind: Literal["phase_closed"] = "phase_closed"
    phase: Word


class EnvelopeTotal(BaseModel):
    """All envelopes of one step between the issuer and one peer, in one direction.

    Attributes:
        count: of envelopes.
        size_bytes: of their wire forms together.
        digest: see `fedshare.audit.commitments.EnvelopeTally`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    step: Word
    peer: PartyId
    direction: Literal["sent", "received"]
    count: Annotated[int, Field(ge=1, le=2**53 - 1)]
    size_bytes: Count
    digest: Digest


class Envelopes(_RunStatement):
    """What the issuer sent and received in a phase; several statements may share a phase, a total may not."""

    kind: Literal["envelopes"] = "envelopes"
    phase: Word
    totals: Annotated[list[EnvelopeTotal], Field(max_length=MAX_TOTALS)]


class ModelManifest(_RunStatement):
    """The model that the run gave the issuer. Every party announces it; all must announce the same.

    Attributes:
        version: of this model.
        parents: digests of the manifests that it was trained from.
        components: party to the commitment of what that party keeps of the model.
        metrics: name to value, those that the contract lets out.
    """

    kind: Literal["model_manifest"] = "model_manifest"
    version: Annotated[int, Field(ge=1, le=2**31)]
    parents: Annotated[list[Digest], Field(max_length=100)] = []
    components: dict[PartyId, Digest]
    metrics: dict[Word, Decimal] = {}

    def model(self) -> bytes:
        """Return the canonical JSON of what all announcements of this model have in common."""
        return _canonical(self.model_dump(mode="json", exclude={"issuer", "issued_at"}))

    def digest(self) -> bytes:
        """Return the SHA-256 of ``model``."""
        return hashlib.sha256(self.model()).digest()


class PrivacySpent(_RunStatement):
    """What the run took from the issuer's privacy budget.

    Attributes:
        mechanism: which budget, as in `fedshare.privacy.budget`.
        epsilon: 0 or more.
        delta: between 0 and 1.
    """

    kind: Literal["privacy_spent"] = "privacy_spent"
    mechanism: Literal["labels", "network"]
    epsilon: Decimal
    delta: Decimal


class Refusal(_Statement):
    """The issuer refused something that the contract does not say.

    Attributes:
        contract_digest: of the contract it was about, or empty.
        run_id: of the run it was about, or empty.
        code: as in `fedshare.errors.RefusedError`.
    """

    kind: Literal["refusal"] = "refusal"
    contract_digest: Digest | Literal[""] = ""
    run_id: RunId | Literal[""] = ""
    code: Word
    reason: Reason = ""


class Scoring(_Statement):
    """How many applicants the issuer scored with a contract's model since its last such statement."""

    kind: Literal["scoring"] = "scoring"
    contract_digest: Digest
    count: Count


class PrivateHead(_Statement):
    """The head of the issuer's own detailed log, committed and not shown.

    Attributes:
        commitment: of the checkpoint's text, see `fedshare.audit.commitments.commit`.
    """

    kind: Literal["private_head"] = "private_head"
    commitment: Digest


class PrivateEvent(_Statement):
    """Something that happened at the issuer, in full; for its own private log and never in the common one.

    Attributes:
        event: what.
        run_id: of the run it belongs to, or empty.
        facts: name to what was the case.
    """

    kind: Literal["private_event"] = "private_event"
    event: Word
    run_id: RunId | Literal[""] = ""
    facts: dict[Word, Annotated[str, StringConstraints(max_length=2000)]] = {}


Statement: TypeAlias = (
    Enrolment
    | ContractPublished
    | Approval
    | Rejection
    | Revocation
    | RunOpened
    | RunClosed
    | PhaseOpened
    | PhaseClosed
    | Envelopes
    | ModelManifest
    | PrivacySpent
    | Refusal
    | Scoring
    | PrivateHead
    | PrivateEvent
)

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_ADAPTER: TypeAdapter[Statement] = TypeAdapter(Annotated[Statement, Field(discriminator="kind")])


def _canonical(value: object) -> bytes:
    # Equal to RFC 8785 where, as here, every number is an integer below 2^53 and every key is ASCII.
    return _ENCODER.encode(value).encode()


def _is_ordered(value: object) -> bool:
    """Whether the keys of every object in ``value`` are in order, as canonical JSON has them."""
    if isinstance(value, dict):
        keys = list(value)
        return keys == sorted(keys) and all(map(_is_ordered, value.values()))
    return not isinstance(value, list) or all(map(_is_ordered, value))


def parse_statement(data: bytes) -> Statement:
    """Return the statement that ``data`` spells.

    Raises:
        ProtocolError: it is no statement, or not in its one canonical spelling.
    """
    try:
        value = from_json(data, allow_inf_nan=False)
        # Keys in order and the shortest spelling of everything; a doubled key is lost on the way and shows
        # too.
        if to_json(value) != data or not _is_ordered(value):
            raise ProtocolError("expected a statement in canonical JSON")
        return _ADAPTER.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ProtocolError(f"expected a statement of a known kind, found a bad field {place!r}") from error
    except (ValueError, RecursionError) as error:
        raise ProtocolError("expected a statement in JSON") from error
