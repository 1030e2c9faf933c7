"""A bank whose node is killed in mid-training, over real processes: the others complete, and the log says nothing bad."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.csv
import pytest
import yaml

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.system

COMMAND = [sys.executable, "-c", "import sys; from fedshare_clients.local.cli import main; sys.exit(main())"]
BANKS = ("bank-a", "bank-b", "bank-c", "bank-d")
LEFT = ("bank-a", "bank-b", "bank-d")
ROUNDS = 300


def write(folder: Path, lost_bank: str) -> Path:
    rng = np.random.default_rng(3)
    parties = {}
    for number, bank in enumerate(BANKS):
        amount, usage = rng.normal(size=(2, 300))
        bad = (rng.random(300) < 1 / (1 + np.exp(1.0 - 2.0 * amount * usage))).astype(np.int64)
        names = [f"enterprise-{1000 * number + row:06d}" for row in range(300)]
        table = pa.table({"code": names, "amount": amount, "usage": usage, "bad": bad})
        pyarrow.csv.write_csv(table, folder / f"{bank}.csv")
        parties[bank] = {
            "role": "label_holder",
            "source": {"kind": "csv", "path": f"{bank}.csv", "identifier": "code", "label": "bad"},
            "columns": ["amount", "usage"],
        }
    document = {
        "name": "lost-bank",
        "seed": 1,
        "minimum_cohort": 20,
        "alignment": {"identifier": "opaque", "quota": 1},
        "between_banks": {"lost_bank": lost_bank},
        "bank_model": {"kind": "mlp", "settings": {"hidden": 8}, "rounds": ROUNDS},
        "parties": parties,
    }
    path = folder / "lost-bank.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def kill_in_training(federation: subprocess.Popen[str], bank: str, log: Path) -> None:
    """Kill the whole node of ``bank``, as a power cut would, once two rounds are over."""
    deadline = time.monotonic() + 150
    while not (log.exists() and re.search(r"^bank-a +train +[2-9]", log.read_text(), re.MULTILINE)):
        assert federation.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (node,) = [
        child
        for child in psutil.Process(federation.pid).children()
        if f"{bank}/node.yaml" in " ".join(child.cmdline())
    ]
    os.killpg(node.pid, signal.SIGKILL)


@pytest.mark.parametrize("lost_bank", ["repeat", "recover"])
def test_the_others_complete_without_a_bank_that_was_killed_in_training(tmp_path, lost_bank):
    out = tmp_path / "out"
    federation = subprocess.Popen(
        [*COMMAND, "run", str(write(tmp_path, lost_bank)), "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        kill_in_training(federation, "bank-c", out / "logs" / "train.log")
        printed, _ = federation.communicate(timeout=240)
    finally:
        federation.terminate()
    assert federation.returncode == 0, printed[-3000:]
    assert "bank-c: its node has ended; the contract lets the others go on without it" in printed
    assert re.search(r"^audit: .*cosigned by .*; the log is good$", printed, re.MULTILINE)
    report = json.loads((out / "report.json").read_text())
    assert report["lost_banks"] == ["bank-c"]
    assert list(report["banks"]) == list(LEFT)
    assert report["all_banks"]["banks"] == len(LEFT)
    assert report["iterations"] == ROUNDS
    runs = {bank: out / bank / "state" / "runs" / str(report["run_id"]) for bank in BANKS}
    assert not (runs["bank-c"] / "result.json").exists()
    kept = [json.loads((runs[bank] / "result.json").read_text())["network"] for bank in LEFT]
    assert len({network["parameters"] for network in kept}) == 1
    assert report["history"][-1]["loss"] < report["history"][0]["loss"]
