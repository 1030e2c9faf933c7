"""The ServerApp's loop against a grid in memory: who is asked, what is stored, when a node counts as gone."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedshare_server.app import CONNECT_SECONDS, PHASE_SECONDS, canonical_key, drive
from fedshare_server.phases import PHASES, SERVING_PHASES
from fedshare_server.storage import PartyRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

RUN = 2**64 - 5
DIGEST = "ab" * 32
KEYS = {
    party: ec.derive_private_key(number, ec.SECP256R1()).public_key()
    for number, party in enumerate(("bank", "tax"), start=7)
}


@pytest.fixture(autouse=True)
def task() -> None:
    """Flower's messages take their run from the process's task."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN, 1


@dataclass
class Clock:
    time: float = 1000.0

    def __call__(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@dataclass
class FakeNode:
    node_id: int
    public_key: bytes
    online_until: float = 1e12


@dataclass
class Store:
    aborted: str | None = None
    holds: int = 0
    expendable: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    looks: int = 0
    phases: list[str] = field(default_factory=list)
    ends: list[tuple[str, str]] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    def open_run(self, run_id: int, digest: str, model_run: int | None = None) -> None:
        assert (run_id, digest) == (RUN, DIGEST)

    def parties(self) -> list[PartyRecord]:
        def openssh(key: ec.EllipticCurvePublicKey) -> str:
            return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()

        now = datetime(2026, 11, 24, tzinfo=UTC)
        return [PartyRecord(party, "", b"", openssh(key), "", "", now) for party, key in KEYS.items()]

    def expendable_parties(self, run_id: int) -> frozenset[str]:
        return self.expendable

    def lost_parties(self, run_id: int) -> frozenset[str]:
        return self.lost if self.phases[-1] == "train" else frozenset()

    def parties_of_run(self, run_id: int) -> tuple[str, ...]:
        return tuple(KEYS)

    def set_phase(self, run_id: int, phase: str) -> None:
        self.phases.append(phase)

    def keep_serving(self, run_id: int) -> None:
        self.phases.append("kept")

    def run_aborted(self, run_id: int) -> str | None:
        return self.aborted

    def run_completed(self, run_id: int) -> bool:
        self.looks += 1
        return self.looks > self.holds

    def finish(self, run_id: int, status: str, reason: str = "") -> None:
        self.ends.append((status, reason))

    def close_run(self, run_id: int, cause: str = "") -> None:
        self.closed.append(cause)

    def add_event(self, kind: str, text: str, run_id: int | None = None, party: str = "") -> None:
        self.phases.append(f"{kind} {party} {text}")


class FakeGrid:
    """Nodes that answer at once, unless the test says otherwise."""

    def __init__(self) -> None:
        pem = {
            party: key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            for party, key in KEYS.items()
        }
        self.nodes = {
            party: FakeNode(number, key) for number, (party, key) in enumerate(pem.items(), start=1)
        }
        self.silent: set[tuple[str, str]] = set()
        self.records: dict[tuple[str, str], dict[str, str]] = {}
        self.asked: list[tuple[str, str]] = []
        self.reasons: set[str] = set()
        self._replies: dict[str, Message] = {}

    def get_nodes(self) -> Iterable[FakeNode]:
        return list(self.nodes.values())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            party = next(p for p, n in self.nodes.items() if n.node_id == message.metadata.dst_node_id)
            content = message.content.config_records["fedshare"]
            phase = str(content["phase"])
            self.asked.append((party, phase))
            self.reasons.add(str(content.get("reason", "")))
            message.metadata.__dict__["_message_id"] = f"{party} {phase}"
            message.metadata.__dict__["_src_node_id"] = 1
            ids.append(message.metadata.message_id)
            record = {"status": "ok", "party": party, "hello": b"hi", **self.records.get((party, phase), {})}
            if (party, phase) not in self.silent:
                reply = Message(RecordDict({"fedshare": ConfigRecord(record)}), reply_to=message)
                self._replies[message.metadata.message_id] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(name) for name in list(message_ids) if name in self._replies]


def run(grid: FakeGrid, store: Store, clock: Clock | None = None, *, model_run: int | None = None) -> str:
    clock = clock or Clock()
    cause = drive(grid, store, RUN, DIGEST, model_run=model_run, clock=clock, sleep=clock.sleep)
    return "" if cause is None else str(cause)


