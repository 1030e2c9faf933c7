"""The audit log in which a contract's runs stand, and who must have seen an entry before a node acts on it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fedshare.audit.notes import COSIGNATURE, ED25519, NoteKey
from fedshare.audit.policy import Policy
from fedshare.errors import ConfigError, ProtocolError
from fedshare.identity.keys import decode_public_key

__all__ = ["LogTerms", "least_quorum"]

# Policies (C2SP tlog-policy) give this word a meaning of their own.
_RESERVED_NAME = "none"
# In capitals, so that no witness has the group's name.
_GROUP = "QUORUM"

WitnessName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9.-]{0,63}$")]


def least_quorum(witnesses: int) -> int:
    """Return how many of ``witnesses`` must agree so that any two quorums have two witnesses in common.

    A coordinator that colludes with one institution then still needs an honest one in two forks of the log.
    """
    return witnesses // 2 + 1 + witnesses % 2


class LogTerms(BaseModel):
    """Which log, and whose word it takes.

    Attributes:
        key: verifier key of the log (C2SP signed-note), which signs its checkpoints.
        coordinator_key: Ed25519 public key that signs what the coordinator states, base64 of 32 bytes.
        witnesses: verifier key of each witness (C2SP tlog-cosignature) by name; a party's own under its id.
        quorum: how many of them have to cosign, `least_quorum` or more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    coordinator_key: str
    witnesses: Annotated[dict[WitnessName, str], Field(min_length=2, max_length=80)]
    quorum: int

    @field_validator("key")
    @classmethod
    def _is_a_log_key(cls, value: str) -> str:
        _parse_key(value, ED25519)
        return value

    @field_validator("coordinator_key")
    @classmethod
    def _is_a_key(cls, value: str) -> str:
        try:
            decode_public_key(value)
        except (ConfigError, ProtocolError) as error:
            raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _has_a_quorum(self) -> LogTerms:
        if _RESERVED_NAME in self.witnesses:
            raise ValueError(f"no witness may be called {_RESERVED_NAME}")
        keys = {_parse_key(vkey, COSIGNATURE).public for vkey in self.witnesses.values()}
        if len(keys) < len(self.witnesses):
            raise ValueError("two witnesses have the same key")
        least, most = least_quorum(len(self.witnesses)), len(self.witnesses)
        if not least <= self.quorum <= most:
            raise ValueError(f"expected a quorum between {least} and {most} of {most} witnesses")
        return self

    def coordinator_key_bytes(self) -> bytes:
        """Return the coordinator's identity key, 32 bytes."""
        return decode_public_key(self.coordinator_key)

    def policy_text(self) -> str:
        """Return the trust policy that these terms are (C2SP tlog-policy)."""
        lines = [f"log {self.key}"]
        lines += [f"witness {name} {vkey}" for name, vkey in self.witnesses.items()]
        lines += [f"group {_GROUP} {self.quorum} {' '.join(self.witnesses)}", f"quorum {_GROUP}"]
        return "\n".join(lines) + "\n"

    def policy(self) -> Policy:
        """Return the same, parsed."""
        return Policy.parse(self.policy_text().encode())


def _parse_key(vkey: str, kind: int) -> NoteKey:
    try:
        key = NoteKey.parse(vkey)
    except ProtocolError as error:
        raise ValueError(str(error)) from error
    if key.kind != kind:
        raise ValueError(f"expected a key of type 0x{kind:02x}, found type 0x{key.kind:02x}")
    return key
