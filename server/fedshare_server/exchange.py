"""Mailboxes between the parties of a run: what the coordinator keeps of an envelope on its way.

Rules:

1. Envelopes of one sender to one recipient are numbered 0, 1, 2, ... and kept and delivered in that order.
2. An envelope is forgotten when its recipient has acknowledged it, never before; the sender keeps it as long,
   so neither a cut connection nor a restart of the coordinator loses one.
3. A mailbox never holds more than its window: the sender waits, and one that does not wait is refused.
4. A party that is gone for longer than the grace period, or comes back as another process, ends the run for
   all.

Nothing here opens a socket or reads a clock. One lock per run; every method may be called from any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedshare.errors import ProtocolError, RefusedError, RunFailedError
from fedshare.wire.v1.exchange_pb2 import Aborted, Ack, ConnectResponse, Lost, Opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fedshare.errors import FedshareError
    from fedshare.wire.v1.envelope_pb2 import Envelope
    from fedshare.wire.v1.exchange_pb2 import Open

__all__ = ["Connection", "Exchange", "Traffic"]

_MAX_CIPHERTEXT_BYTES = 2**20 + 16
_INSTANCE_BYTES = 16
# What an envelope counts for beside its serialized size, as exchange.proto says.
_ENVELOPE_OVERHEAD = 1024


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one party has moved in a run: envelopes, and bytes of serialized envelopes."""

    sent_envelopes: int
    sent_bytes: int
    received_envelopes: int
    received_bytes: int


@dataclass(slots=True)
class _Mailbox:
    """Envelopes of one sender for one recipient, those below ``acknowledged`` forgotten."""

    acknowledged: int = 0
    held: deque[Envelope] = field(default_factory=deque)
    held_cost: int = 0

    @property
    def expected(self) -> int:
        return self.acknowledged + len(self.held)

    def forget_below(self, sequence: int) -> Iterator[Envelope]:
        """Drop what has a smaller sequence and yield it."""
        while self.held and self.acknowledged < sequence:
            envelope = self.held.popleft()
            self.held_cost -= _cost(envelope)
            self.acknowledged += 1
            yield envelope
        self.acknowledged = max(self.acknowledged, sequence)


@dataclass(slots=True)
class _Seat:
    """A party's place in a run, whether it is connected or not."""

    wake: threading.Condition
    instance: bytes = b""
    connection: Connection | None = None
    lost_at: float | None = None
    is_gone: bool = False
    acks: dict[str, int] = field(default_factory=dict)
    sent_envelopes: int = 0
    sent_bytes: int = 0
    received_envelopes: int = 0
    received_bytes: int = 0


class _Run:
    def __init__(self, run_id: int, parties: frozenset[str]) -> None:
        self.run_id = run_id
        self.lock = threading.Lock()
        self.seats = {party: _Seat(threading.Condition(self.lock)) for party in sorted(parties)}
        self.mailboxes = {
            (sender, recipient): _Mailbox() for sender in parties for recipient in parties - {sender}
        }
        self.reason: str | None = None

    def verify_peer(self, party: str, peer: str) -> None:
        if peer == party or peer not in self.seats:
            raise RefusedError(
                "unknown_recipient",
                f"{peer!r} is not another party of run {self.run_id}: address parties of the contract only",
            )

    def go_on_without(self, lost: list[str]) -> None:
        """Tell everyone who is left, and keep nothing more for them."""
        with self.lock:
            for party in lost:
                self.seats[party].is_gone = True
            for (sender, recipient), mailbox in self.mailboxes.items():
                if recipient in lost:
                    _acknowledge(self, sender, recipient, mailbox.expected)
            for seat in self.seats.values():
                seat.wake.notify_all()

    def end(self, reason: str) -> bool:
        """Set the reason if there is none yet, wake everyone, drop what is held; say whether it was set."""
        with self.lock:
            if self.reason is not None:
                return False
            self.reason = reason
            for mailbox in self.mailboxes.values():
                mailbox.held.clear()
                mailbox.held_cost = 0
            for seat in self.seats.values():
                seat.wake.notify_all()
            return True


