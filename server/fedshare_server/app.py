"""The ServerApp: moves a run of a contract through its phases and ends it with the first cause if one fails.

It carries no payload: what parties tell one another goes through the Exchange, sealed. It runs as a process
of its own that Flower starts for every run, finds the coordinator's records by
``FEDSHARE_SERVER_DATABASE``, and learns from them when the Exchange has ended the run. Nodes are addressed
by the Flower key under which a party enrolled, so that a node cannot answer for another.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final, Protocol

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp

from fedshare.errors import ConfigError, RunFailedError
from fedshare_server.phases import AWAITED, PHASES, SERVING_PHASES, Cause, Reply, Rounds
from fedshare_server.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from flwr.app import Context

    from fedshare_server.storage import PartyRecord

__all__ = ["DATABASE_VARIABLE", "HELD", "RunStore", "app", "canonical_key", "drive"]

DATABASE_VARIABLE: Final = "FEDSHARE_SERVER_DATABASE"
# Not shorter: a reply that is seen before Flower has all its parts costs a back-off of 1 s (flwr 1.41
# supercore/inflatable/inflatable_utils.py), and the wait is the SuperNodes' 3 s anyway.
POLL_SECONDS: Final = 0.5
HELD: Final = "held"
_LOOK_SECONDS: Final = 5.0
# A SuperNode's heartbeat comes every 17.5 to 22.5 s and keeps it online for 60 s (flwr 1.41
# common/constant.py): one that is 40 s old means that the node is gone.
_LOST_WITH_SECONDS_LEFT: Final = 20.0
PHASE_SECONDS: Final[dict[str, float]] = {
    "hello": 300.0,
    "align": 3600.0,
    "prepare": 4 * 3600.0,
    "train": 24 * 3600.0,
    "evaluate": 3600.0,
    "publish": 3600.0,
    "serve": 300.0,  # to begin to serve; then the run stays in this phase
    "close": 30.0,
}
CONNECT_SECONDS: Final = 60.0
_LOST: Final = "its node has gone or cannot be reached"


class RunStore(Protocol):
    """What the ServerApp needs of the coordinator's records; ``fedshare_server.storage.Store`` has it."""

    def open_run(self, run_id: int, digest: str, model_run: int | None = None) -> None:
        """Store that the run has begun."""

    def parties(self) -> Sequence[PartyRecord]:
        """Return every enrolled party."""

    def parties_of_run(self, run_id: int) -> tuple[str, ...]:
        """Return the contract's parties."""

    def expendable_parties(self, run_id: int) -> frozenset[str]:
        """Return those of them without which the run goes on."""

    def lost_parties(self, run_id: int) -> frozenset[str]:
        """Return those that the Exchange goes on without."""

    def set_phase(self, run_id: int, phase: str) -> None:
        """Store the phase."""

    def run_aborted(self, run_id: int) -> str | None:
        """Return why the run was ended by someone else."""

    def keep_serving(self, run_id: int) -> None:
        """Store that what a serving run serves is to be served from now on."""

    def run_completed(self, run_id: int) -> bool:
        """Return whether the operator has ended a serving run."""

    def finish(self, run_id: int, status: str, reason: str = "") -> None:
        """Store how the run ended."""

    def close_run(self, run_id: int, cause: str = "") -> None:
        """Have the end of the run logged, after which nobody says anything about it."""

    def add_event(self, kind: str, text: str, run_id: int | None = None, party: str = "") -> None:
        """Store one sentence for the operator."""


class Node(Protocol):
    """A connected Flower node (``flwr.proto.node_pb2.NodeInfo``)."""

    node_id: int
    public_key: bytes
    online_until: float


class Link(Protocol):
    """The part of Flower's grid that the ServerApp uses."""

    def get_nodes(self) -> Iterable[Node]:
        """Return the connected nodes."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages and return their ids."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have come."""


def canonical_key(key: str | bytes) -> bytes:
    """Return a Flower node's public key, PEM or OpenSSH, as the PEM bytes that Flower compares.

    Raises:
        ConfigError: it is no public key.
    """
    raw = key.encode() if isinstance(key, str) else key
    try:
        public = load_ssh_public_key(raw) if raw.startswith(b"ecdsa-") else load_pem_public_key(raw)
    except ValueError as error:
        raise ConfigError("expected a Flower node's public key in PEM or OpenSSH form") from error
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def drive(
    grid: Link,
    store: RunStore,
    run_id: int,
    contract_digest: str,
    *,
    model_run: int | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    phase_seconds: Mapping[str, float] = PHASE_SECONDS,
) -> Cause | None:
    """Move the run through its phases and return why it failed, or ``None`` if it is complete.

    A run that serves the model of ``model_run`` stays in its phase ``serve`` until its record says that it is
    complete or aborted.
    """
    store.open_run(run_id, contract_digest, model_run)
    phases = PHASES if model_run is None else SERVING_PHASES
    expendable = store.expendable_parties(run_id)
    rounds = Rounds(contract_digest, store.parties_of_run(run_id), phases, expendable)
    driver = _Driver(grid, store, run_id, rounds, clock)
    driver.connect(sleep)
    phase, deadline = "", 0.0
    while not rounds.is_over:
        if rounds.phase != phase:
            phase, deadline = rounds.phase, clock() + phase_seconds[rounds.phase]
            driver.announce()
        driver.send()
        driver.collect()
        if rounds.phase == phase and not rounds.is_held and clock() > deadline:
            rounds.expire()
        if rounds.phase == phase and not rounds.is_over:
            sleep(POLL_SECONDS)
    return driver.finish()


