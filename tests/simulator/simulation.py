"""A federation in one process, without sockets, in which a party or the coordinator can misbehave in one line.

Every node is the real ``NodeService`` with the real roles, sessions and sealed primitives; only the Exchange is in memory, and
Flower's part, asking each node for one phase after the other, is a loop. ``tamper`` sees every envelope on its way and says
what is delivered instead of it:

    Simulation(parties, tamper=lambda envelope: [])                     # the coordinator drops everything
    Simulation(parties, tamper=lambda envelope: [envelope, envelope])   # it replays everything
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from fedshare.contract.model import Contract
from fedshare.contract.signing import approve
from fedshare.errors import RefusedError, RunFailedError, UnavailableError
from fedshare.identity.keys import IdentityKey
from fedshare_clients.node.service import PHASES, NodeService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from fedshare.identity.envelope import Envelope
    from fedshare.sealed.randomness import Randomness
    from fedshare_clients.node.data.table import Table

CODE_DIGEST = "c0" * 32
NOW = datetime(2026, 6, 1, tzinfo=UTC)


class MemoryExchange:
    """Ordered mailboxes per (sender, recipient); remembers every envelope that crossed it."""

    def __init__(self, tamper: Callable[[Envelope], Iterable[Envelope]]) -> None:
        self._tamper = tamper
        self._mailboxes: dict[tuple[str, str], queue.SimpleQueue[Envelope | None]] = {}
        self._lock = threading.Lock()
        self.crossed: list[Envelope] = []
        self.aborted: str | None = None

    def mailbox(self, sender: str, recipient: str) -> queue.SimpleQueue[Envelope | None]:
        with self._lock:
            return self._mailboxes.setdefault((sender, recipient), queue.SimpleQueue())

    def deliver(self, envelope: Envelope) -> None:
        with self._lock:
            self.crossed.append(envelope)
        for each in self._tamper(envelope):
            self.mailbox(each.sender, each.recipient).put(each)

    def abort(self, reason: str) -> None:
        self.aborted = self.aborted or reason
        for mailbox in list(self._mailboxes.values()):
            mailbox.put(None)


class MemoryTransport:
    def __init__(self, exchange: MemoryExchange, party: str) -> None:
        self._exchange = exchange
        self._party = party
        self.bytes_sent = 0
        self.bytes_received = 0

    def send(self, envelope: Envelope) -> None:
        if self._exchange.aborted:
            raise RunFailedError(f"the run was aborted: {self._exchange.aborted}")
        self.bytes_sent += len(envelope.ciphertext)
        self._exchange.deliver(envelope)

    def receive(self, sender: str, timeout_seconds: float) -> Envelope:
        mailbox = self._exchange.mailbox(sender, self._party)
        if self._exchange.aborted:
            raise RunFailedError(f"the run was aborted: {self._exchange.aborted}")
        try:
            envelope = mailbox.get(timeout=timeout_seconds)
        except queue.Empty:
            raise UnavailableError(f"nothing came from {sender} in time") from None
        if envelope is None:
            raise RunFailedError(f"the run was aborted: {self._exchange.aborted}")
        self.bytes_received += len(envelope.ciphertext)
        return envelope

    def abort(self, reason: str) -> None:
        self._exchange.abort(reason)

    def close(self) -> None:
        pass
