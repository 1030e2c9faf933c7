"""The notary killed at any moment: what was acknowledged is in the log, once and in its order."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from fedshare.audit.entries import Entry, EntrySigner
from fedshare.audit.log import AuditLog
from fedshare.audit.policy import any_of
from fedshare.audit.statements import Scoring
from fedshare.audit.storage import FolderSource
from fedshare.audit.tiles import TILE_WIDTH, read_bundle
from fedshare.errors import StorageError
from fedshare.identity.keys import IdentityKey
from fedshare_server.authority import initialise
from fedshare_server.config import ServerConfig, StateFolder
from fedshare_server.log_keys import LogKeys
from fedshare_server.notary import Notary
from fedshare_server.storage import open_store

if TYPE_CHECKING:
    from pathlib import Path

KILLS = 40
SIGNER = EntrySigner(IdentityKey.from_raw(bytes(32)))


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    state = StateFolder(tmp_path / "state")
    state.path.mkdir()
    initialise(state, ServerConfig(), datetime.now(UTC))
    return state


def statement(count: int) -> Scoring:
    return Scoring(issuer="bank", issued_at=count, contract_digest="ab" * 32, count=count)


def say(state: StateFolder, first: int, acknowledge: int) -> None:
    """In a child: state one thing after the other until killed, and tell what is acknowledged."""
    store = open_store(f"sqlite:///{state.path / 'fedshare.db'}")
    with Notary(state.log_folder, LogKeys.load(state), store) as notary:
        for count in range(first, first + 10_000):
            number = store.add_entry(SIGNER.sign(statement(count)))
            if count % 8 == 0:
                notary.await_places([number], 20)
            os.write(acknowledge, b"%d\n" % count)


def say_until_killed(state: StateFolder, first: int, seconds: float) -> int:
    """Return the last number that a child acknowledged before it was killed, or ``first - 1``."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with suppress(BaseException):
            say(state, first, writer)
        os._exit(1)
    os.close(writer)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    with os.fdopen(reader) as lines:
        acknowledged = [int(line) for line in lines if line.endswith("\n")]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    return acknowledged[-1] if acknowledged else first - 1


def logged(state: StateFolder) -> list[int]:
    with AuditLog.open(state.log_folder, LogKeys.load(state).signer) as log:
        size = log.checkpoint.size
    source, entries = FolderSource(state.log_folder), []
    for first in range(0, size, TILE_WIDTH):
        entries += read_bundle(source, first // TILE_WIDTH, min(TILE_WIDTH, size - first))
    said = [Entry.parse(entry).statement for entry in entries]
    return [each.count for each in said if isinstance(each, Scoring)]


def test_killed_at_any_moment_nothing_acknowledged_is_lost_doubled_or_out_of_order(
    state: StateFolder,
) -> None:
    draw, reached = random.Random(7), -1
    for _ in range(KILLS):
        # What was not acknowledged may have been stored all the same; saying it again changes nothing.
        reached = say_until_killed(state, reached + 1, draw.uniform(0.05, 0.25))
    assert reached > 0
    store = open_store(f"sqlite:///{state.path / 'fedshare.db'}")
    with Notary(state.log_folder, LogKeys.load(state), store) as notary:
        notary.await_places([store.add_entry(SIGNER.sign(statement(reached + 1)))], 20)
    store.close()
    counts = logged(state)
    assert counts == list(range(len(counts)))
    assert counts[-1] >= reached + 1


def test_what_reached_the_log_before_the_database_heard_of_it_is_not_logged_again(state: StateFolder) -> None:
    store = open_store(f"sqlite:///{state.path / 'fedshare.db'}")
    keys = LogKeys.load(state)
    with Notary(state.log_folder, keys, store) as notary:
        notary.await_places([store.add_entry(SIGNER.sign(statement(0)))], 20)
    numbers = [store.add_entry(SIGNER.sign(statement(count))) for count in (1, 2)]
    with AuditLog.open(state.log_folder, keys.signer, any_of(keys.signer.key, [])) as log:
        log.append([SIGNER.sign(statement(count)) for count in (1, 2)])
    with Notary(state.log_folder, keys, store) as notary:
        assert notary.await_places(numbers, 20) == [2, 3]  # after the coordinator's enrolment and number 0
    store.close()
    assert logged(state) == [0, 1, 2]


@pytest.mark.parametrize("cause", [StorageError("no space left"), ValueError("a defect")])
def test_a_disk_that_refuses_or_a_defect_ends_the_serving_with_the_cause(
    state: StateFolder, monkeypatch: pytest.MonkeyPatch, cause: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise cause

    store = open_store(f"sqlite:///{state.path / 'fedshare.db'}")
    with Notary(state.log_folder, LogKeys.load(state), store) as notary:
        notary.await_places([store.add_entry(SIGNER.sign(statement(0)))], 20)
        monkeypatch.setattr(AuditLog, "_write_tiles", refuse)
        with pytest.raises(StorageError, match=f"not kept any more: {cause}"):
            notary.await_places([store.add_entry(SIGNER.sign(statement(1)))], 20)
        with pytest.raises(StorageError, match="not kept any more"):
            notary.verify_alive()
    store.close()