class _Driver:
    def __init__(
        self, grid: Link, store: RunStore, run_id: int, rounds: Rounds, clock: Callable[[], float]
    ) -> None:
        self._grid = grid
        self._store = store
        self._run_id = run_id
        self.rounds = rounds
        self._clock = clock
        keys = {canonical_key(party.flower_key): party.party for party in store.parties()}
        self._party_by_key = {key: party for key, party in keys.items() if party in rounds.parties}
        self._node_by_party: dict[str, int] = {}
        self._party_by_message: dict[str, str] = {}
        self._looked_at = 0.0
        self._is_held = False
        self._lost: set[str] = set()

    def connect(self, sleep: Callable[[float], None]) -> None:
        """Wait until every party's node is connected."""
        deadline, is_said = self._clock() + CONNECT_SECONDS, False
        while missing := set(self.rounds.parties) - self._look().keys():
            if self._clock() > deadline:
                for party in sorted(missing):
                    self.rounds.lose(party, "its node is not connected: start it and run the contract again")
                break
            if not is_said:
                text = f"waits {CONNECT_SECONDS:g} s for the nodes of {', '.join(sorted(missing))}"
                self._store.add_event(AWAITED, text, self._run_id)
                is_said = True
            sleep(POLL_SECONDS)
        self._node_by_party = self._look()

    def announce(self) -> None:
        """Store the phase, and the cause as soon as there is one: the Exchange tells everyone from there."""
        if self.rounds.cause is not None:
            self._store.finish(self._run_id, self.rounds.cause.status, str(self.rounds.cause))
        else:
            self._store.set_phase(self._run_id, self.rounds.phase)

    def send(self) -> None:
        """Ask the parties for the current phase, once."""
        requests = self.rounds.begin()
        connected = {party: node for party, node in self._node_by_party.items() if party in requests}
        messages = [
            Message(
                RecordDict({"fedshare": ConfigRecord(requests[party].to_record())}),  # type: ignore[arg-type]
                node,
                "query.phase",
                group_id=self.rounds.phase,
            )
            for party, node in connected.items()
        ]
        if messages:
            sent = self._grid.push_messages(messages)
            self._party_by_message = dict(zip(sent, connected, strict=True))

    def collect(self) -> None:
        """Take the replies that have come, and notice what can no longer come."""
        phase = self.rounds.phase
        replies = list(self._grid.pull_messages(list(self._party_by_message)))
        aborted = self._store.run_aborted(self._run_id) if self.rounds.cause is None else None
        if aborted is not None:
            # The Exchange knew first: what nodes say afterwards are consequences, not the cause.
            self.rounds.fail(Cause("failed", "run_aborted", aborted))
            return
        if self.rounds.is_held and self._store.run_completed(self._run_id):
            self.rounds.release()
            return
        for message in replies:
            party = self._party_by_message.pop(message.metadata.reply_to_message_id, None)
            if party is None or self.rounds.phase != phase:
                continue
            reply = _reply(message)
            if reply is None:
                self.rounds.lose(party, _LOST)
            else:
                self.rounds.accept(party, reply)
        if self.rounds.is_held and not self._is_held:
            self._is_held = True
            self._store.keep_serving(self._run_id)
            self._store.add_event(HELD, "every party serves", self._run_id)
        # Prevent waiting for a node that was restarted, and is present again, but has lost its part of the run.
        for party in sorted(self._store.lost_parties(self._run_id) - self._lost):
            self._lost.add(party)
            self.rounds.lose(party, _LOST)
        if self.rounds.phase == phase and self._clock() >= self._looked_at + _LOOK_SECONDS:
            present = self._look()
            for party in sorted(self.rounds.waiting - present.keys()):
                self.rounds.lose(party, _LOST)

    def finish(self) -> Cause | None:
        """Store how the run ended."""
        for party, metrics in self.rounds.metrics.items():
            self._store.add_event("metrics", metrics, self._run_id, party)
        if self.rounds.cause is None:
            self._store.finish(self._run_id, "completed")
        self._store.close_run(self._run_id, self.rounds.cause.code if self.rounds.cause else "")
        return self.rounds.cause

    def _look(self) -> dict[str, int]:
        """Return the nodes of the parties that answer, by party."""
        now = self._clock()
        self._looked_at = now
        return {
            self._party_by_key[node.public_key]: node.node_id
            for node in self._grid.get_nodes()
            if node.public_key in self._party_by_key and node.online_until > now + _LOST_WITH_SECONDS_LEFT
        }


def _reply(message: Message) -> Reply | None:
    """Return what a node answered, or ``None`` if Flower says that it never will."""
    if not message.has_error():
        return Reply.from_record(message.content.config_records.get("fedshare", ConfigRecord()))
    code, _, reason = (message.error.reason or "").partition(": ")
    if code in _REFUSALS:
        return Reply("refused", code, reason)
    if message.error.code in _GONE:
        return None
    return Reply("failed", "node_error", f"its executor did not answer (Flower error {message.error.code})")


# The codes with which a node's executor refuses before our application is asked.
_REFUSALS: Final = frozenset({"bundle_carries_code", "bundle_differs", "run_config_differs"})
# What Flower itself answers for a node whose heartbeat has stopped.
_GONE: Final = frozenset(
    {ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE}
)

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one contract; the name and the signature are Flower's.

    Raises:
        RunFailedError: the run did not complete; Flower then shows it as failed, with the cause.
    """
    digest = str(context.run_config.get("contract_digest", ""))
    model_run = str(context.run_config.get("model_run", ""))
    store = open_store(os.environ[DATABASE_VARIABLE])
    try:
        cause = drive(grid, store, context.run_id, digest, model_run=int(model_run) if model_run else None)
    except Exception:
        # Prevent a defect here from leaving a run that nobody ends.
        store.finish(context.run_id, "failed", "the coordinator's part of the run failed; see its log")
        raise
    if cause is not None:
        raise RunFailedError(str(cause))