class Exchange:
    """All runs under way.

    Args:
        parties_of_run: the party ids of a run; empty if there is no such run.
        clock: seconds, monotonic.
        window_bytes: how much one mailbox may hold; ``parties * (parties - 1)`` of them bound a run's memory.
        grace_seconds: for how long a party may be gone.
        expendable: the parties of a run that it goes on without.
        on_abort: told once per run that it has ended early, and why.
        on_loss: told of each party that a run goes on without, before anybody else is.
        tap: shown every envelope that is accepted.
    """

    def __init__(
        self,
        parties_of_run: Callable[[int], frozenset[str]],
        clock: Callable[[], float],
        *,
        window_bytes: int = 16 * 2**20,
        grace_seconds: float = 30.0,
        expendable: Callable[[int], frozenset[str]] = lambda _run_id: frozenset(),
        on_abort: Callable[[int, str], None] = lambda _run_id, _reason: None,
        on_loss: Callable[[int, str], None] = lambda _run_id, _party: None,
        tap: Callable[[Envelope], None] = lambda _envelope: None,
    ) -> None:
        self._parties_of_run = parties_of_run
        self.clock = clock
        self.window_bytes = window_bytes
        self._grace_seconds = grace_seconds
        self._expendable = expendable
        self._on_abort = on_abort
        self._on_loss = on_loss
        self.tap = tap
        self._lock = threading.Lock()
        self._runs: dict[int, _Run] = {}

    def connect(self, party: str, opening: Open) -> Connection:
        """Give ``party`` its connection to a run; an older one of the same party ends.

        Raises:
            RefusedError: it is not a party of the run, or names one that is not.
            ProtocolError: the frame is malformed.
            RunFailedError: the run is over, or ends now because the party's process was restarted.
        """
        if len(opening.instance) != _INSTANCE_BYTES:
            raise ProtocolError(
                f"expected an instance of {_INSTANCE_BYTES} bytes, found {len(opening.instance)}"
            )
        run = self._find_or_create(opening.run_id)
        if party not in run.seats:
            raise RefusedError(
                "not_a_party", f"{party} is not a party of run {run.run_id}: ask its coordinator"
            )
        for peer in (*opening.received, *opening.retained):
            run.verify_peer(party, peer)
        with run.lock:
            seat = run.seats[party]
            if seat.is_gone:
                raise RunFailedError(f"run {run.run_id} went on without {party}, whose connection had ended")
            known = seat.instance in (b"", opening.instance)
            if known and run.reason is None:
                return self._seat(run, party, opening)
        if not known:
            self.abort(
                run.run_id, f"party {party} was restarted and its one-time secrets are gone: start a new run"
            )
        raise RunFailedError(str(run.reason))

    def abort(self, run_id: int, reason: str) -> None:
        """End a run for every party; the first reason stays."""
        with self._lock:
            run = self._runs.get(run_id)
        if run is None or run.end(reason):
            self._on_abort(run_id, reason)

    def expire(self) -> None:
        """End the runs of which a party has been gone for longer than the grace period, or go on without it."""
        now = self.clock()
        for run in self._snapshot():
            with run.lock:
                lost = [
                    party
                    for party, seat in run.seats.items()
                    if seat.lost_at is not None
                    and not seat.is_gone
                    and now - seat.lost_at > self._grace_seconds
                ]
            if not lost or run.reason is not None:
                continue
            needed = [party for party in lost if party not in self._expendable(run.run_id)]
            if needed:
                self.abort(
                    run.run_id,
                    f"party {needed[0]} was lost: its connection ended and did not come back within "
                    f"{self._grace_seconds:g} seconds",
                )
            else:
                for party in lost:
                    self._on_loss(run.run_id, party)
                run.go_on_without(lost)

    def is_gone(self, run_id: int, party: str) -> bool:
        """Whether a run went on without ``party``."""
        with self._lock:
            run = self._runs.get(run_id)
        return run is not None and run.seats[party].is_gone

    def forget(self, run_id: int) -> bool:
        """Drop a run that is over, once nobody is connected to it; say whether it is gone."""
        with self._lock:
            run = self._runs.get(run_id)
            if run is None:
                return True
            with run.lock:
                if any(seat.connection is not None for seat in run.seats.values()):
                    return False
            del self._runs[run_id]
            return True

    def run_ids(self) -> list[int]:
        """Return the runs that are kept."""
        return [run.run_id for run in self._snapshot()]

    def traffic(self, run_id: int) -> Mapping[str, Traffic]:
        """Return what each party has moved in a run; empty if the run is not kept."""
        with self._lock:
            run = self._runs.get(run_id)
        if run is None:
            return {}
        with run.lock:
            return {
                party: Traffic(
                    seat.sent_envelopes, seat.sent_bytes, seat.received_envelopes, seat.received_bytes
                )
                for party, seat in run.seats.items()
            }

    def held_bytes(self, run_id: int) -> int:
        """Return what the mailboxes of a run hold, in the measure of the window."""
        with self._lock:
            run = self._runs.get(run_id)
        if run is None:
            return 0
        with run.lock:
            return sum(mailbox.held_cost for mailbox in run.mailboxes.values())

    def _find_or_create(self, run_id: int) -> _Run:
        with self._lock:
            run = self._runs.get(run_id)
            if run is None:
                parties = self._parties_of_run(run_id)
                if not parties:
                    raise RefusedError("unknown_run", f"there is no run {run_id} at this coordinator")
                run = self._runs[run_id] = _Run(run_id, parties)
            return run

    def _snapshot(self) -> list[_Run]:
        with self._lock:
            return list(self._runs.values())

    def _seat(self, run: _Run, party: str, opening: Open) -> Connection:
        """Bring mailboxes to where the party says that they are; the run's lock is held."""
        seat = run.seats[party]
        opened = Opened(window_bytes=self.window_bytes)
        for peer in run.seats:
            if peer == party:
                continue
            incoming, outgoing = run.mailboxes[peer, party], run.mailboxes[party, peer]
            _acknowledge(run, peer, party, opening.received.get(peer, incoming.acknowledged))
            # Only a restarted Exchange is behind the sender: in a living one the recipient's word came first.
            if not outgoing.held:
                outgoing.acknowledged = max(outgoing.acknowledged, opening.retained.get(peer, 0))
            opened.expected[peer] = outgoing.expected
            if outgoing.acknowledged > opening.retained.get(peer, 0):
                seat.acks[peer] = outgoing.acknowledged
        connection = Connection(self, run, party, opened)
        seat.instance, seat.connection, seat.lost_at = opening.instance, connection, None
        seat.wake.notify_all()
        return connection


