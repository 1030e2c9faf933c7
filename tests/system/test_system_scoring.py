"""A model in use, as operators start it: a serving run over the real processes, scores in files, and a holder that dies."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from fedshare.errors import FedshareError
from fedshare_clients.local.experiment import load_experiment
from fedshare_clients.local.federation import _LocalFederation
from fedshare_clients.local.processes import Processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.system

UNIVERSE, CUSTOMERS, UNKNOWN = 1000, 600, 20


def write(folder: Path) -> Path:
    """Write an experiment whose registry does not know the first enterprises, and return its file."""
    rng = np.random.default_rng(5)
    names = np.array([f"enterprise-{number:06d}" for number in rng.permutation(10**6)[:UNIVERSE]])
    turnover, age, own = rng.normal(size=(3, UNIVERSE))
    chance = 1 / (1 + np.exp(-(-0.8 + turnover - 0.6 * age + 0.7 * own)))
    bad = (rng.random(UNIVERSE) < chance).astype(np.int64)
    bank = {"code": names[:CUSTOMERS], "usage": own[:CUSTOMERS], "bad": bad[:CUSTOMERS]}
    pq.write_table(pa.table({"code": names, "turnover": turnover}), folder / "tax.parquet")
    pq.write_table(pa.table({"code": names[UNKNOWN:], "age": age[UNKNOWN:]}), folder / "registry.parquet")
    pq.write_table(pa.table(bank), folder / "bank.parquet")
    source = {"kind": "parquet", "identifier": "code"}
    holders = {"tax": "turnover", "registry": "age"}
    parties: dict[str, object] = {
        name: {"role": "feature_holder", "source": {**source, "path": f"{name}.parquet"}, "columns": [column]}
        for name, column in holders.items()
    }
    parties["bank"] = {
        "role": "label_holder",
        "source": {**source, "path": "bank.parquet", "label": "bad"},
        "columns": ["usage"],
    }
    document = {
        "name": "small",
        "minimum_cohort": 20,
        "alignment": {"identifier": "opaque", "quota": 5000},
        "model": {"max_iterations": 2, "tolerance": 1e-9},
        "scoring": {"quota": 5000, "reasons": [{"name": "sales", "party": "tax", "columns": ["turnover"]}]},
        "parties": parties,
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Processes, int]]:
    """A federation that has trained and served once, with its processes still running."""
    folder = tmp_path_factory.mktemp("scoring")
    out = folder / "out"
    out.mkdir()
    local = _LocalFederation(load_experiment(write(folder)), out, lambda _: None)
    with Processes(out / "logs", {"FEDSHARE_STATE": str(out / "coordinator")}) as processes:
        yield out, processes, local.run(processes)


def score(out: Path, processes: Processes, name: str) -> str:
    applicants = out / "bank" / "applicants.parquet"
    command = ["fedshare-node", "--config", str(out / "bank" / "node.yaml"), "score"]
    return processes.call("bank", [*command, "--in", str(applicants), "--out", str(out / f"{name}.parquet")])


def test_scores_in_a_file_are_those_of_training(served: tuple[Path, Processes, int]) -> None:
    out, _, run_id = served
    scores = {row["enterprise"]: row for row in pq.read_table(out / "bank" / "scores.parquet").to_pylist()}
    kept = pq.read_table(out / "bank" / "state" / "runs" / str(run_id) / "customers.parquet").to_pylist()
    assert len(kept) == CUSTOMERS - UNKNOWN
    for row in kept:
        probability = scores.pop(row["identifier"])["probability"]
        assert np.log(probability / (1 - probability)) == pytest.approx(row["score"], abs=1e-8)
    # The rest is who the registry does not know.
    assert {row["reason"] for row in scores.values()} == {"unknown_enterprise"}
    assert {row["coverage"] for row in scores.values()} == {json.dumps({"registry": False, "tax": True})}


def test_every_party_keeps_counts_of_a_serving_run_that_was_ended(
    served: tuple[Path, Processes, int],
) -> None:
    out, _, run_id = served
    for party, count in (("tax", "identifiers_answered"), ("bank", "identifiers_asked")):
        (kept,) = [
            json.loads(path.read_text(encoding="utf-8"))
            for path in (out / party / "state" / "runs").glob("*/result.json")
            if path.parent.name != str(run_id)
        ]
        assert kept[count] in (CUSTOMERS, {"bank": CUSTOMERS})


def test_receipts_are_the_nodes_own(served: tuple[Path, Processes, int]) -> None:
    out, processes, _ = served
    command = ["fedshare-node", "--config", str(out / "bank" / "node.yaml"), "receipts"]
    said = processes.call("bank", [*command, str(out / "bank" / "scores.parquet")])
    assert f"all {CUSTOMERS} answers" in said


def test_the_log_of_a_serving_run_verifies_and_counts_the_scores(served: tuple[Path, Processes, int]) -> None:
    out, processes, _ = served
    command = ["fedshare-node", "--config", str(out / "bank" / "node.yaml"), "contract", "policy", "small"]
    policy = out / "policy.txt"
    policy.write_text(processes.call("audit", command), encoding="utf-8")
    log = str(out / "coordinator" / "log")
    said = processes.call("audit", ["fedshare-audit", "verify", log, "--policy", str(policy)])
    assert "2 run_closed" in said
    assert "1 scoring" in said


def test_a_holder_that_dies_ends_the_serving_run_and_when_it_is_back_scoring_goes_on(
    served: tuple[Path, Processes, int],
) -> None:
    out, processes, _ = served
    processes.call("serve", ["fedshare-server", "serve", "small"])
    assert "580 scored" in score(out, processes, "again")
    os.killpg(processes._running["tax"].pid, signal.SIGKILL)
    processes._running["tax"].wait()
    failure = await_score(out, processes, lambda outcome: isinstance(outcome, FedshareError))
    assert isinstance(failure, FedshareError)
    assert failure.exit_code == 6
    assert "no_serving_run" in str(failure)
    assert not list(out.glob(".after*"))
    processes.start("tax", ["fedshare-node", "--config", str(out / "tax" / "node.yaml"), "run"])
    await_score(out, processes, lambda outcome: "580 scored" in str(outcome))
    first, *_ = processes.call("runs", ["fedshare-server", "runs"]).splitlines()[1:]
    said = processes.call("logs", ["fedshare-server", "logs", first.split()[0]])
    assert "resumed: it takes the place of run" in said
    assert "party tax was lost" in said


def await_score(
    out: Path, processes: Processes, reached: Callable[[str | FedshareError], bool]
) -> str | FedshareError:
    """Score again and again until the outcome is the one that is waited for."""
    deadline = time.monotonic() + 180
    while True:
        outcome: str | FedshareError
        try:
            outcome = score(out, processes, "after")
        except FedshareError as error:
            outcome = error
        if reached(outcome):
            return outcome
        assert time.monotonic() < deadline, f"it did not happen in time; the last outcome was: {outcome}"
        time.sleep(2)
