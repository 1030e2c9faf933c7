"""A whole federation on one machine: real processes on loopback, driven by the same commands a user would type.

Every party's data is checked before anything starts. The steps then are those of the operating guides: the coordinator is
set up and started, every party makes its keys and enrols, the contract is drafted and approved by every node, the nodes
run, and the coordinator starts the training. Everything is left in the output folder: states, logs and what each party
kept of the run.
"""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import yaml

from fedshare.errors import ConfigError, DataError, FedshareError, RunFailedError
from fedshare_clients.node.config import load_config
from fedshare_clients.node.data import load
from fedshare_clients.node.report import report_run
from fedshare_clients.node.report_data import check_data
from fedshare_clients.node.state import NodeState

from .audit import keep_log, verify_copy
from .check import Customers, pooled_metrics
from .experiment import verify_files
from .processes import Processes
from .report import build_report, write_report
from .running import node_command, start_coordinator, start_nodes
from .serving import score_once

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .experiment import Experiment, ExperimentParty

__all__ = ["run_experiment"]

# How long the others may take to notice that a node has died: the Exchange ends the run within a minute.
_AFTER_DEATH_SECONDS = 90.0


def run_experiment(
    experiment: Experiment, out: Path, *, check: bool, say: Callable[[str], None], score: bool = True
) -> dict[str, Any]:
    """Run ``experiment``, write its report into ``out`` and return it.

    Args:
        experiment: what to run.
        out: a new folder, or one without results of an earlier run.
        check: train the same model on pooled data as well, which only this harness can.
        say: takes a line of progress.
        score: where the experiment has ``scoring``, serve the model once and score every bank's applicants.

    Raises:
        ConfigError: ``out`` holds the results of an earlier run.
        FedshareError: a part failed; the message names the party and the cause.
    """
    _make_room(out)
    verify_files(experiment)
    started = time.monotonic()
    local = _LocalFederation(experiment, out, say)
    with Processes(out / "logs", {"FEDSHARE_STATE": str(out / "coordinator")}) as processes:
        run_id = local.run(processes)
        scores = local.score(processes) if score and experiment.scoring is not None else {}
        party = next(iter(experiment.parties))
        keep_log(processes, out / party / "node.yaml", experiment.name, out, experiment.spared())
    verify_copy(processes, out, say)
    files = {
        party: out / party / "state" / "runs" / str(run_id) / "result.json" for party in experiment.parties
    }
    lost = [party for party in experiment.spared() if not files[party].exists()]
    results = {party: _read_json(file) for party, file in files.items() if party not in lost}
    banks = [name for name in results if experiment.parties[name].role == "label_holder"]
    customers = Customers.read(
        {bank: out / bank / "state" / "runs" / str(run_id) / "customers.parquet" for bank in banks}
    )
    models = {"bank_only": customers.column("bank_only"), "federated": customers.column("score")}
    measured = {name: customers.metrics(scores) for name, scores in models.items()}
    if check:
        say("check: training the same model on pooled data")
        configs = {party: load_config(out / party / "node.yaml") for party in results}
        tables = {party: load(config) for party, config in configs.items()}
        measured["pooled"] = pooled_metrics(tables, results, customers, experiment)
    run = {"run_id": run_id, "contract_digest": results[banks[0]]["contract_digest"]}
    report = build_report(experiment.name, run, results, measured, time.monotonic() - started)
    pages = {bank: _validate(out, bank, run_id, say) for bank in banks}
    if scores:
        report["scores"] = scores
    report["validation"] = {bank: page for bank, page in pages.items() if page}
    if lost:
        report["lost_banks"] = lost
    write_report(report, out)
    return report


def _validate(out: Path, bank: str, run_id: int, say: Callable[[str], None]) -> str:
    """Write one bank's validation report, as its node would, and return the page's path within ``out``.

    Too few held-out customers for a figure are no failure of the run: the cause is said, and there is no page.
    """
    config = load_config(out / bank / "node.yaml")
    try:
        document, page = report_run(config, NodeState(config.state), run_id, out=out / bank / "report")
    except DataError as error:
        say(f"{bank}: no validation report: {error}")
        return ""
    for band in (document["triangle"] or {"bands": ()})["bands"]:
        say(f"{bank}: {band['sentence']}")
    return str(page.relative_to(out))


