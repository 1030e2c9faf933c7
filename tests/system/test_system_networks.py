"""Banks alone, over real processes: a private network, whose budget stays spent at the node and stands in the log."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml
from generated_banks import write_banks

from fedshare.privacy.budget import Spending
from fedshare_clients.node.state import NodeState

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.system

COMMAND = [sys.executable, "-c", "import sys; from fedshare_clients.local.cli import main; sys.exit(main())"]
BANKS = ("bank-a", "bank-b", "bank-c")


def write(folder: Path) -> Path:
    document = {
        "name": "networks",
        "seed": 1,
        "minimum_cohort": 20,
        "alignment": {"identifier": "opaque", "quota": 1},
        "outputs": {"coordinator_metrics": False},
        "bank_model": {"kind": "mlp", "settings": {"hidden": 8}, "rounds": 3, "learning_rate": 0.2},
        "privacy": {
            "labels": {"epsilon": 4.0},
            "network": {
                "epsilon": 2.0,
                "delta": 1e-5,
                "sample_rate": 0.2,
                "lot_size": 120,
                "ranges": {"amount": [-2.0, 2.0], "usage": [-2.0, 2.0]},
            },
        },
        "parties": write_banks(folder, BANKS),
    }
    path = folder / "networks.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_banks_alone_train_a_private_network_and_keep_what_it_took(tmp_path):
    command = [*COMMAND, "run", str(write(tmp_path)), "--check", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["auc"]) == {"bank_only", "federated", "pooled"}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<td>network</td><td>ε 2, δ 1e-05</td>") == len(BANKS)
    for bank in BANKS:
        assert report["privacy"][bank]["network"]["spent"] == {"epsilon": 2.0, "delta": 1e-5}
        kept = NodeState(tmp_path / "out" / bank / "state").privacy_spent()
        assert kept == [Spending("labels", "1", 4.0, 0.0), Spending("network", "", 2.0, 1e-5)]
    (run,) = (tmp_path / "out" / "bank-a" / "state" / "runs").iterdir()
    networks = [
        json.loads((tmp_path / "out" / bank / "state" / "runs" / run.name / "result.json").read_text())[
            "network"
        ]
        for bank in BANKS
    ]
    assert len({network["parameters"] for network in networks}) == 1
