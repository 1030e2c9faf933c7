import http.client
import os
import signal
import subprocess
import sys
import threading

import pytest
from audit_federation import key_of

from fedshare.audit.log import AuditLog
from fedshare.audit.notes import COSIGNATURE, NoteKey, NoteSigner
from fedshare.audit.policy import Policy
from fedshare.audit.publication import Publisher
from fedshare.errors import ParameterError, StorageError, UnavailableError
from fedshare_clients.auditor.fetch import HttpWitness
from fedshare_clients.auditor.witness import Witness, WitnessServer

LOG = NoteSigner("example.org/log", key_of("log"))
SIGNER = NoteSigner("w.example", key_of("w"), COSIGNATURE)
POLICY = Policy.parse(f"log {LOG.key.vkey}\nwitness w {SIGNER.key.vkey}\nquorum w\n".encode())


def witness_in(folder):
    return Witness(folder, SIGNER, [LOG.key], lambda: 1_790_000_000.5)


@pytest.fixture
def server(tmp_path):
    with witness_in(tmp_path / "w") as witness, WitnessServer(("127.0.0.1", 0), witness) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def post(server, path, body, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers["Content-Type"]
    finally:
        connection.close()


def test_a_log_is_published_with_a_witness_over_http(server, tmp_path):
    publisher = Publisher({"w": HttpWitness(f"http://127.0.0.1:{server.server_address[1]}/")})
    with AuditLog.open(tmp_path / "log", LOG, POLICY) as log:
        for size in (1, 2):
            log.append([b"x"])
            assert publisher.publish(log).is_public
            assert POLICY.verify((tmp_path / "log/checkpoint").read_bytes()).size == size


def test_the_statuses_go_over_http_as_specified(server, tmp_path):
    with AuditLog.open(tmp_path / "log", LOG) as log:
        log.append([b"x"] * 5)
        assert post(server, "/add-checkpoint", log.submission(0))[0] == 200
        assert post(server, "/add-checkpoint", log.submission(0)) == (409, b"5\n", "text/x.tlog.size")
        assert post(server, "/add-checkpoint", b"old 0\n")[0] == 400
        assert post(server, "/else", log.submission(5))[0] == 404
        assert post(server, "/add-checkpoint", b"", **{"Content-Length": "9999999"})[0] == 400
        assert post(server, "/add-checkpoint", b"", **{"Content-Length": "-1"})[0] == 400


def test_a_witness_remembers_after_a_restart(tmp_path):
    with AuditLog.open(tmp_path / "log", LOG) as log:
        log.append([b"x"] * 5)
        first = log.submission(0)
        with witness_in(tmp_path / "w") as witness:
            assert witness.add_checkpoint(first).status == 200
            assert witness.key == SIGNER.key
        with witness_in(tmp_path / "w") as witness:
            assert witness.latest("example.org/log") == log.checkpoint
            answer = witness.add_checkpoint(first)
            assert (answer.status, answer.body) == (409, b"5\n")


def test_nothing_is_cosigned_that_could_not_be_stored(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    with AuditLog.open(tmp_path / "log", LOG) as log, witness_in(tmp_path / "w") as witness:
        log.append([b"x"])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refuse)
            with pytest.raises(StorageError):
                witness.add_checkpoint(log.submission(0))
        assert witness.latest("example.org/log") is None


def test_a_witness_that_cannot_store_answers_500(server, tmp_path, monkeypatch):
    with AuditLog.open(tmp_path / "log", LOG) as log:
        body = log.submission(0)
    monkeypatch.setattr(
        server.witness, "add_checkpoint", lambda _: (_ for _ in ()).throw(StorageError("full"))
    )
    assert post(server, "/add-checkpoint", body)[0] == 500


def test_a_damaged_memory_cosigns_nothing(tmp_path):
    with AuditLog.open(tmp_path / "log", LOG) as log, witness_in(tmp_path / "w") as witness:
        log.append([b"x"])
        witness.add_checkpoint(log.submission(0))
        (memory,) = (tmp_path / "w").glob("*.checkpoint")
        memory.write_bytes(b"")
        with pytest.raises(StorageError, match="damaged"):
            witness.add_checkpoint(log.submission(0))


def test_racing_requests_never_roll_the_witness_back(tmp_path):
    with AuditLog.open(tmp_path / "log", LOG) as log, witness_in(tmp_path / "w") as witness:
        bodies = []
        for _ in range(8):
            log.append([b"x"])
            bodies.append(log.submission(0))
        statuses = []
        threads = [
            threading.Thread(target=lambda b=b: statuses.append(witness.add_checkpoint(b).status))
            for b in bodies
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200] + [409] * 7


def test_two_processes_cannot_share_a_memory(tmp_path):
    with witness_in(tmp_path), pytest.raises(StorageError, match="another process"):
        witness_in(tmp_path)


def test_a_closed_witness_and_a_log_s_key_cosign_nothing(tmp_path):
    witness = witness_in(tmp_path)
    witness.close()
    with pytest.raises(StorageError):
        witness.add_checkpoint(b"")
    with pytest.raises(ParameterError):
        Witness(tmp_path, LOG, [LOG.key], lambda: 0.0)


def test_a_witness_that_is_not_there_is_unavailable():
    with pytest.raises(UnavailableError):
        HttpWitness("http://127.0.0.1:1")(b"")


def test_the_command_runs_a_witness(tmp_path):
    command = [
        *(sys.executable, "-m", "fedshare_clients.auditor.cli", "witness", "--state", tmp_path / "w"),
        *("--name", "w.example", "--key", tmp_path / "key", "--create-key", "--log", LOG.key.vkey),
        *("--listen", "127.0.0.1:0"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        _, vkey, _, url = process.stdout.readline().split()
        try:
            with AuditLog.open(tmp_path / "log", LOG) as log:
                status, body = HttpWitness(url)(log.submission(0))
            assert (status, body.decode().split()[1]) == (200, "w.example")
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    assert NoteKey.parse(vkey).kind == COSIGNATURE
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
