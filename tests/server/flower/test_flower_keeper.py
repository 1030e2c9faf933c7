"""What the coordinator does when a serving run has ended by itself: when another begins, and when none does."""

from __future__ import annotations

import itertools
import json
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedshare.audit.entries import EntrySigner
from fedshare.audit.statements import Approval, Revocation
from fedshare.contract.model import Contract, parse_contract
from fedshare.errors import UnavailableError
from fedshare.identity.keys import IdentityKey
from fedshare_server.app import canonical_key
from fedshare_server.keeper import Keeper, pause_after
from fedshare_server.storage import InvitationRecord, PartyRecord, RunRecord, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

VECTOR = Path(__file__).parents[2] / "vectors/identity/contract.json"
CONTRACT = json.loads(VECTOR.read_text(encoding="utf-8"))["canonical"].encode()
SIGNER = EntrySigner(IdentityKey.from_raw(bytes(32)))
TRAINED, FIRST = 7, 100


def said(party: str, about: str) -> bytes:
    return SIGNER.sign(Approval(issuer=party, issued_at=1, contract_digest=about))


@dataclass
class World:
    """A coordinator with one contract that is approved, a scripted Flower, and the time."""

    contract: Contract
    time: datetime
    offline: set[str] = field(default_factory=set)
    is_down: bool = False
    started: list[int] = field(default_factory=list)
    dead: set[int] = field(default_factory=set)

    def open(self, url: str) -> None:
        self.store = open_store(url, lambda: self.time)
        self.digest = self.contract.digest()
        parties = [party.id for party in self.contract.parties]
        self.store.add_contract(self.digest, "credit", CONTRACT, parties)
        for number, party in enumerate(parties, start=5):
            key = ec.derive_private_key(number, ec.SECP256R1()).public_key()
            openssh = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
            word = f"{number:064x}"
            self.store.add_invitation(InvitationRecord(word, party, "", False, self.time + timedelta(1)))
            record = PartyRecord(party, "", bytes([number]), openssh, str(number), word, self.time)
            self.store.enrol(word, record, said(party, word))
            self.store.add_decision(self.digest, party, True, b"signed", said(party, self.digest))

    def heartbeats(self) -> dict[bytes, float]:
        """Every node's last heartbeat came 20 s ago, and a minute before that at one that is offline."""
        if self.is_down:
            raise UnavailableError("the SuperLink does not answer")
        return {
            canonical_key(each.flower_key): self.time.timestamp() + 40 - 60 * (each.party in self.offline)
            for each in self.store.parties()
        }

    def start_run(self, contract_digest: str, model_run: int | None = None) -> int:
        assert (contract_digest, model_run) == (self.digest, TRAINED)
        self.started.append(FIRST + 1 + len(self.started))
        return self.started[-1]

    def run_status(self, run_id: int) -> str:
        return "finished:failed" if run_id in self.dead else "running"

    def serve(self, seconds: float = 7200, status: str = "failed") -> None:
        """Let a first serving run be held for some time and then end."""
        self.store.open_run(FIRST, self.digest, TRAINED)
        self.store.keep_serving(FIRST)
        self.time += timedelta(seconds=seconds)
        self.store.finish(FIRST, status, "party tax was lost")

    def pass_time(self, keeper: Keeper, seconds: int) -> None:
        for _ in range(seconds):
            self.time += timedelta(seconds=1)
            keeper.look()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    contract = parse_contract(CONTRACT)
    world = World(contract, contract.valid_from)
    world.open(f"sqlite:///{tmp_path / 'fedshare.db'}")
    yield world
    world.store.close()


@pytest.fixture
def keeper(world: World) -> Keeper:
    return Keeper(world.store, world, lambda: world.time)


def test_a_run_that_lost_a_party_is_followed_by_another_of_the_same_model(
    world: World, keeper: Keeper
) -> None:
    world.serve()
    world.pass_time(keeper, 30)
    assert world.started == [FIRST + 1]
    record = world.store.find_run(FIRST + 1)
    assert record is not None
    assert (record.digest, record.model_run, record.status) == (world.digest, TRAINED, "running")
    (event,) = [each for each in world.store.events(FIRST + 1) if each.kind == "resumed"]
    assert event.text == f"it takes the place of run {FIRST}: party tax was lost"


def test_nothing_begins_before_every_party_can_be_reached_and_whom_it_waits_for_is_said_once(
    world: World, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="fedshare_server.keeper")
    world.serve()
    world.offline = {"court", "tax"}
    world.pass_time(keeper, 3600)
    assert world.started == []
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "serving goes on once court, tax can be reached again"
    ]
    world.offline = set()
    world.pass_time(keeper, 3)
    assert world.started == [FIRST + 1]


