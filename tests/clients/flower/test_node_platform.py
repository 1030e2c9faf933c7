"""What a node keeps of a run, whatever the disk says."""

import gc
import os
import subprocess
import sys
import weakref
from types import SimpleNamespace

import pytest
import yaml

from fedshare.errors import ProtocolError, StorageError
from fedshare_clients.node.config import load_config
from fedshare_clients.node.platform import NodePlatform
from fedshare_clients.node.state import NodeState

SETTINGS = {
    "party": "tax",
    "role": "feature_holder",
    "coordinator": {"address": "127.0.0.1:1", "fleet": "127.0.0.1:2"},
    "data": {
        "source": "csv",
        "path": "rows.csv",
        "identifier": "code",
        "columns": {"turnover": {"kind": "numeric"}},
    },
}


def make_platform(tmp_path):
    (tmp_path / "node.yaml").write_text(yaml.safe_dump(SETTINGS))
    config = load_config(tmp_path / "node.yaml")
    state = NodeState(config.state)
    state.create(config.role, os.urandom)
    (state.folder / "coordinator-ca.pem").write_bytes(b"authority")
    (state.folder / "tls-certificate.pem").write_bytes(b"certificate")
    noted = []
    trail = SimpleNamespace(
        note=lambda kind, *_, **_fields: noted.append(kind), commit_head=lambda *_: noted.append("head")
    )
    return NodePlatform(config, state, trail), state, noted


def test_a_result_is_not_replaced_and_neither_is_the_cause_of_an_end(tmp_path):
    platform, state, _ = make_platform(tmp_path)
    platform.save_result(7, {"contract_digest": "ab", "weights": [1.0]}, None)
    with pytest.raises(ProtocolError, match="not replaced"):
        platform.save_result(7, {"contract_digest": "ab", "weights": [2.0]}, None)
    assert platform.load_result(7)["weights"] == [1.0]
    for cause in ("a peer left", "begun already"):
        platform.save_failure(8, "train", ProtocolError(cause))
    assert state.read_run_json(8, "failure.json")["message"] == "a peer left"
    assert {run.run_id: run.message for run in state.runs()} == {7: "model complete", 8: "a peer left"}


def test_the_end_of_a_run_is_kept_although_its_folder_cannot_be_made(tmp_path):
    platform, state, noted = make_platform(tmp_path)
    (state.folder / "runs").rmdir()
    (state.folder / "runs").write_text("in the way")
    platform.save_failure(7, "evaluate", StorageError("no space left"))
    (run,) = state.runs()
    assert (run.run_id, run.status, run.phase, run.message) == (7, "failed", "evaluate", "no space left")
    assert noted == ["failed", "head"]


def test_what_a_run_did_not_hand_over_goes_with_it(tmp_path, monkeypatch):
    class Client:
        def __init__(self, *_, **__):
            self.kept = bytes(8)

    monkeypatch.setattr("fedshare_clients.node.platform.ExchangeClient", Client)
    platform, _, _ = make_platform(tmp_path)
    client = platform.open_transport(7, frozenset({"bank"}))
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None


def test_a_node_starts_without_torch_and_the_privacy_accountant():
    heavy = ("torch", "dp_accounting")
    code = f"import sys, fedshare_clients.node.platform; sys.exit(any(name in sys.modules for name in {heavy!r}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
