import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedshare.audit.checkpoint import Checkpoint
from fedshare.audit.hashing import EMPTY_ROOT, leaf_hash, root_of_leaves
from fedshare.audit.log import PENDING_PATH, AuditLog
from fedshare.audit.notes import COSIGNATURE, NoteSigner
from fedshare.audit.policy import Policy
from fedshare.audit.publication import Publisher
from fedshare.audit.receipts import Receipt, make_receipt
from fedshare.audit.storage import FolderSource
from fedshare.audit.tiles import read_bundle, resource_paths
from fedshare.audit.witnessing import add_checkpoint
from fedshare.errors import ConfigError, ParameterError, ProtocolError, StorageError, UnavailableError


def signer_of(seed, name="example.org/log", kind=1):
    return NoteSigner(name, Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32), kind)


SIGNER = signer_of(1)
POLICY = Policy.parse(f"log {SIGNER.key.vkey}\nquorum none\n".encode())
WITNESSES = {f"w{i}": signer_of(10 + i, f"w{i}.example", COSIGNATURE) for i in range(3)}
WITNESSED = Policy.parse(
    "\n".join(
        [
            f"log {SIGNER.key.vkey}",
            *(f"witness {name} {signer.key.vkey}" for name, signer in WITNESSES.items()),
            "group two 2 w0 w1 w2",
            "quorum two",
        ]
    ).encode()
)


def read_all(folder):
    """Read and check everything under the published checkpoint, the slow and obvious way."""
    source = FolderSource(folder)
    size = POLICY.verify(source.read("checkpoint")).size
    entries = [e for at in range(0, size, 256) for e in read_bundle(source, at // 256, min(256, size - at))]
    assert root_of_leaves([*map(leaf_hash, entries)]) == POLICY.verify(source.read("checkpoint")).root
    for path in resource_paths(size):
        with contextlib.suppress(UnavailableError):
            source.read(path)
            continue
        assert ".p/" in path
        source.read(path.partition(".p/")[0])  # only a partial one may be gone, and only for the full one
    return entries


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 700), st.booleans()), max_size=6))
def test_whatever_the_batches_and_restarts_the_tree_is_the_entries_in_order(tmp_path_factory, batches):
    folder, entries = tmp_path_factory.mktemp("log"), []
    log = AuditLog.open(folder, SIGNER)
    for count, restarts in batches:
        new = [b"%d" % i for i in range(len(entries), len(entries) + count)]
        assert log.append(new) == range(len(entries), len(entries) + count)
        entries += new
        if restarts:
            log.close()
            log = AuditLog.open(folder, SIGNER)
    log.close()
    assert log.checkpoint.root == root_of_leaves([*map(leaf_hash, entries)])
    assert read_all(folder) == entries


def test_a_new_log_signs_the_empty_tree(tmp_path):
    with AuditLog.open(tmp_path / "a/b", SIGNER) as log:
        assert log.checkpoint == Checkpoint("example.org/log", 0, EMPTY_ROOT)
    assert read_all(tmp_path / "a/b") == []


def test_partial_tiles_go_once_the_full_one_is_published(tmp_path):
    with AuditLog.open(tmp_path, SIGNER) as log:
        log.append([b"x"] * 200)
        assert (tmp_path / "tile/0/000.p/200").exists()
        log.append([b"x"] * 60)
    assert not (tmp_path / "tile/0/000.p").exists()
    assert sorted(p.name for p in (tmp_path / "tile/entries").rglob("*") if p.is_file()) == ["000", "4"]


def test_a_second_writer_is_refused(tmp_path):
    with AuditLog.open(tmp_path, SIGNER), pytest.raises(StorageError, match="another process"):
        AuditLog.open(tmp_path, SIGNER)


def test_entries_that_do_not_fit_are_refused_and_nothing_is_appended(tmp_path):
    with AuditLog.open(tmp_path, SIGNER) as log:
        for entries in ([], [b"ok", bytes(65_536)]):
            with pytest.raises(ParameterError):
                log.append(entries)
        assert log.append([bytes(65_535)]) == range(1)


