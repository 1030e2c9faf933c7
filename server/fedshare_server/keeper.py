"""Keeps models served: where a serving run has ended by itself, another takes its place without anybody's hand.

A model is to be served from the moment when every party serves it until the operator ends the run, a party refuses one, or
the contract is no longer in force. Between runs the keeper waits until a node of every party is connected, and longer after
each run that did not last. A run that goes on without a bank is ended for another when that one is back. Every run has hellos
and keys of its own; nothing of the one before it is used again.
"""

from __future__ import annotations

import itertools
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from fedshare.errors import FedshareError
from fedshare_server.app import canonical_key
from fedshare_server.standing import contract_status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from fedshare_server.storage import ContractRecord, RunRecord, Store

__all__ = ["Flower", "Keeper", "end_silent", "pause_after"]

_LOOK: Final = timedelta(seconds=2)
# Every so many looks Flower is asked whether the runs under way still have a ServerApp.
_LOOKS_PER_QUESTION: Final = 15
_FIRST_PAUSE: Final = timedelta(seconds=5)
_LONGEST_PAUSE: Final = timedelta(minutes=10)
# A run that ended sooner counts as one that did not last.
_LASTING: Final = timedelta(minutes=10)
# A SuperNode's heartbeat comes every 17.5 to 22.5 s and keeps it online for 60 s (flwr 1.41 common/constant.py): with less
# left it has missed one, and a run would begin only to lose its party again.
_FRESH_SECONDS: Final = 35.0
_log = logging.getLogger(__name__)


class Flower(Protocol):
    """What the keeper needs of Flower; ``fedshare_server.superlink.Superlink`` has it."""

    def heartbeats(self) -> Mapping[bytes, float]:
        """Return until when each node counts as online, by its public key; Unix seconds."""

    def start_run(self, contract_digest: str, model_run: int | None = None) -> int:
        """Start a run and return its id."""

    def run_status(self, run_id: int) -> str:
        """Return what Flower says of a run."""


def end_silent(store: Store, flower: Flower, run_id: int) -> None:
    """End a run whose ServerApp died without a word, with what Flower says about it."""
    status = flower.run_status(run_id)
    if status.startswith("finished"):
        store.finish(run_id, "failed", f"the ServerApp ended without a result ({status})")
        store.close_run(run_id, "no_result")


def pause_after(runs: Sequence[RunRecord]) -> timedelta:
    """Return how long nothing is started after the newest of a contract's serving runs has ended.

    Args:
        runs: newest first, all ended.
    """
    short = itertools.takewhile(
        lambda run: (
            run.finished_at is not None
            and run.status != "completed"
            and run.finished_at - run.started_at < _LASTING
        ),
        runs,
    )
    doublings = min(sum(1 for _ in short), 10)
    return min(_FIRST_PAUSE * (1 << doublings), _LONGEST_PAUSE)


class Keeper:
    """Looks after the models that are to be served.

    Args:
        store: the coordinator's records.
        flower: its SuperLink.
        now: the time, with its zone.
    """

    def __init__(self, store: Store, flower: Flower, now: Callable[[], datetime]) -> None:
        self._store = store
        self._flower = flower
        self._now = now
        self._due = now()
        self._looks = 0
        self._said: dict[str, str] = {}

    def look(self) -> None:
        """Start the serving runs that are due; what goes wrong is logged and tried again."""
        if self._now() < self._due:
            return
        self._due = self._now() + _LOOK
        self._looks += 1
        try:
            for digest, model_run in self._store.served_models().items():
                self._look_after(digest, model_run)
            self._said.pop("", None)
        except FedshareError as error:
            self._say("", f"looking after the served models failed, it will be tried again: {error}")

    def _look_after(self, digest: str, model_run: int) -> None:
        runs, contract = self._store.serving_runs(digest), self._store.find_contract(digest)
        if contract is None:
            return
        running = [run for run in runs if run.status == "running"]
        if running:
            self._said.pop(digest, None)
            self._bring_back(running[0], [run for run in runs if run.status != "running"], contract)
            if self._looks % _LOOKS_PER_QUESTION == 0:
                end_silent(self._store, self._flower, running[0].run_id)
            return
        name = f"contract {contract.name} ({digest[:12]})"
        status = contract_status(contract, self._store.decisions(digest), self._now())
        if status != "approved":
            self._store.stop_serving(digest)
            self._say(digest, f"{name} is {status}: its model is served no more")
            return
        last = runs[0]
        if last.finished_at is None or self._now() < last.finished_at + pause_after(runs):
            return
        if missing := self._missing(contract):
            self._say(digest, f"{name}: serving goes on once {', '.join(missing)} can be reached again")
            return
        run_id = self._flower.start_run(digest, model_run)
        self._store.open_run(run_id, digest, model_run)
        self._store.add_event("resumed", f"it takes the place of run {last.run_id}: {last.reason}", run_id)
        self._say(digest, f"{name}: run {run_id} takes the place of serving run {last.run_id}")

    def _bring_back(self, run: RunRecord, earlier: Sequence[RunRecord], contract: ContractRecord) -> None:
        """End a run that goes on without a bank once that one is back: the next one is with it."""
        # Prevent a bank that is lost from every run from leaving the others no time to score, and using up their quota.
        if self._now() < run.started_at + pause_after(earlier):
            return
        lost = sorted(self._store.lost_parties(run.run_id))
        if lost and not self._missing(contract):
            names = ", ".join(lost)
            self._store.abort(run.run_id, f"{names}, without whom the run went on, can be reached again")

    def _missing(self, contract: ContractRecord) -> list[str]:
        heartbeats = self._flower.heartbeats()
        fresh = self._now().timestamp() + _FRESH_SECONDS
        keys = {party.party: canonical_key(party.flower_key) for party in self._store.parties()}
        return [party for party in contract.parties if heartbeats.get(keys[party], 0.0) < fresh]

    def _say(self, digest: str, text: str) -> None:
        """Log a sentence, once as long as it is the last one about the contract."""
        if self._said.get(digest) != text:
            self._said[digest] = text
            _log.info("%s", text)
