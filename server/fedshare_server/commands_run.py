"""The commands that run the coordinator and its runs: ``run``, ``train``, ``serve``, ``end``, ``runs``, ``logs``."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fedshare.contract.model import parse_contract
from fedshare.errors import ConfigError, RefusedError, RunFailedError, UnavailableError
from fedshare_server.commands import open_state, print_table
from fedshare_server.phases import AWAITED, LOST
from fedshare_server.standing import contract_status

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from fedshare_server.storage import ContractRecord, ProgressRecord, RunRecord, Store
    from fedshare_server.superlink import Superlink

__all__ = ["end", "follow", "logs", "run", "runs", "serve_model", "train"]

_POLL_SECONDS = 1.0
_CLOSE_POLLS = 30


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes or a part of the group dies."""
    # What other libraries say of every connection is noise here; what goes wrong comes out as our errors.
    os.environ["GRPC_VERBOSITY"] = "NONE"
    from fedshare_server.serve import serve  # noqa: PLC0415  after the line above, which gRPC reads once

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("fedshare_server").setLevel(logging.INFO)
    with open_state(arguments.state) as state:
        serve(state, arguments.ready_file or state.folder.ready_file)
    return 0


def train(arguments: argparse.Namespace) -> int:
    """Start a run of a contract that every party has approved."""
    from fedshare_server.serve import superlink_of  # noqa: PLC0415  Flower takes a second to import

    with open_state(arguments.state) as state:
        contract = state.store.resolve_contract(arguments.contract)
        _require_approval(state.store, contract)
        superlink = superlink_of(state)
        run_id = superlink.start_run(contract.digest)
        state.store.open_run(run_id, contract.digest)
        print(f"Run {run_id} of contract {contract.name} ({contract.digest[:12]}) has started.", flush=True)
        if not arguments.follow:
            return 0
        ended = follow(state.store, superlink, run_id)
    if ended.status == "refused":
        raise RefusedError("run_refused", f"run {run_id} was refused: {ended.reason}")
    if ended.status != "completed":
        raise RunFailedError(f"run {run_id} {ended.status}: {ended.reason}")
    print(f"Run {run_id} is complete.")
    return 0


def serve_model(arguments: argparse.Namespace) -> int:
    """Start a run in which the parties serve the model of a training run; return once they do."""
    from fedshare_server.app import HELD  # noqa: PLC0415  as above
    from fedshare_server.serve import superlink_of  # noqa: PLC0415  as above

    with open_state(arguments.state) as state:
        store = state.store
        contract = store.resolve_contract(arguments.contract)
        _require_approval(store, contract)
        if parse_contract(contract.canonical).scoring is None:
            raise RefusedError(
                "scoring_not_agreed", f"contract {contract.name} has no section `scoring`: draft one that has"
            )
        model_run = arguments.model if arguments.model is not None else _latest_training(store, contract)
        superlink = superlink_of(state)
        serving = [
            run.run_id
            for run in store.serving_runs(contract.digest)
            if (run.status, run.model_run) == ("running", model_run)
        ]
        run_id = serving[0] if serving else superlink.start_run(contract.digest, model_run)
        store.open_run(run_id, contract.digest, model_run)
        print(f"Run {run_id} of contract {contract.name} serves the model of run {model_run}.", flush=True)
        record = follow(
            store, superlink, run_id, reached=lambda: any(each.kind == HELD for each in store.events(run_id))
        )
    if record.status == "running":
        print(f"Every party serves: banks can score from now on, until `fedshare-server end {run_id}`.")
        return 0
    raise RunFailedError(f"run {run_id} {record.status}: {record.reason}")


def end(arguments: argparse.Namespace) -> int:
    """End a serving run in good order."""
    from fedshare_server.serve import superlink_of  # noqa: PLC0415  as above

    with open_state(arguments.state) as state:
        record = state.store.find_run(arguments.run)
        if record is not None and _awaits_another(state.store, record):
            state.store.stop_serving(record.digest)
            print(f"Run {arguments.run} had ended; no other takes its place.")
            return 0
        if record is None or record.status != "running" or record.model_run is None:
            raise ConfigError(
                f"run {arguments.run} is not a serving run under way: see `fedshare-server runs`"
            )
        state.store.finish(arguments.run, "completed", "ended by the operator")
        is_closed = _await_close(superlink_of(state), arguments.run)
    print(f"Run {arguments.run} is ended" + ("." if is_closed else "; not every party has closed it yet."))
    return 0