def test_a_closed_log_takes_nothing(tmp_path):
    with AuditLog.open(tmp_path, SIGNER) as log:
        pass
    with pytest.raises(StorageError):
        log.append([b"x"])


@pytest.mark.parametrize("path", ["tile/0/000.p/3", "tile/entries/000.p/3", "checkpoint"])
def test_a_folder_that_is_not_what_was_signed_is_not_signed_on(tmp_path, path):
    with AuditLog.open(tmp_path, SIGNER) as log:
        log.append([b"a", b"b", b"c"])
    good = (tmp_path / path).read_bytes()
    for bad in (good[:-1], good[:-2] + bytes([good[-2] ^ 1]) + good[-1:], b""):
        (tmp_path / path).write_bytes(bad)
        with pytest.raises(StorageError):
            AuditLog.open(tmp_path, SIGNER)
    (tmp_path / path).unlink()
    with pytest.raises(StorageError):
        AuditLog.open(tmp_path, SIGNER)


def test_another_key_or_origin_does_not_open_the_log(tmp_path):
    AuditLog.open(tmp_path, SIGNER).close()
    for other in (signer_of(2), signer_of(1, "example.org/other")):
        with pytest.raises(StorageError):
            AuditLog.open(tmp_path, other)


def test_a_policy_of_another_log_is_refused(tmp_path):
    with pytest.raises(ConfigError):
        AuditLog.open(tmp_path, signer_of(2), POLICY)


def test_a_full_disk_ends_the_log_and_loses_nothing(tmp_path, monkeypatch):
    with AuditLog.open(tmp_path, SIGNER) as log:
        log.append([b"a"] * 10)

        def refuse(*_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refuse)
            with pytest.raises(StorageError, match="No space left"):
                log.append([b"b"])
        with pytest.raises(StorageError, match="open it again"):
            log.append([b"c"])
    with AuditLog.open(tmp_path, SIGNER) as log:
        assert log.append([b"d"]) == range(10, 11)
    assert read_all(tmp_path) == [b"a"] * 10 + [b"d"]


# Witnesses.


def clients(stored, seconds=1_700_000_000):
    def client_of(name):
        def ask(body):
            answer = add_checkpoint(body, [SIGNER.key], stored.get(name), WITNESSES[name], seconds)
            stored[name] = answer.seen or stored.get(name)
            return answer.status, answer.body

        return ask

    return {name: client_of(name) for name in WITNESSES}


def test_a_checkpoint_is_public_only_once_the_quorum_has_cosigned(tmp_path):
    stored = {}
    with AuditLog.open(tmp_path, SIGNER, WITNESSED) as log:
        log.append([b"a"])
        assert not (tmp_path / "checkpoint").exists()
        with pytest.raises(UnavailableError):
            make_receipt(FolderSource(tmp_path), 0)
        one = {"w0": clients(stored)["w0"]}
        assert not Publisher(one).publish(log).is_public
        assert Publisher({"w1": clients(stored)["w1"]}).publish(log).is_public
        assert not (tmp_path / PENDING_PATH).exists()
    WITNESSED.verify((tmp_path / "checkpoint").read_bytes())


def test_what_waits_for_witnesses_survives_a_restart(tmp_path):
    stored = {}
    with AuditLog.open(tmp_path, SIGNER, WITNESSED) as log:
        log.append([b"a"])
        Publisher(clients(stored)).publish(log)
        log.append([b"b"])
    assert WITNESSED.verify((tmp_path / "checkpoint").read_bytes()).size == 1
    with AuditLog.open(tmp_path, SIGNER, WITNESSED) as log:
        assert log.checkpoint.size == 2
        assert Publisher(clients(stored)).publish(log).is_public
    assert WITNESSED.verify((tmp_path / "checkpoint").read_bytes()).size == 2


def test_a_witness_that_fails_or_lies_does_not_stop_the_others(tmp_path):
    def lie(body):
        return 200, signer_of(99, "w0.example", COSIGNATURE).sign("something\n").encode()

    def fail(body):
        raise UnavailableError("not there")

    stored = {}
    asks = {**clients(stored), "w0": lie}
    with AuditLog.open(tmp_path, SIGNER, WITNESSED) as log:
        log.append([b"a"])
        assert Publisher(asks).publish(log).is_public
        log.append([b"b"])
        publication = Publisher({**asks, "w1": fail}).publish(log)
    assert not publication.is_public
    assert publication.failures == {"w1": "not there"}


