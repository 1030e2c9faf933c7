"""The node's connection to the Exchange: envelopes out and in, over one stream that survives cuts.

Everything sent is kept until its recipient has acknowledged it, and an envelope is acknowledged when the
node has taken it, so a lost connection loses nothing: the stream is opened again and goes on from there. One
client serves one run of one process; a second one for the same run ends the run, because the secrets of the
first are gone.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import grpc

from fedshare.errors import (
    ConfigError,
    FedshareError,
    PartyLostError,
    ProtocolError,
    RefusedError,
    RunFailedError,
    StorageError,
    UnavailableError,
)
from fedshare.identity.envelope import Envelope
from fedshare.wire.v1 import exchange_pb2 as wire
from fedshare.wire.v1.exchange_pb2_grpc import ExchangeServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from fedshare.wire.v1 import envelope_pb2

__all__ = ["ExchangeClient", "error_of"]

# What an envelope counts for beside its serialized size, as exchange.proto says.
_ENVELOPE_OVERHEAD = 1024
_FIRST_BACKOFF_SECONDS = 0.1
_MAX_BACKOFF_SECONDS = 3.0
_CALL_SECONDS = 10.0
# An acknowledgement waits so long for further ones, unless this part of the window is owed.
_ACK_SECONDS = 0.05
_ACK_SHARE = 4
_OPTIONS = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(slots=True)
class _Outbox:
    """Envelopes to one recipient that it has not acknowledged; ``cursor`` is the next to write."""

    first: int = 0
    kept: deque[envelope_pb2.Envelope] = field(default_factory=deque)
    cost: int = 0
    cursor: int = 0

    @property
    def end(self) -> int:
        return self.first + len(self.kept)

    def forget_below(self, sequence: int) -> None:
        while self.kept and self.first < sequence:
            self.cost -= _cost(self.kept.popleft())
            self.first += 1


@dataclass(slots=True)
class _Inbox:
    """Envelopes of one sender: ``waiting`` for the node, ``arrived`` and ``taken`` are next sequences.

    ``owed`` is what those cost that were taken and not acknowledged.
    """

    changed: threading.Condition
    waiting: deque[envelope_pb2.Envelope] = field(default_factory=deque)
    arrived: int = 0
    taken: int = 0
    owed: int = 0


class ExchangeClient:
    """A ``Transport`` over the coordinator's Exchange. Returns from construction when it is connected.

    Args:
        address: ``host:port`` of the coordinator.
        ca_pem: certificate of the coordinator's authority.
        cert_pem: this party's client certificate.
        key_pem: its key.
        run_id: the run.
        party: this party's id.
        peers: the other parties of the run.
        connect_timeout_seconds: how long construction waits, and how long a cut connection may take to
            come back.
        send_timeout_seconds: how long ``send`` waits for a recipient that takes nothing.

    Raises:
        RefusedError: the coordinator does not let this party in.
        RunFailedError: the run is over.
        UnavailableError: no connection; the message says what to check.
    """

    def __init__(
        self,
        address: str,
        ca_pem: bytes,
        cert_pem: bytes,
        key_pem: bytes,
        run_id: int,
        party: str,
        peers: AbstractSet[str],
        *,
        connect_timeout_seconds: float = 30.0,
        send_timeout_seconds: float = 600.0,
    ) -> None:
        self._address = address
        self._run_id = run_id
        self._party = party
        self._connect_timeout_seconds = connect_timeout_seconds
        self._send_timeout_seconds = send_timeout_seconds
        self._instance = secrets.token_bytes(16)
        self._outboxes = {peer: _Outbox() for peer in sorted(peers)}
        self._lock = threading.Lock()
        self._inboxes = {peer: _Inbox(threading.Condition(self._lock)) for peer in sorted(peers)}
        self._acks: dict[str, int] = {}
        self._acks_due = 0.0
        self._lost: set[str] = set()
        self._changed = threading.Condition(self._lock)  # for callers of send and receive
        self._writable = threading.Condition(self._lock)  # for the writer
        self._stream = 0  # number of the current stream
        self._is_open = False
        self._window_bytes = 0
        self._closing = False
        self._failure: FedshareError | None = None
        self.bytes_sent = 0
        self.bytes_received = 0
        credentials = grpc.ssl_channel_credentials(ca_pem, key_pem, cert_pem)
        self._channel = grpc.secure_channel(address, credentials, options=_OPTIONS)
        self._stub = ExchangeServiceStub(self._channel)
        self._thread = threading.Thread(target=self._maintain, name=f"exchange-{party}", daemon=True)
        self._thread.start()
        try:
            self._wait_until_open()
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        """Return the connected client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def send(self, envelope: Envelope) -> None:
        """Hand ``envelope`` over; blocks while its recipient is behind. What is for a lost party is dropped.

        Raises:
            ProtocolError: it is not the next to its recipient, or not from this party in this run.
            RunFailedError: the run was aborted.
            UnavailableError: the coordinator cannot be reached, or the recipient takes nothing.
        """
        self.send_wire(envelope.to_wire())

    def send_wire(self, envelope: envelope_pb2.Envelope) -> None:
        """Do what ``send`` does, with an envelope as it is on the wire."""
        outbox = self._outboxes.get(envelope.recipient)
        if outbox is None or (envelope.run_id, envelope.sender) != (self._run_id, self._party):
            raise ProtocolError(
                f"expected an envelope of run {self._run_id} from {self._party} to another party, found "
                f"one of run {envelope.run_id} from {envelope.sender!r} to {envelope.recipient!r}"
            )
        cost = _cost(envelope)
        with self._lock:
            if not self._changed.wait_for(
                lambda: (
                    self._failure
                    or envelope.recipient in self._lost
                    or not outbox.kept
                    or outbox.cost + cost <= self._window_bytes
                ),
                self._send_timeout_seconds,
            ):
                raise UnavailableError(
                    f"{envelope.recipient} has taken nothing for {self._send_timeout_seconds:g} seconds: "
                    "is it running?"
                )
            self._verify_usable()
            if envelope.recipient in self._lost:
                return
            if envelope.sequence != outbox.end:
                raise ProtocolError(
                    f"expected envelope {outbox.end} to {envelope.recipient}, found {envelope.sequence}: "
                    "send a session's envelopes in order"
                )
            outbox.kept.append(envelope)
            outbox.cost += cost
            self.bytes_sent += envelope.ByteSize()
            self._writable.notify_all()

    def receive(self, sender: str, timeout_seconds: float) -> Envelope:
        """Return the next envelope of ``sender``.

        Raises:
            PartyLostError: the run goes on without ``sender``, and everything that it had sent has been taken.
            ProtocolError: the envelope is malformed.
            RunFailedError: the run was aborted.
            UnavailableError: nothing came in time, or the coordinator cannot be reached.
        """
        return Envelope.from_wire(self.receive_wire(sender, timeout_seconds))

    def receive_wire(self, sender: str, timeout_seconds: float) -> envelope_pb2.Envelope:
        """Do what ``receive`` does, with an envelope as it is on the wire."""
        inbox = self._inboxes.get(sender)
        if inbox is None:
            raise ProtocolError(f"{sender!r} is not another party of run {self._run_id}")
        with self._lock:
            if not inbox.changed.wait_for(
                lambda: self._failure or inbox.waiting or sender in self._lost, timeout_seconds
            ):
                raise UnavailableError(
                    f"nothing came from {sender} within {timeout_seconds:g} seconds: is it running?"
                )
            self._verify_usable()
            if not inbox.waiting:
                raise PartyLostError(sender)
            envelope = inbox.waiting.popleft()
            inbox.taken += 1
            self.bytes_received += envelope.ByteSize()
            self._owe(sender, inbox, _cost(envelope))
            return envelope

    def _owe(self, sender: str, inbox: _Inbox, cost: int) -> None:
        """Acknowledge soon, with what is taken meanwhile; the lock is held."""
        inbox.owed += cost
        is_much = inbox.owed * _ACK_SHARE >= self._window_bytes
        if is_much or not self._acks:
            self._acks_due = time.monotonic() + (0.0 if is_much else _ACK_SECONDS)
            self._writable.notify_all()
        self._acks[sender] = inbox.taken

    def is_lost(self, party: str) -> bool:
        """Whether the Exchange has said that the run goes on without ``party``."""
        with self._lock:
            return party in self._lost

    def report_progress(self, phase: str, iteration: int, seconds: float, loss: float | None = None) -> None:
        """Tell the coordinator how far this party is; ``loss`` only if the contract lets it see that.

        Raises:
            FedshareError: as ``error_of`` says.
        """
        request = wire.ReportProgressRequest(
            run_id=self._run_id,
            phase=phase,
            iteration=iteration,
            seconds=seconds,
            bytes_sent=self.bytes_sent,
            bytes_received=self.bytes_received,
            loss=loss,
        )
        try:
            self._stub.ReportProgress(request, timeout=_CALL_SECONDS)
        except grpc.RpcError as error:
            raise error_of(error, self._address) from error

    def abort(self, reason: str, code: str = "failed") -> None:
        """End the run for every party; the reason is shown to them and carries no data.

        Raises:
            FedshareError: as ``error_of`` says; the run then ends when this party's connection does.
        """
        request = wire.ReportFailureRequest(run_id=self._run_id, code=code[:64], reason=reason[:1000])
        try:
            self._stub.ReportFailure(request, timeout=_CALL_SECONDS)
        except grpc.RpcError as error:
            raise error_of(error, self._address) from error

    def close(self) -> None:
        """Leave the run; what was sent is stored for its recipients before this returns.

        Raises:
            UnavailableError: the coordinator could not be reached to hand over what was sent.
        """
        with self._lock:
            failed_before = self._failure is not None
            self._closing = True
            self._writable.notify_all()
        if not failed_before:
            self._thread.join(2 * self._connect_timeout_seconds)
        with self._lock:
            failure = self._failure
        self._stop()
        if isinstance(failure, UnavailableError) and not failed_before:
            raise failure

    def _stop(self) -> None:
        with self._lock:
            self._stream += 1
            self._closing = True
            if self._failure is None:
                self._failure = UnavailableError("the connection to the Exchange is closed")
            self._writable.notify_all()
            self._notify_callers()
        self._channel.close()
        self._thread.join(_CALL_SECONDS)

    def _wait_until_open(self) -> None:
        with self._lock:
            self._changed.wait_for(lambda: self._failure or self._is_open)
            self._verify_usable()

    def _verify_usable(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: FedshareError) -> None:
        with self._lock:
            if self._failure is None:
                self._failure = error
            self._notify_callers()
            self._writable.notify_all()

    def _notify_callers(self) -> None:
        """Wake every caller of send and receive; the lock is held."""
        self._changed.notify_all()
        for inbox in self._inboxes.values():
            inbox.changed.notify_all()

    def _maintain(self) -> None:
        """Keep a stream open until the run is over here: what the client's own thread does."""
        down_since, backoff = time.monotonic(), _FIRST_BACKOFF_SECONDS
        while True:
            error: FedshareError = UnavailableError("the coordinator ended the stream")
            try:
                self._run_stream()
            except grpc.RpcError as rpc_error:
                error = error_of(rpc_error, self._address)
            except FedshareError as own:
                error = own
            else:
                if self._closing:
                    return
            with self._lock:
                if self._is_open:
                    down_since, backoff = time.monotonic(), _FIRST_BACKOFF_SECONDS
                self._is_open = False
                self._stream += 1
                self._writable.notify_all()
                if self._failure is not None:
                    return
            is_over = time.monotonic() - down_since + backoff > self._connect_timeout_seconds
            if is_over or not isinstance(error, UnavailableError):
                self._fail(error)
                return
            with self._lock:
                self._changed.wait_for(lambda: self._failure, backoff)
            backoff = min(2 * backoff, _MAX_BACKOFF_SECONDS)

    def _run_stream(self) -> None:
        with self._lock:
            stream = self._stream
        call = self._stub.Connect(self._frames(stream))
        try:
            for response in call:
                self._take(response)
        finally:
            call.cancel()

    def _take(self, response: wire.ConnectResponse) -> None:
        frame = response.WhichOneof("frame")
        with self._lock:
            if frame == "envelope":
                self._arrive(response.envelope)
                return
            if frame == "ack" and response.ack.peer in self._outboxes:
                self._outboxes[response.ack.peer].forget_below(response.ack.next_sequence)
            elif frame == "opened" and not self._is_open:
                self._resume(response.opened)
            elif frame == "lost" and response.lost.peer in self._inboxes:
                self._lost.add(response.lost.peer)
            elif frame == "aborted":
                raise RunFailedError(response.aborted.reason)
            else:
                raise ProtocolError("the Exchange sent a frame that version 1 does not have there")
            self._notify_callers()

    def _arrive(self, envelope: envelope_pb2.Envelope) -> None:
        inbox = self._inboxes.get(envelope.sender)
        if inbox is None or envelope.sequence > inbox.arrived:
            raise ProtocolError(
                f"the Exchange delivered envelope {envelope.sequence} of {envelope.sender!r}, which is "
                "not the next"
            )
        if envelope.sequence == inbox.arrived:  # a smaller one was under way when the connection was cut
            inbox.waiting.append(envelope)
            inbox.arrived += 1
            inbox.changed.notify_all()

    def _resume(self, opened: wire.Opened) -> None:
        for peer, outbox in self._outboxes.items():
            expected = opened.expected.get(peer, 0)
            if not outbox.first <= expected <= outbox.end:
                raise ProtocolError(
                    f"the Exchange expects envelope {expected} to {peer}; this node has "
                    f"{outbox.first} to {outbox.end}"
                )
            outbox.cursor = expected
        self._window_bytes = opened.window_bytes
        self._is_open = True
        self._writable.notify_all()

    def _frames(self, stream: int) -> Iterator[wire.ConnectRequest]:
        """Yield the frames of one stream, waiting for them, until it ends."""
        with self._lock:
            opening = wire.Open(
                run_id=self._run_id,
                instance=self._instance,
                received={peer: inbox.taken for peer, inbox in self._inboxes.items()},
                retained={peer: outbox.first for peer, outbox in self._outboxes.items()},
            )
        yield wire.ConnectRequest(open=opening)
        while True:
            with self._lock:
                while (frame := self._next_frame()) is None and not self._is_done(stream):
                    awaits_acks = self._is_open and bool(self._acks)
                    self._writable.wait(max(self._acks_due - time.monotonic(), 0.0) if awaits_acks else None)
                if self._is_done(stream):
                    return
                closing = frame is None or isinstance(frame, wire.Close)
            if isinstance(frame, wire.Ack):
                yield wire.ConnectRequest(ack=frame)
            elif isinstance(frame, wire.Close):
                yield wire.ConnectRequest(close=frame)
            elif frame is not None:
                yield wire.ConnectRequest(envelope=frame)
            if closing:
                return

    def _is_done(self, stream: int) -> bool:
        return stream != self._stream or self._failure is not None

    def _next_frame(self) -> wire.Ack | wire.Close | envelope_pb2.Envelope | None:
        if not self._is_open:
            return None
        if self._acks and (self._closing or time.monotonic() >= self._acks_due):
            peer, sequence = self._acks.popitem()
            self._inboxes[peer].owed = 0
            return wire.Ack(peer=peer, next_sequence=sequence)
        for peer, outbox in self._outboxes.items():
            if outbox.cursor < outbox.end:
                # The recipient goes to the end of the line, so that none starves another.
                del self._outboxes[peer]
                self._outboxes[peer] = outbox
                outbox.cursor = max(outbox.cursor, outbox.first) + 1
                return outbox.kept[outbox.cursor - 1 - outbox.first]
        return wire.Close() if self._closing else None