def _awaits_another(store: Store, record: RunRecord) -> bool:
    """Return whether a serving run has ended and another is to take its place."""
    if record.status == "running" or record.digest not in store.served_models():
        return False
    return store.serving_runs(record.digest)[0].run_id == record.run_id


def _await_close(superlink: Superlink, run_id: int) -> bool:
    """Return whether every party has closed a run that was ended; waits for that."""
    for _ in range(_CLOSE_POLLS):
        with suppress(UnavailableError):
            if superlink.run_status(run_id).startswith("finished"):
                return True
        time.sleep(_POLL_SECONDS)
    return False


def _latest_training(store: Store, contract: ContractRecord) -> int:
    """Return the newest completed training run of a contract."""
    for record in store.runs():
        if (record.digest, record.status, record.model_run) == (contract.digest, "completed", None):
            return record.run_id
    raise ConfigError(
        f"contract {contract.name} has no completed training run: `fedshare-server train` first"
    )


def runs(arguments: argparse.Namespace) -> int:
    """List the runs, newest first."""
    with open_state(arguments.state) as state:
        names = {record.digest: record.name for record in state.store.contracts()}
        rows = [
            (
                str(run.run_id),
                f"{names[run.digest]} ({run.digest[:12]})",
                run.status,
                run.phase,
                f"{run.started_at:%Y-%m-%d %H:%M:%S}",
                run.reason,
            )
            for run in state.store.runs()
        ]
    print_table(("RUN", "CONTRACT", "STATUS", "PHASE", "STARTED (UTC)", "REASON"), rows)
    return 0


def logs(arguments: argparse.Namespace) -> int:
    """Print the events and the progress of a run."""
    with open_state(arguments.state) as state:
        if state.store.find_run(arguments.run) is None:
            raise ConfigError(f"there is no run {arguments.run}: see `fedshare-server runs`")
        for event in state.store.events(arguments.run):
            who = event.party or "coordinator"
            print(f"{event.at:%Y-%m-%d %H:%M:%S}  {who}  {event.kind}: {event.text}")
        for progress in state.store.progress(arguments.run):
            print(_line(progress))
    return 0


def follow(
    store: Store,
    superlink: Superlink,
    run_id: int,
    sleep: Callable[[float], None] = time.sleep,
    *,
    reached: Callable[[], bool] = lambda: False,
) -> RunRecord:
    """Print the progress of a run as it comes and return how the run ended, or where it stands once ``reached``.

    A run whose ServerApp died without a word is ended here, with what Flower says about it.
    """
    from fedshare_server.keeper import end_silent  # noqa: PLC0415  as above

    seen, seen_event, phase = 0, 0, ""
    while True:
        record = store.find_run(run_id)
        if record is None:
            raise ConfigError(f"there is no run {run_id}")
        if record.phase != phase:
            phase = record.phase
            print(f"phase {phase}", flush=True)
        for event in store.events(run_id, after=seen_event):
            seen_event = event.number
            if event.kind == AWAITED:
                print(f"the coordinator {event.text}", flush=True)
            if event.kind == LOST:
                print(f"{event.party} {event.text}", flush=True)
        for progress in store.progress(run_id, after=seen):
            seen = progress.number
            print(_line(progress), flush=True)
        if record.status != "running" or reached():
            return record
        end_silent(store, superlink, run_id)
        sleep(_POLL_SECONDS)


def _require_approval(store: Store, contract: ContractRecord) -> None:
    """Refuse to start what a node would refuse anyway, before anyone is bothered."""
    name, now = f"contract {contract.name} ({contract.digest[:12]})", datetime.now(UTC)
    decisions = store.decisions(contract.digest)
    status = contract_status(contract, decisions, now)
    if status != "approved":
        approved = {decision.party for decision in decisions if decision.approved}
        missing = ", ".join(party for party in contract.parties if party not in approved)
        raise RefusedError(
            f"contract_{status}",
            f"{name} is {status}: a run needs the approval of every party, within the contract's validity"
            + (f"; missing: {missing}" if missing else ""),
        )
    valid_from = parse_contract(contract.canonical).valid_from
    if now < valid_from:
        raise RefusedError("contract_not_yet_valid", f"{name} is valid from {valid_from:%Y-%m-%d %H:%M} UTC")


def _line(progress: ProgressRecord) -> str:
    loss = "" if progress.loss is None else f"  loss {progress.loss:.6f}"
    return (
        f"{progress.party}  {progress.phase} {progress.iteration}{loss}  {progress.seconds:.1f} s"
        f"  sent {progress.bytes_sent:,} B  received {progress.bytes_received:,} B"
    )