@pytest.mark.parametrize(
    "answer", [(409, b"x\n"), (409, b"99\n"), (409, b"\xff"), (500, b""), (200, b"\xff"), (200, b"")]
)
def test_a_witness_s_nonsense_is_a_failure_and_nothing_more(tmp_path, answer):
    with AuditLog.open(tmp_path, SIGNER, WITNESSED) as log:
        log.append([b"a"])
        assert not Publisher({"w0": lambda _: answer}).publish(log).is_public


def test_a_receipt_of_the_log_is_checked_with_its_policy(tmp_path):
    entries = [b"%d" % i for i in range(300)]
    with AuditLog.open(tmp_path, SIGNER, WITNESSED) as log:
        log.append(entries)
        Publisher(clients({})).publish(log)
    for index in (0, 255, 256, 299):
        receipt = Receipt.parse(make_receipt(FolderSource(tmp_path), index).to_bytes())
        assert receipt.extra == entries[index]
        receipt.verify(receipt.extra, WITNESSED)
        with pytest.raises(ProtocolError):
            receipt.verify(b"else", WITNESSED)
    with pytest.raises(ParameterError):
        make_receipt(FolderSource(tmp_path), 300)


def test_a_checkpoint_that_lacked_only_its_renaming_is_public_after_a_restart(tmp_path):
    with AuditLog.open(tmp_path, SIGNER) as log:
        log.append([b"a"])
    (tmp_path / "checkpoint").rename(tmp_path / PENDING_PATH)
    AuditLog.open(tmp_path, SIGNER).close()
    assert read_all(tmp_path) == [b"a"]


# Kill -9.


def append_until_killed(folder, seed, acknowledge, kill_at):
    """In a child: append random batches, tell what was acknowledged, die at storage step ``kill_at``."""
    steps = iter(range(1, 10**9))

    def step():
        if next(steps) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(function):
        def wrapped(*arguments, **options):
            step()
            result = function(*arguments, **options)
            step()
            return result

        return wrapped

    os.fsync, os.open, Path.replace, Path.mkdir, os.write = map(
        wrap, (os.fsync, os.open, Path.replace, Path.mkdir, os.write)
    )
    draw = random.Random(seed)
    log = AuditLog.open(folder, SIGNER)
    while True:
        places = log.append([b"%d/%d" % (seed, i) for i in range(draw.choice([1, 2, 30, 90]))])
        acknowledge(f"{places.start} {places.stop} {seed}\n".encode())


def kill_one(folder, seed, kill_at, delay):
    """Run a child to its death; return the acknowledged (start, stop, seed) lines."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        plain = os.write
        with contextlib.suppress(BaseException):
            append_until_killed(folder, seed, lambda line: plain(writer, line), kill_at)
        os._exit(1)
    os.close(writer)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader) as lines:
        acknowledged = [tuple(map(int, line.split())) for line in lines if line.endswith("\n")]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    return acknowledged


def test_killed_at_200_random_points_the_log_verifies_and_no_acknowledged_entry_is_lost(tmp_path):
    draw = random.Random(20_261_124)
    acknowledged = []
    for seed in range(200):
        delay = draw.uniform(0.0, 0.03) if seed % 4 == 0 else None
        kill_at = 10**9 if delay is not None else draw.randint(1, 120)
        acknowledged += kill_one(tmp_path, seed, kill_at, delay)
        if seed % 20 == 19 and (tmp_path / "checkpoint").exists():
            entries = read_all(tmp_path)
            for start, stop, author in acknowledged:
                assert entries[start:stop] == [b"%d/%d" % (author, i) for i in range(stop - start)]
    assert len(acknowledged) > 50
    with AuditLog.open(tmp_path, SIGNER) as log:
        assert log.checkpoint.size >= max(stop for _, stop, _ in acknowledged)
