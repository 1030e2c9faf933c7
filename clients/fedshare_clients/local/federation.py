"""A whole federation on one machine: real processes on loopback, driven by the same commands a user would type.

The steps are those of the operating guides: the coordinator is set up and started, every party makes its keys and enrols,
the contract is drafted and approved by every node, the nodes run, and the coordinator starts the training. Everything is
left in the output folder: states, logs and what each party kept of the run.
"""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import yaml

from fedshare.errors import ConfigError, FedshareError, RunFailedError, UnavailableError
from fedshare_clients.node.config import load_config
from fedshare_clients.node.data import load

from .check import centralised_metrics
from .processes import Processes
from .report import build_report, write_report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .experiment import Experiment, ExperimentParty

__all__ = ["run_experiment"]

_READY_SECONDS = 120.0


def run_experiment(
    experiment: Experiment, out: Path, *, check: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """Run ``experiment``, write its report into ``out`` and return it.

    Args:
        experiment: what to run.
        out: a new folder, or one that an earlier run of this command has left.
        check: train the same model on pooled data as well, which only this harness can.
        say: takes a line of progress.

    Raises:
        ConfigError: ``out`` holds something else.
        FedshareError: a part failed; the message names the party and the cause.
    """
    _make_room(out)
    started = time.monotonic()
    local = _LocalFederation(experiment, out, say)
    with Processes(out / "logs", {"FEDSHARE_STATE": str(out / "coordinator")}) as processes:
        run_id = local.run(processes)
    results = {
        party: _read_json(out / party / "state" / "runs" / str(run_id) / "result.json")
        for party in experiment.parties
    }
    bank = next(name for name, party in experiment.parties.items() if party.role == "label_holder")
    centralised = None
    if check:
        say("check: training the same model on pooled data")
        configs = {party: load_config(out / party / "node.yaml") for party in experiment.parties}
        tables = {party: load(config) for party, config in configs.items()}
        customers = out / bank / "state" / "runs" / str(run_id) / "customers.parquet"
        centralised = centralised_metrics(tables, results, bank, customers, experiment.model)
    run = {"run_id": run_id, "contract_digest": results[bank]["contract_digest"]}
    report = build_report(experiment.name, run, results, centralised, time.monotonic() - started)
    write_report(report, out)
    return report


class _LocalFederation:
    def __init__(self, experiment: Experiment, out: Path, say: Callable[[str], None]) -> None:
        self._experiment = experiment
        self._out = out
        self._say = say

    def run(self, processes: Processes) -> int:
        """Take the federation from nothing to a completed run and return the run's number."""
        self._start_coordinator(processes)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda party: self._enrol(processes, party), self._experiment.parties))
        self._say("contract: drafted by the coordinator, approved by every party")
        self._agree(processes)
        for party in self._experiment.parties:
            processes.start(party, ["fedshare-node", "--config", str(self._config(party)), "run"])
        return self._train(processes)

    def _start_coordinator(self, processes: Processes) -> None:
        self._say("coordinator: setting up")
        grpc_port, fleet_port, superlink_port = _free_ports(3)
        settings = self._out / "server-settings.yaml"
        settings.write_text(
            yaml.safe_dump(
                {
                    "name": "127.0.0.1",
                    "bind": "127.0.0.1",
                    "grpc_port": grpc_port,
                    "fleet_port": fleet_port,
                    "superlink_port": superlink_port,
                }
            ),
            encoding="utf-8",
        )
        processes.call("coordinator", ["fedshare-server", "init", "--config", str(settings)])
        ready = self._out / "coordinator-ready"
        processes.start("coordinator", ["fedshare-server", "run", "--ready-file", str(ready)])
        _wait_for(ready.exists, processes, "the coordinator to answer")

    def _enrol(self, processes: Processes, party: str) -> None:
        self._say(f"{party}: making keys and enrolling")
        invitation = self._out / party / "invitation.json"
        invitation.parent.mkdir()
        role = self._experiment.parties[party].role
        processes.call(party, ["fedshare-server", "enrol", party, "--role", role, "--out", str(invitation)])
        config = self._config(party)
        config.write_text(
            yaml.safe_dump(_node_settings(self._experiment, party, _read_json(invitation)), sort_keys=False),
            encoding="utf-8",
        )
        node = ["fedshare-node", "--config", str(config)]
        processes.call(party, [*node, "init"])
        processes.call(party, [*node, "data", "check"])
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
                            "fedshare-node",
                            "--config",
                            str(self._config(party)),
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
        shown = 0
        while True:
            code = training.poll()
            lines = log.read_text(encoding="utf-8").splitlines()
            for line in lines[shown:]:
                self._say(line)
            shown = len(lines)
            if code is not None:
                break
            processes.verify_alive()
            time.sleep(0.2)
        if code:
            raise self._cause(lines, code)
        return int(next(line.split()[1] for line in lines if line.startswith("Run ")))

    def _cause(self, lines: list[str], code: int) -> FedshareError:
        """Return the failure with the fullest account that any party left of it."""
        for party in self._experiment.parties:
            for failure in sorted((self._out / party / "state" / "runs").glob("*/failure.json")):
                account = _read_json(failure)
                if account["error"] not in ("RunFailedError", "UnavailableError"):
                    error = FedshareError(f"{party}: phase {account['phase']}: {account['message']}")
                    error.exit_code = account["exit_code"]
                    return error
        error = RunFailedError(lines[-1] if lines else "the training ended without a word")
        error.exit_code = code
        return error

    def _config(self, party: str) -> Path:
        return self._out / party / "node.yaml"


def _node_settings(experiment: Experiment, name: str, invitation: dict[str, Any]) -> dict[str, Any]:
    """Return what ``node.yaml`` says for one party of ``experiment``."""
    party = experiment.parties[name]
    settings: dict[str, Any] = {
        "party": name,
        "role": party.role,
        "coordinator": {"address": invitation["grpc_address"], "fleet": invitation["fleet_address"]},
        "data": _data_settings(experiment, party),
    }
    if party.role == "label_holder":
        settings["holdout_seed"] = f"{experiment.seed:064x}"
    return settings


def _data_settings(experiment: Experiment, party: ExperimentParty) -> dict[str, Any]:
    source = party.source.model_dump(exclude_none=True)
    return {
        "source": source.pop("kind"),
        **source,
        "identifier_kind": experiment.alignment.identifier,
        "check_digits": experiment.alignment.check_digits,
        **({"roster": experiment.roster} if experiment.roster and party.role == "feature_holder" else {}),
        "columns": {
            column.name: {"kind": column.kind, "bins": column.bins, "monotone": column.monotone}
            for column in party.columns
        },
    }


def _make_room(out: Path) -> None:
    """Create ``out``, or check that it holds nothing that this command would mix with."""
    for name in ("coordinator", "logs", "report.json", "contract.yaml"):
        if (out / name).exists():
            raise ConfigError(
                f"{out}: holds the results of an earlier run ({name}); name another folder with --out, or remove this one"
            )
    out.mkdir(parents=True, exist_ok=True)


def _wait_for(condition: Callable[[], bool], processes: Processes, what: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not condition():
        processes.verify_alive()
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"waited {_READY_SECONDS:.0f} s for {what}; its log is in the output folder"
            )
        time.sleep(0.1)


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