class _LocalFederation:
    def __init__(self, experiment: Experiment, out: Path, say: Callable[[str], None]) -> None:
        self._experiment = experiment
        self._out = out
        self._say = say
        banks = [name for name, party in experiment.parties.items() if party.role == "label_holder"]
        self._grpc_port, self._fleet_port, self._superlink_port, *ports = _free_ports(3 + len(banks))
        self._score_ports = dict(zip(banks, ports, strict=True))

    def run(self, processes: Processes) -> int:
        """Take the federation from nothing to a completed run and return the run's number."""
        for party in self._experiment.parties:
            self._check_data(party)
        self._start_coordinator(processes)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda party: self._enrol(processes, party), self._experiment.parties))
        self._say("contract: the coordinator drafts it, every party approves it")
        self._agree(processes)
        start_nodes(processes, self._out, self._experiment.parties)
        return self._train(processes)

    def _check_data(self, party: str) -> None:
        """Write ``node.yaml`` and read the party's rows, before any process is started for them."""
        config = self._config(party)
        config.parent.mkdir(exist_ok=True)
        addresses = {
            "address": f"127.0.0.1:{self._grpc_port}",
            "fleet": f"127.0.0.1:{self._fleet_port}",
        }
        settings = _node_settings(self._experiment, party, addresses)
        if self._experiment.scoring is not None and party in self._score_ports:
            bands = [band.model_dump() for band in self._experiment.parties[party].bands]
            settings["scoring"] = {"listen": f"127.0.0.1:{self._score_ports[party]}", "bands": bands}
        config.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
        report = check_data(load_config(config), self._experiment.minimum_cohort)
        (self._out / "logs" / f"{party}.log").write_text(f"{report.to_text()}\n", encoding="utf-8")
        if report.problems:
            first, more = report.problems[0], len(report.problems) - 1
            listed = f"; and {more} more, see {self._out / 'logs' / f'{party}.log'}" if more else ""
            raise _failure(f"{first}{listed}", first.exit_code)
        self._say(f"{party}: {report.inspection.rows:,} rows in order")

    def _start_coordinator(self, processes: Processes) -> None:
        self._say("coordinator: setting up")
        settings = self._out / "server-settings.yaml"
        settings.write_text(
            yaml.safe_dump(
                {
                    "name": "127.0.0.1",
                    "bind": "127.0.0.1",
                    "grpc_port": self._grpc_port,
                    "fleet_port": self._fleet_port,
                    "superlink_port": self._superlink_port,
                }
            ),
            encoding="utf-8",
        )
        processes.call("coordinator", ["fedshare-server", "init", "--config", str(settings)])
        start_coordinator(processes, self._out)

    def _enrol(self, processes: Processes, party: str) -> None:
        self._say(f"{party}: making keys and enrolling")
        invitation = self._out / party / "invitation.json"
        role = self._experiment.parties[party].role
        processes.call(party, ["fedshare-server", "enrol", party, "--role", role, "--out", str(invitation)])
        node = node_command(self._out, party)
        processes.call(party, [*node, "init"])
        processes.call(party, [*node, "enrol", str(invitation)])

    def _agree(self, processes: Processes) -> None:
        draft = self._out / "contract.yaml"
        draft.write_text(yaml.safe_dump(self._experiment.contract_draft(), sort_keys=False), encoding="utf-8")
        processes.call("coordinator", ["fedshare-server", "contract", "draft", str(draft)])
        with ThreadPoolExecutor(2) as pool:
            list(
                pool.map(
                    lambda party: processes.call(
                        party,
                        [
                            *node_command(self._out, party),
                            "contract",
                            "approve",
                            self._experiment.name,
                            "--yes",
                        ],
                    ),
                    self._experiment.parties,
                )
            )

    def _train(self, processes: Processes) -> int:
        training = processes.start("train", ["fedshare-server", "train", self._experiment.name, "--follow"])
        log = self._out / "logs" / "train.log"
        shown, killed, deadline = 0, "", 0.0
        spared = set(self._experiment.spared())
        while True:
            code = training.poll()
            lines = log.read_text(encoding="utf-8").splitlines()
            for line in lines[shown:]:
                self._say(line)
            shown = len(lines)
            if code is not None:
                break
            for bank in sorted(spared):
                if processes.has_ended(bank):
                    self._say(f"{bank}: its node has ended; the contract lets the others go on without it")
                    spared.remove(bank)
            if not killed:
                killed = processes.verify_alive(self._experiment.spared())
                deadline = time.monotonic() + _AFTER_DEATH_SECONDS
            elif time.monotonic() > deadline:
                break
            time.sleep(0.2)
        if killed:
            raise RunFailedError(f"{killed}; every party's log has what it saw of that")
        if code:
            raise self._cause(lines, code)
        return int(next(line.split()[1] for line in lines if line.startswith("Run ")))

    def score(self, processes: Processes) -> dict[str, dict[str, Any]]:
        """Let every bank score its applicants by the model of the completed run; return the counts by bank."""
        applicants = {bank: self._experiment.parties[bank].applicants for bank in self._score_ports}
        return score_once(processes, self._out, self._experiment.name, applicants, self._say)

    def _cause(self, lines: list[str], code: int) -> FedshareError:
        """Return the failure with the fullest account that any party left of it."""
        for party in self._experiment.parties:
            for failure in sorted((self._out / party / "state" / "runs").glob("*/failure.json")):
                account = _read_json(failure)
                if account["error"] not in ("RunFailedError", "UnavailableError"):
                    return _failure(
                        f"{party}: phase {account['phase']}: {account['message']}", account["exit_code"]
                    )
        last = lines[-1] if lines else "the training ended without a word"
        return _failure(last.removeprefix("fedshare-server: "), code)

    def _config(self, party: str) -> Path:
        return self._out / party / "node.yaml"


