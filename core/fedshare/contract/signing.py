"""Decisions: what a party says about a contract, signed by its identity key (DSSE)."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Literal

import rfc8785
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from fedshare.errors import ProtocolError
from fedshare.identity import dsse

from .model import Sentence  # noqa: TC001  pydantic reads it at run time

if TYPE_CHECKING:
    from fedshare.identity.keys import IdentityKey

__all__ = ["DECISION_TYPE", "Decision", "Verdict", "sign_decision", "verify_decision"]

DECISION_TYPE = "application/vnd.fedshare.decision.v1+json"
Verdict = Literal["approve", "reject"]


class Decision(BaseModel):
    """One party's word about one contract.

    Attributes:
        contract_digest: which contract.
        party: who decides.
        verdict: whether it agrees.
        reason: why not, for people; empty for an approval.
        time: when, by the party's clock.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    contract_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    party: str
    verdict: Verdict
    reason: Annotated[Sentence, Field(max_length=2000)] = ""
    time: AwareDatetime


def sign_decision(decision: Decision, key: IdentityKey) -> bytes:
    """Return ``decision`` in a signed envelope."""
    document = decision.model_dump(mode="json")
    document["time"] = decision.time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return dsse.sign(rfc8785.dumps(document), DECISION_TYPE, key)


def verify_decision(envelope: bytes, party: str, public_key: bytes) -> Decision:
    """Return the decision of ``party`` in untrusted bytes.

    Raises:
        ProtocolError: it is not signed by the key, not a decision, or another party's.
    """
    payload = dsse.verify(envelope, DECISION_TYPE, public_key)
    try:
        decision = Decision.model_validate_json(payload)
    except ValidationError as error:
        raise ProtocolError("expected a signed decision about a contract, found something else") from error
    if decision.party != party:
        raise ProtocolError(f"expected a decision of {party}, found another party's")
    return decision
