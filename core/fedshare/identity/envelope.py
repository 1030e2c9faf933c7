"""The envelope: one encrypted chunk of a message between two institutions, as it crosses the coordinator."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from fedshare.errors import ProtocolError
from fedshare.wire.v1 import envelope_pb2 as wire

__all__ = ["CHUNK_BYTES", "MAX_CIPHERTEXT_BYTES", "TAG_BYTES", "Envelope"]

CHUNK_BYTES = 1 << 20
TAG_BYTES = 16
MAX_CIPHERTEXT_BYTES = CHUNK_BYTES + TAG_BYTES

_PARTY = re.compile(r"[a-z][a-z0-9-]{0,31}")
_MAX_WORD = 64


@dataclass(frozen=True, slots=True)
class Envelope:
    """One chunk, sealed by `fedshare.identity.session.Session`.

    Attributes:
        run_id: as numbered by Flower, 0 to 2^64 - 1.
        phase: of the run.
        step: names the payload message and its index.
        sender: party id of who sealed it.
        recipient: party id of who can open it.
        sequence: position among all envelopes of this sender to this recipient in the session, from 0.
        last: whether it ends its message.
        ciphertext: the encrypted chunk and its 16-byte tag.
    """

    run_id: int
    phase: str
    step: str
    sender: str
    recipient: str
    sequence: int
    last: bool
    ciphertext: bytes = field(repr=False)

    def to_wire(self) -> wire.Envelope:
        """Return the protobuf form."""
        return wire.Envelope(
            run_id=self.run_id,
            phase=self.phase,
            step=self.step,
            sender=self.sender,
            recipient=self.recipient,
            sequence=self.sequence,
            last=self.last,
            ciphertext=self.ciphertext,
        )

    @classmethod
    def from_wire(cls, message: wire.Envelope) -> Envelope:
        """Return the checked envelope in a protobuf message.

        Raises:
            ProtocolError: a party id, the phase, the step or the ciphertext's length cannot be right.
        """
        if not (_PARTY.fullmatch(message.sender) and _PARTY.fullmatch(message.recipient)):
            raise ProtocolError("expected an envelope that names its sender and recipient by party id")
        if not (1 <= len(message.phase) <= _MAX_WORD and 1 <= len(message.step) <= _MAX_WORD):
            raise ProtocolError(f"expected a phase and a step of 1 to {_MAX_WORD} characters each")
        if not TAG_BYTES <= len(message.ciphertext) <= MAX_CIPHERTEXT_BYTES:
            raise ProtocolError(
                f"expected {TAG_BYTES} to {MAX_CIPHERTEXT_BYTES} bytes of ciphertext, found "
                f"{len(message.ciphertext)}"
            )
        return cls(
            run_id=message.run_id,
            phase=message.phase,
            step=message.step,
            sender=message.sender,
            recipient=message.recipient,
            sequence=message.sequence,
            last=message.last,
            ciphertext=message.ciphertext,
        )