class Connection:
    """One stream of one party: what it says goes in by methods, what it is told comes out of ``frames``."""

    def __init__(self, exchange: Exchange, run: _Run, party: str, opened: Opened) -> None:
        self._exchange = exchange
        self._run = run
        self._party = party
        self._seat = run.seats[party]
        self._opened = opened
        self._error: FedshareError | None = None
        self._closed = False
        self._told: set[str] = set()
        self._cursors = {
            sender: mailbox.acknowledged
            for (sender, recipient), mailbox in run.mailboxes.items()
            if recipient == party
        }

    def accept(self, envelope: Envelope) -> None:
        """Store an envelope for its recipient; one that is stored already changes nothing.

        Raises:
            RefusedError: the sender is not this party, or the recipient is not another party of the run.
            ProtocolError: it is of another run, too long, out of order, or beyond the window.
        """
        run = self._run
        if envelope.sender != self._party:
            raise RefusedError(
                "spoofed_sender",
                f"expected envelopes of {self._party}, whose certificate this is, found one of "
                f"{envelope.sender!r}",
            )
        run.verify_peer(self._party, envelope.recipient)
        if envelope.run_id != run.run_id or len(envelope.ciphertext) > _MAX_CIPHERTEXT_BYTES:
            raise ProtocolError(
                f"expected an envelope of run {run.run_id} with at most {_MAX_CIPHERTEXT_BYTES} bytes, found "
                f"one of run {envelope.run_id} with {len(envelope.ciphertext)}"
            )
        if self._store(envelope):
            self._exchange.tap(envelope)

    def acknowledge(self, ack: Ack) -> None:
        """Forget what this party has taken, and tell its sender.

        Raises:
            ProtocolError: it acknowledges what was never sent.
            RefusedError: the peer is not another party of the run.
        """
        self._run.verify_peer(self._party, ack.peer)
        with self._run.lock:
            mailbox = self._run.mailboxes[ack.peer, self._party]
            if ack.next_sequence > mailbox.expected and self._run.reason is None:
                raise ProtocolError(
                    f"{self._party} acknowledges {ack.peer}'s envelopes below {ack.next_sequence}; only "
                    f"those below {mailbox.expected} exist"
                )
            _acknowledge(self._run, ack.peer, self._party, ack.next_sequence)

    def close(self) -> None:
        """Leave in good order: losing the stream is not losing the party from now on."""
        with self._run.lock:
            self._closed = True
            self._seat.wake.notify_all()

    def fail(self, error: FedshareError) -> None:
        """End the stream with an error that ``frames`` raises."""
        with self._run.lock:
            self._error = error
            self._seat.wake.notify_all()

    def lost(self) -> None:
        """Note that the stream has ended; the grace period starts unless the party has left or is back."""
        with self._run.lock:
            if self._seat.connection is self:
                self._seat.connection = None
                self._seat.lost_at = None if self._closed else self._exchange.clock()
            self._seat.wake.notify_all()

    def frames(self) -> Iterator[ConnectResponse]:
        """Yield what the party has to be told, waiting for it, until the stream ends.

        Raises:
            FedshareError: the error given to ``fail``.
        """
        yield ConnectResponse(opened=self._opened)
        while True:
            with self._run.lock:
                while (found := self._next()) is None and not self._is_over():
                    self._seat.wake.wait()
                error, reason = self._error, self._run.reason
            if error is not None:
                raise error
            if found is not None:  # the copy of the envelope is made outside the lock
                yield _response(found)
                continue
            if reason is not None and not self._closed:
                yield ConnectResponse(aborted=Aborted(reason=reason))
            return

    def _is_over(self) -> bool:
        return (
            self._closed
            or self._error is not None
            or self._run.reason is not None
            or self._seat.connection is not self
        )

    def _next(self) -> Ack | Envelope | Lost | None:
        if self._is_over():
            return None
        # Before any envelope: what a party sends because another is gone comes after the news itself.
        for peer, seat in self._run.seats.items():
            if seat.is_gone and peer not in self._told:
                self._told.add(peer)
                return Lost(peer=peer)
        if self._seat.acks:
            peer, sequence = self._seat.acks.popitem()
            return Ack(peer=peer, next_sequence=sequence)
        for sender in self._cursors:
            mailbox = self._run.mailboxes[sender, self._party]
            cursor = max(self._cursors[sender], mailbox.acknowledged)
            if cursor < mailbox.expected:
                # The sender goes to the end of the line, so that none starves another.
                del self._cursors[sender]
                self._cursors[sender] = cursor + 1
                return mailbox.held[cursor - mailbox.acknowledged]
        return None

    def _store(self, envelope: Envelope) -> bool:
        run, cost = self._run, _cost(envelope)
        with run.lock:
            mailbox = run.mailboxes[self._party, envelope.recipient]
            if run.reason is not None or envelope.sequence < mailbox.expected:
                return False
            if envelope.sequence > mailbox.expected:
                raise ProtocolError(
                    f"expected envelope {mailbox.expected} of {self._party} to {envelope.recipient}, found "
                    f"{envelope.sequence}: envelopes are sent in order"
                )
            if mailbox.held and mailbox.held_cost + cost > self._exchange.window_bytes:
                raise ProtocolError(
                    f"{self._party} has sent {envelope.recipient} more than the window of "
                    f"{self._exchange.window_bytes} bytes: wait for acknowledgements"
                )
            mailbox.held.append(envelope)
            mailbox.held_cost += cost
            self._seat.sent_envelopes += 1
            self._seat.sent_bytes += envelope.ByteSize()
            if run.seats[envelope.recipient].is_gone:
                _acknowledge(run, self._party, envelope.recipient, mailbox.expected)
            run.seats[envelope.recipient].wake.notify_all()
            return True


def _acknowledge(run: _Run, sender: str, recipient: str, sequence: int) -> None:
    """Forget what ``recipient`` has taken; the run's lock is held."""
    mailbox, seat = run.mailboxes[sender, recipient], run.seats[recipient]
    if sequence <= mailbox.acknowledged:
        return
    for envelope in mailbox.forget_below(sequence):
        seat.received_envelopes += 1
        seat.received_bytes += envelope.ByteSize()
    run.seats[sender].acks[recipient] = mailbox.acknowledged
    run.seats[sender].wake.notify_all()


def _response(frame: Ack | Envelope | Lost) -> ConnectResponse:
    if isinstance(frame, Ack):
        return ConnectResponse(ack=frame)
    return ConnectResponse(lost=frame) if isinstance(frame, Lost) else ConnectResponse(envelope=frame)


def _cost(envelope: Envelope) -> int:
    return envelope.ByteSize() + _ENVELOPE_OVERHEAD
