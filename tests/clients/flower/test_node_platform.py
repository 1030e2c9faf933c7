"""What a node keeps of a run, whatever the disk says."""

import os
from types import SimpleNamespace

import yaml

from fedshare.errors import StorageError
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


def test_the_end_of_a_run_is_kept_although_its_folder_cannot_be_made(tmp_path):
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
    platform = NodePlatform(config, state, trail)
    (state.folder / "runs").rmdir()
    (state.folder / "runs").write_text("in the way")
    platform.save_failure(7, "evaluate", StorageError("no space left"))
    (run,) = state.runs()
    assert (run.run_id, run.status, run.phase, run.message) == (7, "failed", "evaluate", "no space left")
    assert noted == ["failed", "head"]