@pytest.mark.parametrize("status", ["completed", "refused"])
def test_a_run_that_was_ended_or_refused_is_followed_by_none(
    world: World, keeper: Keeper, status: str
) -> None:
    world.serve(status=status)
    world.pass_time(keeper, 60)
    assert world.started == []


def test_a_run_that_was_never_held_is_followed_by_none(world: World, keeper: Keeper) -> None:
    world.store.open_run(FIRST, world.digest, TRAINED)
    world.store.finish(FIRST, "failed", "tax: its node is not connected")
    world.pass_time(keeper, 60)
    assert world.started == []


def test_a_run_that_goes_on_without_a_bank_makes_room_for_another_when_that_one_is_back(
    world: World, keeper: Keeper
) -> None:
    world.store.open_run(FIRST, world.digest, TRAINED)
    world.store.keep_serving(FIRST)
    world.store.lose(FIRST, "bank")
    world.offline = {"bank"}
    world.pass_time(keeper, 3600)
    record = world.store.find_run(FIRST)
    assert record is not None
    assert (record.status, world.started) == ("running", [])
    world.offline = set()
    world.pass_time(keeper, 30)
    assert world.store.run_aborted(FIRST) == "bank, without whom the run went on, can be reached again"
    assert world.started == [FIRST + 1]


def test_a_run_whose_serverapp_was_killed_is_ended_and_followed_by_another(
    world: World, keeper: Keeper
) -> None:
    world.store.open_run(FIRST, world.digest, TRAINED)
    world.store.keep_serving(FIRST)
    world.pass_time(keeper, 120)
    assert world.started == []
    world.dead.add(FIRST)
    world.pass_time(keeper, 60)
    assert "the ServerApp ended without a result" in str(world.store.run_aborted(FIRST))
    assert world.started == [FIRST + 1]


def test_a_bank_that_is_lost_from_every_run_leaves_the_others_served_for_half_of_the_time(
    world: World, keeper: Keeper
) -> None:
    world.store.open_run(FIRST, world.digest, TRAINED)
    world.store.keep_serving(FIRST)
    looks = []
    for _ in range(600):
        world.time += timedelta(seconds=5)
        keeper.look()
        run = world.store.serving_runs(world.digest)[0]
        if run.status == "running" and not world.store.lost_parties(run.run_id):
            world.store.lose(run.run_id, "bank")
        looks.append(run.status)
    assert looks.count("running") > 250


def test_a_contract_that_has_ended_is_served_no_more(
    world: World, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="fedshare_server.keeper")
    world.serve()
    world.time = world.contract.valid_until
    world.pass_time(keeper, 60)
    assert (world.started, world.store.served_models()) == ([], {})
    assert "is expired: its model is served no more" in caplog.text


def test_a_contract_that_a_party_revoked_is_served_no_more(world: World, keeper: Keeper) -> None:
    world.serve()
    revocation = Revocation(issuer="tax", issued_at=1, contract_digest=world.digest, reason="why")
    world.store.revoke(world.digest, "tax", SIGNER.sign(revocation))
    world.pass_time(keeper, 60)
    assert (world.started, world.store.served_models()) == ([], {})


def test_runs_that_do_not_last_come_at_growing_distances(world: World, keeper: Keeper) -> None:
    world.serve(seconds=30)
    began = []
    for number in range(1, 12):
        while len(world.started) < number:
            world.pass_time(keeper, 1)
        began.append(world.time)
        world.store.finish(world.started[-1], "failed", "bank: its data does not pass its own checks")
    distances = [(after - before).seconds for before, after in itertools.pairwise(began)]
    assert distances[0] >= 20
    assert distances[-1] in range(600, 604)
    assert all(2 * before - 4 <= after for before, after in itertools.pairwise(distances[:5]))


def test_the_next_pause_is_short_again_after_a_run_that_lasted() -> None:
    start = datetime(2026, 6, 1, tzinfo=UTC)

    def ended(after_seconds: float) -> RunRecord:
        return RunRecord(1, "", "", "aborted", "", start, start + timedelta(seconds=after_seconds), TRAINED)

    assert pause_after([ended(20), ended(20), ended(20)]) == timedelta(seconds=40)
    assert pause_after([ended(3600), ended(20), ended(20)]) == timedelta(seconds=5)


def test_a_flower_that_does_not_answer_is_asked_again(
    world: World, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="fedshare_server.keeper")
    world.serve()
    world.is_down = True
    world.pass_time(keeper, 60)
    assert caplog.text.count("it will be tried again") == 1
    world.is_down = False
    world.pass_time(keeper, 3)
    assert world.started == [FIRST + 1]
