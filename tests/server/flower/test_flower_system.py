"""A real SuperLink behind its gate and real SuperNodes with our executor: TLS, node keys, loopback."""

from __future__ import annotations

import io
import json
import os
import socket
import ssl
import subprocess
import sys
import time
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fedshare.audit.entries import EntrySigner
from fedshare.audit.statements import Approval
from fedshare.identity.keys import IdentityKey
from fedshare_server.storage import InvitationRecord, PartyRecord, Store, open_store
from fedshare_server.superlink import Superlink, SuperlinkSettings, _write_loopback_certificate, build_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedshare_server.storage import RunRecord

pytestmark = pytest.mark.system

PARTIES = ("bank", "tax")
COMPLETE, REFUSED, CODE, DEATH = (word * 32 for word in ("a0", "b1", "c2", "d3"))
# What it says does not matter here, but it has to be a contract; these tests call it by digests of their own.
VECTORS = Path(__file__).parents[2] / "vectors/identity/contract.json"
CONTRACT = json.loads(VECTORS.read_text(encoding="utf-8"))["canonical"].encode()
PHASES = ["hello", "align", "prepare", "train", "evaluate", "close"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Federation:
    """Everything that the tests of this module share; made once."""

    root: Path
    store: Store
    superlink: Superlink
    ports: tuple[int, int]
    stack: ExitStack
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def ca(self) -> Path:
        return self.root / "server.pem"

    def make_key(self, party: str) -> str:
        key = ec.generate_private_key(ec.SECP384R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        (self.root / f"{party}.key").write_bytes(pem)
        return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()

    def enrol(self, number: int, party: str) -> None:
        public, now = self.make_key(party), datetime.now(UTC)
        digest = f"{number:064x}"
        self.store.add_invitation(
            InvitationRecord(digest, party, "feature_holder", False, now + timedelta(days=1))
        )
        self.store.enrol(
            digest,
            PartyRecord(party, "feature_holder", bytes([number] * 32), public, str(number), digest, now),
            entry(party),
        )
        self.superlink.register_node(public)

    def start_node(self, party: str) -> None:
        behaviour = {REFUSED: {"prepare": "refuse"}, DEATH: {"align": "die"}} if party == "tax" else {}
        words = {"party": party, "behaviour": behaviour, "fleet": f"127.0.0.1:{self.ports[0]}"}
        paths = {
            "ca": self.ca,
            "key": self.root / f"{party}.key",
            "folder": self.root / party,
            "ready": self.root / f"{party}.ready",
            "journal": self.root / f"{party}.journal",
        }
        settings = self.root / f"{party}.json"
        settings.write_text(json.dumps(words | {name: str(path) for name, path in paths.items()}))
        script = Path(__file__).with_name("flower_scripted_node.py")
        with (self.root / f"{party}.log").open("wb") as log:
            node = subprocess.Popen([sys.executable, str(script), str(settings)], stdout=log, stderr=log)
        self.stack.callback(end, node)
        self.nodes[party] = node

    def await_nodes(self) -> list[int]:
        files = [self.root / f"{party}.ready" for party in self.nodes]
        wait_for(lambda: all(file.is_file() and file.read_text() for file in files), 60)
        return [int(file.read_text()) for file in files]

    def await_end(self, run_id: int, seconds: float = 120) -> RunRecord:
        wait_for(lambda: self.superlink.run_status(run_id).startswith("finished"), seconds)
        record = self.store.find_run(run_id)
        assert record is not None
        return record

    def heard(self, party: str, run_id: int) -> list[dict[str, Any]]:
        journal = self.root / f"{party}.journal"
        lines = journal.read_text().splitlines() if journal.exists() else []
        return [line for line in map(json.loads, lines) if line["run"] == run_id]


def entry(party: str) -> bytes:
    """Something for the audit log, which nobody keeps here."""
    said = Approval(issuer=party, issued_at=1, contract_digest=COMPLETE)
    return EntrySigner(IdentityKey.generate(os.urandom)).sign(said)


def wait_for(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    root = tmp_path_factory.mktemp("flower")
    _write_loopback_certificate(root / "server.pem", root / "server.key", datetime.now(UTC))
    ports = free_port(), free_port()
    url = f"sqlite:///{root / 'fedshare.db'}"
    settings = SuperlinkSettings(
        root / "superlink", url, root / "server.pem", root / "server.key", *ports, bind="127.0.0.1"
    )
    with ExitStack() as stack:
        store = open_store(url)
        stack.callback(store.close)
        superlink = stack.enter_context(Superlink(settings))
        federation = Federation(root, store, superlink, ports, stack)
        for digest in (COMPLETE, REFUSED, CODE, DEATH):
            store.add_contract(digest, digest[:2], CONTRACT, PARTIES)
        for number, party in enumerate(PARTIES):
            federation.enrol(number, party)
        for party in PARTIES:
            federation.start_node(party)
        federation.await_nodes()
        yield federation
    assert not psutil.Process().children(recursive=True)


def bundle_with_code(marker: Path) -> bytes:
    bundle = io.BytesIO(build_bundle())
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr("fedshare_clients/node/app.py", f"open({str(marker)!r}, 'w')\n")
    return bundle.getvalue()


@pytest.fixture(scope="module")
def runs(federation: Federation) -> dict[str, int]:
    """Three runs at once: a node takes their messages one after the other."""
    bundle = bundle_with_code(federation.root / "code-ran")
    return {
        COMPLETE: federation.superlink.start_run(COMPLETE),
        REFUSED: federation.superlink.start_run(REFUSED),
        CODE: federation.superlink._submit(bundle, CODE),
    }


def test_a_run_goes_through_every_phase_at_every_party(federation: Federation, runs: dict[str, int]) -> None:
    run_id = runs[COMPLETE]
    assert federation.await_end(run_id).status == "completed"
    assert federation.superlink.run_status(run_id) == "finished:completed"
    for party in PARTIES:
        heard = federation.heard(party, run_id)
        assert [line["phase"] for line in heard] == PHASES
        assert heard[1]["hellos"] == ["hello of bank", "hello of tax"]


def test_a_refusal_ends_the_run_at_every_party_with_its_cause(
    federation: Federation, runs: dict[str, int]
) -> None:
    run_id = runs[REFUSED]
    record = federation.await_end(run_id)
    assert (record.status, record.phase) == ("refused", "prepare")
    assert record.reason == "tax: the contract ended yesterday [contract_expired]"
    for party in PARTIES:
        last = federation.heard(party, run_id)[-1]
        assert (last["phase"], last["reason"]) == ("close", record.reason)
    assert record.reason in federation.superlink.run_status(run_id)


def test_a_bundle_with_code_is_refused_and_nothing_of_it_runs(
    federation: Federation, runs: dict[str, int]
) -> None:
    run_id = runs[CODE]
    record = federation.await_end(run_id)
    assert record.status == "refused"
    assert "[bundle_carries_code]" in record.reason
    assert not (federation.root / "code-ran").exists()
    assert not any(federation.heard(party, run_id) for party in PARTIES)


def test_only_fleet_methods_pass_the_gate(federation: Federation) -> None:
    outside = f"https://127.0.0.1:{federation.ports[0]}"
    with httpx.Client(verify=ssl.create_default_context(cafile=federation.ca), trust_env=False) as client:
        for path in (
            "control/list-nodes",
            "control/start-run",
            "runtime/acquire-task",
            "fleet/register-node",
            "fleet/%2e%2e/control/list-nodes",
            "fleet/../control/list-nodes",
        ):
            assert client.post(f"{outside}/v1/{path}", content=b"").status_code == 404
        assert client.get(f"{outside}/docs").status_code == 404


def test_flower_listens_outside_on_the_gate_alone(federation: Federation) -> None:
    listening = [
        connection.laddr.ip
        for process in psutil.Process().children(recursive=True)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}


def test_a_node_with_an_unregistered_key_is_refused(federation: Federation) -> None:
    federation.make_key("stranger")
    federation.start_node("stranger")
    stranger = federation.nodes.pop("stranger")
    assert stranger.wait(60) != 0
    log = (federation.root / "stranger.log").read_text()
    assert "UnavailableError: the SuperNode has ended" in log


def test_the_death_of_a_node_ends_the_run_at_the_others(federation: Federation, runs: dict[str, int]) -> None:
    for run_id in runs.values():
        federation.await_end(run_id)
    supernode = int((federation.root / "tax.ready").read_text())
    run_id = federation.superlink.start_run(DEATH)
    record = federation.await_end(run_id)
    assert record.status == "failed"
    assert record.reason == "tax: its node has gone or cannot be reached [node_lost]"
    assert federation.heard("bank", run_id)[-1] == {
        "run": run_id,
        "phase": "close",
        "reason": record.reason,
        "hellos": [],
    }
    wait_for(lambda: not psutil.pid_exists(supernode) or is_zombie(supernode), 20)


def is_zombie(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