def test_a_run_is_stored_phase_by_phase_and_completed() -> None:
    grid, store = FakeGrid(), Store()
    assert run(grid, store) == ""
    assert store.phases == list(PHASES)
    assert store.ends == [("completed", "")]
    assert store.closed == [""]
    assert sorted(grid.asked) == sorted((party, phase) for party in KEYS for phase in PHASES)


def test_a_serving_run_is_held_beyond_every_deadline_until_the_operator_ends_it() -> None:
    grid, store, clock = FakeGrid(), Store(holds=5000), Clock()
    assert run(grid, store, clock, model_run=7) == ""
    assert clock.time - 1000 > PHASE_SECONDS["serve"]
    assert store.phases == ["hello", "publish", "serve", "kept", "held  every party serves", "close"]
    assert sorted(grid.asked) == sorted((party, phase) for party in KEYS for phase in SERVING_PHASES)


def test_metrics_that_a_party_shows_are_stored() -> None:
    grid, store = FakeGrid(), Store()
    grid.records["bank", "evaluate"] = {"metrics": '{"auc": 0.8}'}
    run(grid, store)
    assert 'metrics bank {"auc": 0.8}' in store.phases


def test_what_the_exchange_says_comes_before_what_nodes_say() -> None:
    grid, store = FakeGrid(), Store(aborted="bank lost its disk")
    grid.records["tax", "hello"] = {"status": "failed", "code": "x", "reason": "a consequence"}
    assert "bank lost its disk" in run(grid, store)
    assert grid.asked[-2:] == [("bank", "close"), ("tax", "close")]


def test_a_node_whose_heartbeat_is_forty_seconds_old_ends_the_run_within_a_minute() -> None:
    grid, store, clock = FakeGrid(), Store(), Clock()
    grid.silent.add(("tax", "train"))
    grid.nodes["tax"].online_until = clock.time + 60  # its last heartbeat came now
    assert run(grid, store, clock) == "tax: its node has gone or cannot be reached [node_lost]"
    assert clock.time <= 1000 + 60
    assert store.ends[0] == ("failed", "tax: its node has gone or cannot be reached [node_lost]")
    assert store.closed == ["node_lost"]
    assert grid.asked[-1] == ("bank", "close")


def test_a_party_that_the_exchange_goes_on_without_is_not_waited_for_although_its_node_is_back() -> None:
    tax = frozenset({"tax"})
    grid, store, clock = FakeGrid(), Store(expendable=tax, lost=tax), Clock()
    grid.silent.add(("tax", "train"))
    assert run(grid, store, clock) == ""
    assert store.ends == [("completed", "")]
    assert ("tax", "evaluate") not in grid.asked
    assert clock.time < 1000 + 60


def test_a_party_that_never_connects_ends_the_run_and_nobody_is_asked() -> None:
    grid, store, clock = FakeGrid(), Store(), Clock()
    del grid.nodes["tax"]
    assert "its node is not connected" in run(grid, store, clock)
    assert clock.time <= 1000 + CONNECT_SECONDS + 1
    assert grid.asked == [("bank", "close")]
    assert [said for said in store.phases if said.startswith("awaited")] == [
        f"awaited  waits {CONNECT_SECONDS:g} s for the nodes of tax"
    ]


def test_a_phase_that_takes_too_long_ends_the_run() -> None:
    grid, store, clock = FakeGrid(), Store(), Clock()
    grid.silent.add(("bank", "align"))
    assert "phase_timeout" in run(grid, store, clock)
    assert PHASE_SECONDS["align"] < clock.time - 1000 < PHASE_SECONDS["align"] + 60


def test_a_node_that_is_not_of_the_contract_is_never_asked() -> None:
    grid, store = FakeGrid(), Store()
    stranger = ec.derive_private_key(99, ec.SECP256R1()).public_key()
    pem = stranger.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    grid.nodes["stranger"] = FakeNode(9, pem)
    run(grid, store)
    assert {party for party, _ in grid.asked} == set(KEYS)


def test_a_key_is_the_same_in_both_forms() -> None:
    key = KEYS["tax"]
    openssh = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert canonical_key(openssh.decode()) == canonical_key(pem) == pem