def _failure(message: str, exit_code: int) -> FedshareError:
    error = FedshareError(message)
    error.exit_code = exit_code
    return error


def _node_settings(experiment: Experiment, name: str, coordinator: dict[str, str]) -> dict[str, Any]:
    """Return what ``node.yaml`` says for one party of ``experiment``."""
    party = experiment.parties[name]
    settings: dict[str, Any] = {
        "party": name,
        "role": party.role,
        "coordinator": coordinator,
        "data": _data_settings(experiment, party),
    }
    if party.role == "label_holder":
        settings["holdout_seed"] = f"{experiment.seed:064x}"
        if party.pricing is not None:
            settings["pricing"] = party.pricing.model_dump(mode="json")
        if party.portfolio is not None:
            settings["portfolio"] = party.portfolio.model_dump(mode="json")
    return settings


def _data_settings(experiment: Experiment, party: ExperimentParty) -> dict[str, Any]:
    source = party.source.model_dump(exclude_none=True)
    exposures = party.portfolio.model_dump() if party.portfolio else {}
    described = {
        column: {"kind": "numeric" if what == "exposure" else "categorical"}
        for what, column in exposures.items()
    }
    return {
        "source": source.pop("kind"),
        **source,
        "identifier_kind": experiment.alignment.identifier,
        "check_digits": experiment.alignment.check_digits,
        **({"roster": experiment.roster} if experiment.roster and party.role == "feature_holder" else {}),
        "columns": described
        | {
            column.name: {"kind": column.kind, "bins": column.bins, "monotone": column.monotone}
            for column in party.columns
        },
    }


def _make_room(out: Path) -> None:
    """Create ``out``, or check that it holds nothing that this command would mix with."""
    # What data checks leave (logs, a node.yaml a party) is written anew: after a mistake there, run the same command again.
    for name in ("coordinator", "log", "policy.txt", "report.json", "contract.yaml"):
        if (out / name).exists():
            raise ConfigError(
                f"{out}: holds the results of an earlier run ({name}); name another folder with --out, or remove this one"
            )
    out.mkdir(parents=True, exist_ok=True)


def _free_ports(count: int) -> list[int]:
    sockets = []
    with ExitStack() as stack:
        for _ in range(count):
            each = stack.enter_context(socket.socket())
            each.bind(("127.0.0.1", 0))
            sockets.append(each)
        return [each.getsockname()[1] for each in sockets]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise RunFailedError(f"{path}: expected a result of the run, it cannot be read") from error
    return document
