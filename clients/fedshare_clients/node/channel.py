"""Messages between the parties of one run, sealed by the session and moved by a transport.

A transport moves envelopes and knows nothing of what is in them: ``ExchangeClient`` over gRPC, or the in-memory one
of the tests' simulator. The channel is what the roles see: they send and receive payload messages, and the step under
which each is sealed names its type and its index, so that a message can be opened only as what it was sent as.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from fedshare.audit.commitments import EnvelopeTally
from fedshare.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedshare.identity.envelope import Envelope
    from fedshare.identity.session import Session

__all__ = ["Channel", "Transport"]

M = TypeVar("M", bound=Message)


class Transport(Protocol):
    """Moves envelopes in order per (sender, recipient)."""

    bytes_sent: int
    bytes_received: int

    def send(self, envelope: Envelope) -> None:
        """Hand ``envelope`` over; blocks while the recipient is behind.

        Raises:
            RunFailedError: the run was aborted.
            UnavailableError: the coordinator cannot be reached.
        """

    def receive(self, sender: str, timeout_seconds: float) -> Envelope:
        """Return the next envelope of ``sender``.

        Raises:
            PartyLostError: the run goes on without ``sender``, and everything that it had sent has been taken.
            RunFailedError: the run was aborted.
            UnavailableError: nothing came in time.
        """

    def is_lost(self, party: str) -> bool:
        """Whether the run goes on without ``party``, as the Exchange says."""

    def abort(self, reason: str) -> None:
        """End the run for every party, with a reason that carries no data."""

    def close(self) -> None:
        """Leave the run; what was sent is delivered before this returns."""


class Channel:
    """What a role sends and receives within one phase of a run.

    Attributes:
        tally: what has passed, altered or not, for the audit log.
    """

    def __init__(self, session: Session, transport: Transport, phase: str, timeout_seconds: float) -> None:
        self.session = session
        self.tally = EnvelopeTally()
        self._transport = transport
        self._phase = phase
        self._timeout_seconds = timeout_seconds
        self._sending = threading.Lock()

    def send(self, recipient: str, message: Message, index: int = 0) -> None:
        """Seal ``message`` for ``recipient`` and hand it to the transport; from one thread at a time."""
        payload = message.SerializeToString()
        with self._sending:
            for envelope in self.session.seal(recipient, self._phase, _step(type(message), index), payload):
                self._transport.send(envelope)
                self._count(type(message), recipient, "sent", envelope)

    def is_lost(self, party: str) -> bool:
        """Whether the run goes on without ``party``, as the Exchange says."""
        return self._transport.is_lost(party)

    def receive(self, sender: str, message_type: type[M], index: int = 0) -> M:
        """Return the next message of ``sender``, which must be of ``message_type`` and carry ``index``.

        Raises:
            PartyLostError: the run goes on without ``sender``.
            ProtocolError: it is another message, altered, replayed, out of order or malformed.
            RunFailedError: the run was aborted.
            UnavailableError: nothing came in time.
        """
        return self.receive_any(sender, {message_type: index})

    def receive_any(self, sender: str, expected: Mapping[type[M], int]) -> M:
        """Return the next message of ``sender``, of one of these types with the index of that type.

        Raises as ``receive``.
        """
        payload = None
        while payload is None:
            envelope = self._transport.receive(sender, self._timeout_seconds)
            # What the step claims is authenticated when the session opens the envelope.
            message_type = next(
                (each for each in expected if envelope.step == _step(each, expected[each])),
                next(iter(expected)),
            )
            self._count(message_type, sender, "received", envelope)
            payload = self.session.open(envelope, self._phase, _step(message_type, expected[message_type]))
        try:
            return message_type.FromString(payload)
        except DecodeError as error:
            raise ProtocolError(
                f"the {message_type.DESCRIPTOR.name} of {sender} does not parse: both sides must run the code "
                "that the contract names"
            ) from error

    def _count(
        self,
        message_type: type[Message],
        peer: str,
        direction: Literal["sent", "received"],
        envelope: Envelope,
    ) -> None:
        step = re.sub(r"(?<!^)(?=[A-Z])", "_", message_type.DESCRIPTOR.name).lower()
        self.tally.add(step, peer, direction, envelope.to_wire().SerializeToString(deterministic=True))


def _step(message_type: type[Message], index: int) -> str:
    return f"{message_type.DESCRIPTOR.name}/{index}"
