"""A model in use, as operators start it: serving runs over the real processes, scores in files, a consent that is taken back
and drops its enterprise from the next training, and holders that are spent, stopped or dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from fedshare.errors import FedshareError
from fedshare_clients.local.experiment import load_experiment
from fedshare_clients.local.federation import _LocalFederation
from fedshare_clients.local.processes import Processes
from fedshare_clients.local.running import node_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.system

UNIVERSE, CUSTOMERS, UNKNOWN = 1000, 600, 20
# The first serving run takes one for each customer, a holder that is killed loses up to 256 that it counted ahead: what
# remains is enough for a few questions, and too little for all other enterprises.
QUOTA = 2 * CUSTOMERS
COMMAND = [sys.executable, "-c", "import sys; from fedshare_clients.local.cli import main; sys.exit(main())"]


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
        "scoring": {
            "quota": QUOTA,
            "reasons": [{"name": "sales", "party": "tax", "columns": ["turnover"]}],
            "profile": {"consent_key": "registry", "releases": ["coverage", "band", "reasons"]},
        },
        "max_runs": 2,
        "parties": parties,
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@dataclass
class Federation:
    """One that has trained; its processes run, or are to be started again by ``fedshare-local serve``."""

    out: Path
    processes: Processes
    run_id: int

    def node(self, party: str, *command: str) -> str:
        return self.processes.call(party, [*node_command(self.out, party), *command])

    def result(self, party: str, run_id: int | str) -> dict[str, Any]:
        path = self.out / party / "state" / "runs" / str(run_id) / "result.json"
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept

    def score(self, names: list[str]) -> tuple[str, list[dict[str, Any]]]:
        """Ask the bank's node about ``names``; return what the command says, and the answers."""
        source, answers = self.out / "asked.parquet", self.out / "answers.parquet"
        pq.write_table(pa.table({"code": names}), source)
        answers.unlink(missing_ok=True)
        said = self.node("bank", "score", "--in", str(source), "--out", str(answers))
        return said, pq.read_table(answers).to_pylist()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A federation that has trained and served once, with its processes still running."""
    folder = tmp_path_factory.mktemp("scoring")
    out = folder / "out"
    out.mkdir()
    local = _LocalFederation(load_experiment(write(folder)), out, lambda _: None)
    with Processes(out / "logs", {"FEDSHARE_STATE": str(out / "coordinator")}) as processes:
        run_id = local.run(processes)
        local.score(processes)
        yield Federation(out, processes, run_id)


@pytest.fixture(scope="module")
def in_use(served: Federation) -> Iterator[tuple[Federation, psutil.Process]]:
    """The same federation, ended and started again by the command that serves its model until ctrl-C."""
    served.processes.__exit__(None, None, None)
    said = served.out / "serve.txt"
    with said.open("wb") as file:
        process = psutil.Popen(
            [*COMMAND, "serve", str(served.out)], stdout=file, stderr=file, stdin=subprocess.DEVNULL
        )
    try:
        deadline = time.monotonic() + 120
        while "until ctrl-C" not in said.read_text(encoding="utf-8"):
            assert time.monotonic() < deadline
            assert process.poll() is None, said.read_text(encoding="utf-8")
            time.sleep(0.2)
        yield served, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def universe(out: Path) -> list[str]:
    names: list[str] = pq.read_table(out.parent / "tax.parquet")["code"].to_pylist()
    return names


def test_scores_in_a_file_are_those_of_training(served: Federation) -> None:
    answers = pq.read_table(served.out / "bank" / "scores.parquet").to_pylist()
    scores = {row["enterprise"]: row for row in answers}
    folder = served.out / "bank" / "state" / "runs" / str(served.run_id)
    kept = pq.read_table(folder / "customers.parquet").to_pylist()
    assert len(kept) == CUSTOMERS - UNKNOWN
    for row in kept:
        probability = scores.pop(row["identifier"])["probability"]
        assert np.log(probability / (1 - probability)) == pytest.approx(row["score"], abs=1e-8)
    # The rest is who the registry does not know.
    assert {row["reason"] for row in scores.values()} == {"unknown_enterprise"}
    assert {row["coverage"] for row in scores.values()} == {json.dumps({"registry": False, "tax": True})}


def test_every_party_keeps_counts_of_a_serving_run_that_was_ended(served: Federation) -> None:
    for party, count in (("tax", "identifiers_answered"), ("bank", "identifiers_asked")):
        (serving,) = [
            path.parent.name
            for path in (served.out / party / "state" / "runs").glob("*/result.json")
            if path.parent.name != str(served.run_id)
        ]
        assert served.result(party, serving)[count] in (CUSTOMERS, {"bank": CUSTOMERS})


def test_receipts_are_the_nodes_own(served: Federation) -> None:
    assert f"all {CUSTOMERS} answers" in served.node(
        "bank", "receipts", str(served.out / "bank" / "scores.parquet")
    )


def test_the_log_of_a_serving_run_verifies_and_counts_the_scores(served: Federation) -> None:
    policy = served.out / "policy.txt"
    policy.write_text(served.node("bank", "contract", "policy", "small"), encoding="utf-8")
    log = str(served.out / "coordinator" / "log")
    said = served.processes.call("audit", ["fedshare-audit", "verify", log, "--policy", str(policy)])
    assert "2 run_closed" in said
    assert "1 scoring" in said


def test_a_holder_that_dies_ends_the_serving_run_and_when_it_is_back_scoring_goes_on(
    served: Federation,
) -> None:
    served.processes.call("serve", ["fedshare-server", "serve", "small"])
    known = [universe(served.out)[UNKNOWN]]
    assert "1 scored" in served.score(known)[0]
    os.killpg(served.processes._running["tax"].pid, signal.SIGKILL)
    served.processes._running["tax"].wait()
    failure = await_score(served, known, lambda outcome: isinstance(outcome, FedshareError))
    assert isinstance(failure, FedshareError)
    assert failure.exit_code == 6
    assert "no_serving_run" in str(failure)
    assert not list(served.out.glob("*answers*"))
    served.processes.start("tax", [*node_command(served.out, "tax"), "run"])
    await_score(served, known, lambda outcome: "1 scored" in str(outcome))
    first, *_ = served.processes.call("runs", ["fedshare-server", "runs"]).splitlines()[1:]
    said = served.processes.call("logs", ["fedshare-server", "logs", first.split()[0]])
    assert "resumed: it takes the place of run" in said
    assert "party tax was lost" in said


def await_score(
    federation: Federation, names: list[str], reached: Callable[[str | FedshareError], bool]
) -> str | FedshareError:
    """Score again and again until the outcome is the one that is waited for."""
    deadline = time.monotonic() + 180
    while True:
        outcome: str | FedshareError
        try:
            outcome, _ = federation.score(names)
        except FedshareError as error:
            outcome = error
        if reached(outcome):
            return outcome
        assert time.monotonic() < deadline, f"it did not happen in time; the last outcome was: {outcome}"
        time.sleep(2)


def grant(federation: Federation, name: str) -> str:
    """Sign at the registry that the enterprise consented, and return the file."""
    form, file = federation.out / "form.txt", str(federation.out / "consent.json")
    form.write_text("signed by the enterprise", encoding="utf-8")
    given = ["--bank", "bank", "--enterprise", name, "--evidence", str(form), "--until", "2999-01-01"]
    federation.node("registry", "consent", "grant", "--contract", "small", *given, "--out", file)
    return file


def profile(federation: Federation, consent: str) -> dict[str, Any]:
    file = federation.out / "profile.json"
    federation.node("bank", "profile", "--contract", "small", "--consent", consent, "--out", str(file))
    shown: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return shown


def test_a_profile_is_shown_with_consent_until_that_is_taken_back_and_the_enterprise_leaves_training(
    in_use: tuple[Federation, psutil.Process],
) -> None:
    federation, _ = in_use
    name, other = universe(federation.out)[UNKNOWN : UNKNOWN + 2]
    consent = grant(federation, name)
    shown = profile(federation, consent)
    assert (shown["answer"]["enterprise"], shown["answer"]["status"]) == (name, "scored")
    for part in (shown["holders"]["registry"], shown["holders"]["tax"]):
        assert (part["known"], part["columns_with_value"], part["columns"]) == (True, 1, 1)
        assert part["band"] in range(1, 6)

    withdrawal = str(federation.out / "withdrawal.json")
    take_back = ["consent", "withdraw", "--contract", "small", consent, "--out", withdrawal]
    assert "NOBODY ELSE was told" in federation.node("registry", *take_back)
    # Who took note shows nothing any more, though the bank has not heard of it.
    refusals = {holder: part["refusal"] for holder, part in profile(federation, consent)["holders"].items()}
    assert refusals == {"registry": "consent_withdrawn", "tax": ""}

    said = federation.node("bank", "consent", "apply", "--contract", "small", withdrawal)
    assert "every holder was told" in said
    with pytest.raises(FedshareError, match="consent_withdrawn") as caught:
        profile(federation, consent)
    assert caught.value.exit_code == 4
    _, answers = federation.score([name, other])
    assert [(each["status"], each["reason"]) for each in answers] == [
        ("withheld", "consent_withdrawn"),
        ("scored", ""),
    ]

    trained = federation.processes.call("train", ["fedshare-server", "train", "small", "--follow"])
    run = next(line.split()[1] for line in trained.splitlines() if line.startswith("Run "))
    kept = federation.out / "bank" / "state" / "runs" / run / "customers.parquet"
    assert name not in pq.read_table(kept)["identifier"].to_pylist()
    assert federation.result("registry", run)["rows"] == UNIVERSE - UNKNOWN - 1
    assert federation.result("tax", run)["rows"] == UNIVERSE - 1


def test_of_a_holder_that_does_not_answer_it_is_said_and_the_rest_is_scored(
    in_use: tuple[Federation, psutil.Process],
) -> None:
    federation, process = in_use
    known, new = universe(federation.out)[UNKNOWN + 1], universe(federation.out)[-1]
    (tax,) = [
        child.pid
        for child in process.children()
        if str(Path("tax", "node.yaml")) in " ".join(child.cmdline())
    ]
    os.killpg(tax, signal.SIGSTOP)
    try:
        said, answers = federation.score([known, new])
    finally:
        os.killpg(tax, signal.SIGCONT)
    assert "1 withheld (holder_offline: 1)" in said
    assert [(each["status"], each["reason"]) for each in answers] == [
        ("scored", ""),
        ("withheld", "holder_offline"),
    ]


def test_applicants_beyond_the_quota_are_withheld_and_those_within_it_scored(
    in_use: tuple[Federation, psutil.Process],
) -> None:
    federation, _ = in_use
    said, answers = federation.score(universe(federation.out)[CUSTOMERS:])
    assert {each["reason"] for each in answers if each["status"] == "withheld"} == {"quota_exceeded"}
    scored = sum(each["status"] == "scored" for each in answers)
    assert 0 < scored < UNIVERSE - CUSTOMERS
    assert f"(quota_exceeded: {UNIVERSE - CUSTOMERS - scored})" in said


def test_ctrl_c_ends_the_serving_run_at_every_party_and_leaves_a_good_log(
    in_use: tuple[Federation, psutil.Process],
) -> None:
    federation, process = in_use
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 0
    assert "; the log is good" in (federation.out / "serve.txt").read_text(encoding="utf-8").splitlines()[-1]
