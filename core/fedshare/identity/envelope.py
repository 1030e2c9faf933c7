"""The envelope: one sealed chunk on its way between two institutions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedshare.errors import ProtocolError

if TYPE_CHECKING:
    from fedshare.wire.v1.envelope_pb2 import Envelope as WireEnvelope

__all__ = ["CHUNK_BYTES", "Envelope"]

#: Plaintext bytes of one chunk, at most.
CHUNK_BYTES = 1 << 20

_TAG_BYTES = 16
_MAX_WORD = 64


@dataclass(frozen=True, slots=True)
class Envelope:
    """See ``protos/fedshare/wire/v1/envelope.proto`` for the fields; all but the ciphertext are visible to the coordinator."""

    run_id: int
    phase: str
    step: str
    sender: str
    recipient: str
    sequence: int
    last: bool
    ciphertext: bytes = field(repr=False)

    def to_wire(self) -> WireEnvelope:
        """Return the protobuf message."""
        from fedshare.wire.v1 import envelope_pb2  # noqa: PLC0415 - who only signs needs no wire

        return envelope_pb2.Envelope(
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
    def from_wire(cls, message: WireEnvelope) -> Envelope:
        """Return the envelope in a protobuf message.

        Raises:
            ProtocolError: a word is empty or long, or the ciphertext has an impossible length.
        """
        for name in ("phase", "step", "sender", "recipient"):
            if not 1 <= len(getattr(message, name)) <= _MAX_WORD:
                raise ProtocolError(f"envelope: expected 1 to {_MAX_WORD} characters of {name}")
        if not _TAG_BYTES <= len(message.ciphertext) <= CHUNK_BYTES + _TAG_BYTES:
            raise ProtocolError(
                f"envelope: expected {_TAG_BYTES} to {CHUNK_BYTES + _TAG_BYTES} bytes of ciphertext, "
                f"got {len(message.ciphertext)}"
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
