"""The model of a local federation in use: served once, to score applicants, or until ctrl-C."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from fedshare.errors import ConfigError, FedshareError, RunFailedError
from fedshare_clients.node.config import load_config

from .applicants import applicants_of
from .audit import keep_log, verify_copy
from .experiment import read_yaml
from .processes import Processes
from .running import node_command, start_coordinator, start_nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from .experiment import Source

__all__ = ["score_once", "serve_folder"]

_LOOK_SECONDS = 0.5


def _serve_model(processes: Processes, contract: str) -> str:
    """Begin a serving run of the newest model under ``contract``, and return its number once every party serves."""
    try:
        served = processes.call("serve", ["fedshare-server", "serve", contract])
    except FedshareError:
        processes.verify_alive()  # a part that has ended is the cause
        raise
    return next(line.split()[1] for line in served.splitlines() if line.startswith("Run "))


def _end_serving(processes: Processes, run: str) -> None:
    """End a serving run in good order."""
    processes.call("serve", ["fedshare-server", "end", run])


def score_once(
    processes: Processes,
    out: Path,
    contract: str,
    banks: Mapping[str, Source | None],
    say: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """Serve the model, let every bank score its applicants and check the receipts, and return the counts by bank.

    Args:
        processes: of the federation, whose nodes run.
        out: its folder; a bank's applicants and scores are left in its own folder there.
        contract: its name.
        banks: where each bank's applicants are; ``None`` for its own rows.
        say: takes a line of progress.
    """
    say("scores: serving the model")
    run, counts = _serve_model(processes, contract), {}
    for bank, applicants in banks.items():
        source, scores = out / bank / "applicants.parquet", out / bank / "scores.parquet"
        pq.write_table(applicants_of(load_config(out / bank / "node.yaml"), applicants), source)
        command, began = node_command(out, bank), time.monotonic()
        said = processes.call(bank, [*command, "score", "--json", "--in", str(source), "--out", str(scores)])
        seconds = time.monotonic() - began
        processes.call(bank, [*command, "receipts", str(scores)])
        found = json.loads(said)
        counts[bank] = {name: found[name] for name in ("answers", "status", "reasons")} | {"seconds": seconds}
        parts = [f"{count:,} {status}" for status, count in found["status"].items()]
        say(f"{bank}: {found['answers']:,} applicants: {', '.join(parts)}; {seconds:.0f} s; in {scores}")
    _end_serving(processes, run)
    return counts


def serve_folder(out: Path, say: Callable[[str], None]) -> None:
    """Start the federation that ``run`` left in ``out`` again and serve its model until ctrl-C; then end in good order.

    Raises:
        ConfigError: there is no federation with a section ``scoring``.
        FedshareError: a part failed; the message names the party and the cause.
    """
    draft = _served_draft(out)
    contract, parties = draft["name"], [party["id"] for party in draft["parties"]]
    with Processes(out / "logs", {"FEDSHARE_STATE": str(out / "coordinator")}) as processes:
        say("coordinator and nodes: starting")
        start_coordinator(processes, out)
        start_nodes(processes, out, parties)
        run = _serve_model(processes, contract)
        say(f"run {run} serves the model until ctrl-C; meanwhile, in another terminal:")
        for command in _commands(draft, out):
            say(f"  {command}")
        try:
            while not (killed := processes.verify_alive()):
                time.sleep(_LOOK_SECONDS)
        except KeyboardInterrupt:
            say("ending the serving run")
        else:
            raise RunFailedError(killed)
        _end_serving(processes, run)
        keep_log(processes, out / parties[0] / "node.yaml", contract, out, spared=())
    verify_copy(processes, out, say)


def _served_draft(out: Path) -> dict[str, Any]:
    """Return the draft of the contract of the federation in ``out``."""
    path = out / "contract.yaml"
    if not path.exists():
        raise ConfigError(f"{out}: holds no run; `fedshare-local run EXPERIMENT.yaml --out {out}` first")
    draft: dict[str, Any] = read_yaml(path)
    if not draft.get("scoring"):
        raise ConfigError(
            f"{out}: the contract has no section `scoring`: add one to the experiment and run it anew"
        )
    return draft


def _commands(draft: Mapping[str, Any], out: Path) -> Iterator[str]:
    """Yield what the banks, and whoever attests consents, may call while the model is served."""
    for party in draft["parties"]:
        node, profile = " ".join(node_command(out, party["id"])), draft["scoring"]["profile"] or {}
        if party["role"] == "label_holder":
            applicants = out / party["id"] / "applicants.parquet"
            yield f"{node} score --in {applicants if applicants.exists() else 'FILE'} --out scores.parquet"
            yield f"{node} score-client NAME --out FOLDER"
            if profile:
                yield f"{node} profile --contract {draft['name']} --consent consent.json --out profile.json"
        if party["id"] == profile.get("consent_key"):
            what = "--bank BANK --enterprise CODE --evidence FILE --until DATE --out consent.json"
            yield f"{node} consent grant --contract {draft['name']} {what}"
            yield f"{node} consent withdraw --contract {draft['name']} consent.json --out withdrawal.json"
