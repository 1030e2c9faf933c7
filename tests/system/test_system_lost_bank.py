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

import psutil
import pytest
import yaml
from generated_banks import write_banks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.system

COMMAND = [sys.executable, "-c", "import sys; from fedshare_clients.local.cli import main; sys.exit(main())"]
NODE = [sys.executable, "-c", "import sys; from fedshare_clients.node.cli import main; sys.exit(main())"]
BANKS = ("bank-a", "bank-b", "bank-c", "bank-d")
LEFT = ("bank-a", "bank-b", "bank-d")
ROUNDS = 250


def write(folder: Path, lost_bank: str) -> Path:
    document = {
        "name": "lost-bank",
        "seed": 1,
        "minimum_cohort": 20,
        "alignment": {"identifier": "opaque", "quota": 1},
        "between_banks": {"lost_bank": lost_bank},
        "bank_model": {"kind": "mlp", "settings": {"hidden": 8}, "rounds": ROUNDS},
        "parties": write_banks(folder, BANKS, strength=2.0),
    }
    path = folder / "lost-bank.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def start(folder: Path, lost_bank: str) -> subprocess.Popen[bytes]:
    folder.mkdir()
    command = [*COMMAND, "run", str(write(folder, lost_bank)), "--out", str(folder / "out")]
    with (folder / "printed.txt").open("wb") as printed:
        return subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


def restart(folder: Path, bank: str) -> subprocess.Popen[bytes]:
    """Start the node again, as a service manager would, before anybody can call it lost."""
    command = [*NODE, "--config", str(folder / "out" / bank / "node.yaml"), "run"]
    with (folder / "restarted.txt").open("wb") as printed:
        return subprocess.Popen(
            command,
            stdout=printed,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def kill_in_training(federation: subprocess.Popen[bytes], folder: Path, bank: str) -> bool:
    """Kill the whole node of ``bank``, as a power cut would, once two rounds are over; say whether they are."""
    printed = (folder / "printed.txt").read_text()
    assert federation.poll() is None, printed[-3000:]
    if not re.search(r"^bank-a +train +[2-9]", printed, re.MULTILINE):
        return False
    (node,) = [
        child
        for child in psutil.Process(federation.pid).children()
        if f"{bank}/node.yaml" in " ".join(child.cmdline())
    ]
    os.killpg(node.pid, signal.SIGKILL)
    return True


@pytest.fixture(scope="module")
def federations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, int]]]:
    """Two federations side by side, since each waits half a minute for the bank: folder and exit code.

    In the second one the node comes back at once.
    """
    root, begun, back = tmp_path_factory.mktemp("lost"), {}, None
    try:
        for lost_bank in ("repeat", "recover"):
            begun[lost_bank] = start(root / lost_bank, lost_bank)
        waiting, deadline = dict(begun), time.monotonic() + 240
        while waiting:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            for lost_bank, process in list(waiting.items()):
                if kill_in_training(process, root / lost_bank, "bank-c"):
                    del waiting[lost_bank]
                    if lost_bank == "recover":
                        back = restart(root / lost_bank, "bank-c")
        yield {lost_bank: (root / lost_bank, process.wait(240)) for lost_bank, process in begun.items()}
    finally:
        for process in begun.values():
            process.terminate()
            process.wait(60)
        if back is not None:
            os.killpg(back.pid, signal.SIGTERM)
            back.wait(60)


@pytest.mark.parametrize("lost_bank", ["repeat", "recover"])
def test_the_others_complete_without_a_bank_that_was_killed_in_training(federations, lost_bank):
    folder, code = federations[lost_bank]
    out, printed = folder / "out", (folder / "printed.txt").read_text()
    assert code == 0, printed[-3000:]
    assert "bank-c: its node has ended; the contract lets the others go on without it" in printed
    assert re.search(r"^bank-c was lost: .*; the run goes on without it$", printed, re.MULTILINE)
    assert re.search(r"^audit: .*cosigned by .*; the log is good$", printed, re.MULTILINE)
    assert re.search(r"^Run \d+ is complete\.$", printed, re.MULTILINE)
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