def error_of(error: grpc.RpcError, address: str) -> FedshareError:
    """Return our error for a gRPC status, as the table of ``fedshare_server.interceptor`` says."""
    status = error.code()
    details = error.details() or ""
    match status:
        case grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.UNAUTHENTICATED:
            codes = [
                str(item.value) for item in error.trailing_metadata() or () if item.key == "fedshare-code"
            ]
            code = codes[0] if codes else "refused"
            # What the coordinator says ends with the code, as our error will.
            return RefusedError(code, details.removesuffix(f" [{code}]"), party="the coordinator")
        case grpc.StatusCode.INVALID_ARGUMENT:
            return ProtocolError(details)
        case grpc.StatusCode.FAILED_PRECONDITION:
            return ConfigError(details)
        case grpc.StatusCode.ABORTED:
            return RunFailedError(details)
        case grpc.StatusCode.INTERNAL:
            return StorageError(details)
        case _:
            return UnavailableError(
                f"no connection to the coordinator at {address} ({status.name}: {details}): check that it "
                "runs and that the address is right, that this node's certificate was issued by it and has "
                "not expired, and that the CA certificate is the one of the invitation"
            )


def _cost(envelope: envelope_pb2.Envelope) -> int:
    return envelope.ByteSize() + _ENVELOPE_OVERHEAD
