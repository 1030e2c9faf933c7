"""Runs, their progress, and the events that explain them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from fedshare.audit.statements import PhaseClosed, PhaseOpened, RunClosed, RunOpened
from fedshare.contract.model import parse_contract
from fedshare.errors import ConfigError, RefusedError
from fedshare_server.phases import LOST
from fedshare_server.storage.log import (
    LogStore,
    close_subject,
    code_digest_of,
    is_closed,
    open_subject,
)
from fedshare_server.storage.records import EventRecord, ProgressRecord, RunRecord
from fedshare_server.storage.tables import Contract, ContractParty, Event, Progress, Run, ServedModel

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["RunStore"]

_MAX_TEXT = 1000
# As the audit log takes it.
_WORD = re.compile(r"[a-z][a-z0-9_.-]{0,63}")


class RunStore(LogStore):
    """What the ServerApp, the Exchange and the operator share about a run.

    A run is ``running`` until it ends once, as ``completed``, ``refused``, ``failed`` or ``aborted``; the
    first end and its reason stay.
    """

    def open_run(self, run_id: int, digest: str, model_run: int | None = None) -> None:
        """Store that a run of the contract has begun; doing it again for the same contract changes nothing.

        Args:
            run_id: Flower's.
            digest: of the contract.
            model_run: the training run whose model it serves; ``None`` if it trains.

        Raises:
            ConfigError: no contract has this digest, or the run is another contract's.
        """
        with self.transaction() as session:
            code_digest = code_digest_of(session, digest)
            run = session.get(Run, run_id)
            if run is not None:
                if run.digest != digest:
                    raise ConfigError(f"run {run_id} is of contract {run.digest[:12]}, not of {digest[:12]}")
                return
            session.add(
                Run(
                    run_id=run_id,
                    digest=digest,
                    model_run=model_run,
                    phase="",
                    status="running",
                    reason="",
                    started_at=self.now(),
                )
            )
            fields = {"run_id": str(run_id), "contract_digest": digest}
            model = "" if model_run is None else str(model_run)
            subject = open_subject(run_id, "")
            self._say(session, RunOpened, subject, **fields, code_digest=code_digest, model_run=model)
            self._log(session, run_id, "", "run_opened", f"run of contract {digest[:12]} is opened")
            if model_run is not None:
                self._log(session, run_id, "", "serving", f"it serves the model of run {model_run}")

    def serving_runs(self, digest: str) -> list[RunRecord]:
        """Return the serving runs of a contract, newest first."""
        query = (
            select(Run)
            .where(Run.digest == digest, Run.model_run.is_not(None))
            .order_by(Run.started_at.desc(), Run.run_id)
        )
        with self.transaction() as session:
            return [_run(row) for row in session.scalars(query)]

    def keep_serving(self, run_id: int) -> None:
        """Store that what this run serves is to be served, in further runs if need be, until one is ended or refused."""
        with self.transaction() as session:
            run = _get(session, run_id)
            if run.model_run is not None and run.status == "running":
                session.merge(ServedModel(digest=run.digest, model_run=run.model_run))

    def stop_serving(self, digest: str) -> None:
        """Store that no model of a contract is to be served in further runs."""
        with self.transaction() as session:
            session.execute(delete(ServedModel).where(ServedModel.digest == digest))

    def served_models(self) -> dict[str, int]:
        """Return, by the digest of a contract, the training run whose model is to be served."""
        with self.transaction() as session:
            return {row.digest: row.model_run for row in session.scalars(select(ServedModel))}

    def set_phase(self, run_id: int, phase: str) -> None:
        """Store which phase a run is in; in the log, the one before it is closed and this one opened."""
        with self.transaction() as session:
            run = _get(session, run_id)
            if run.phase != phase:
                self._close_phase(session, run)
                self._say(session, PhaseOpened, open_subject(run_id, phase), **_fields(run), phase=phase)
                run.phase = phase
                self._log(session, run_id, "", "phase", phase)

    def abort(self, run_id: int, reason: str, party: str = "", code: str = "aborted") -> None:
        """End a run for every party; the first reason stays, later ones are logged."""
        with self.transaction() as session:
            self._end(session, run_id, "aborted", reason)
            self._log(session, run_id, party, code, reason)

    def lose(self, run_id: int, party: str) -> None:
        """Store that a run goes on without a party, whose connection to the Exchange has ended."""
        text = "was lost: its connection ended and did not come back; the run goes on without it"
        with self.transaction() as session:
            self._log(session, run_id, party, LOST, text)

    def lost_parties(self, run_id: int) -> frozenset[str]:
        """Return the parties that a run goes on without, as far as the Exchange knows."""
        query = select(Event.party).where(Event.run_id == run_id, Event.kind == LOST)
        with self.transaction() as session:
            return frozenset(session.scalars(query))

    def run_aborted(self, run_id: int) -> str | None:
        """Return why a run ended before its time, or ``None`` if it runs or has completed."""
        with self.transaction() as session:
            run = _get(session, run_id)
            return None if run.status in {"running", "completed"} else run.reason

    def run_completed(self, run_id: int) -> bool:
        """Return whether a run has been ended in good order."""
        with self.transaction() as session:
            return _get(session, run_id).status == "completed"

    def finish(self, run_id: int, status: str, reason: str = "") -> None:
        """Store how a run ended: ``completed``, ``refused`` or ``failed``; an earlier end stays."""
        with self.transaction() as session:
            if self._end(session, run_id, status, reason):
                self._log(session, run_id, "", f"run_{status}", reason or "the run is complete")
                if status in {"completed", "refused"}:
                    _forget_served(session, run_id)

    def close_run(self, run_id: int, cause: str = "") -> None:
        """Have the end of a run logged, after which nobody says anything about it; again changes nothing.

        Args:
            run_id: a run that has ended.
            cause: a word for why it did not complete.
        """
        with self.transaction() as session:
            run = _get(session, run_id)
            if is_closed(session, run_id):
                return
            completed = run.status == "completed"
            if completed:
                self._close_phase(session, run)
            outcome = run.status if run.status in {"completed", "refused"} else "failed"
            self._say(
                session,
                RunClosed,
                close_subject(run_id),
                **_fields(run),
                outcome=outcome,
                cause="" if completed else cause if _WORD.fullmatch(cause) else "failed",
            )

    def add_run_entry(self, run_id: int, digest: str, party: str, entry: bytes) -> int:
        """Store what a party states about a run that is not over, and return its number.

        Raises:
            RefusedError: there is no such run of this contract and party, or it is closed.
        """
        with self.transaction() as session:
            # Locked, so that nothing gets a number after the run's end.
            run = session.get(Run, run_id, with_for_update=True)
            names = run is not None and session.get(ContractParty, (run.digest, party)) is not None
            if run is None or run.digest != digest or not names:
                raise RefusedError("not_a_party", f"{party} is not a party of run {run_id} of this contract")
            if is_closed(session, run_id):
                raise RefusedError("run_closed", f"run {run_id} is closed in the log: nothing is added to it")
            return self._add_entry(session, entry)

    def add_entry(self, entry: bytes) -> int:
        """Store what a party states about no run, and return its number."""
        with self.transaction() as session:
            return self._add_entry(session, entry)

    def _close_phase(self, session: Session, run: Run) -> None:
        if run.phase:
            self._say(session, PhaseClosed, **_fields(run), phase=run.phase)

    def runs(self) -> list[RunRecord]:
        """Return every run, newest first."""
        with self.transaction() as session:
            return [
                _run(row) for row in session.scalars(select(Run).order_by(Run.started_at.desc(), Run.run_id))
            ]

    def find_run(self, run_id: int) -> RunRecord | None:
        """Return one run, or ``None``."""
        with self.transaction() as session:
            row = session.get(Run, run_id)
            return None if row is None else _run(row)

    def parties_of_run(self, run_id: int) -> tuple[str, ...]:
        """Return the ids of the parties of a run, sorted; empty if there is no such run."""
        query = (
            select(ContractParty.party)
            .join(Run, Run.digest == ContractParty.digest)
            .where(Run.run_id == run_id)
            .order_by(ContractParty.party)
        )
        with self.transaction() as session:
            return tuple(session.scalars(query))

    def expendable_parties(self, run_id: int) -> frozenset[str]:
        """Return the parties of a run without which it goes on; none if there is no such run."""
        query = (
            select(Contract.canonical, Run.model_run)
            .join(Run, Run.digest == Contract.digest)
            .where(Run.run_id == run_id)
        )
        with self.transaction() as session:
            found = session.execute(query).first()
        if found is None:
            return frozenset()
        contract = parse_contract(found[0])
        return contract.expendable() if found[1] is None else contract.expendable_in_serving()

    def add_progress(self, progress: ProgressRecord) -> None:
        """Store a party's report."""
        with self.transaction() as session:
            session.add(
                Progress(
                    run_id=progress.run_id,
                    party=progress.party,
                    phase=progress.phase,
                    iteration=progress.iteration,
                    seconds=progress.seconds,
                    bytes_sent=progress.bytes_sent,
                    bytes_received=progress.bytes_received,
                    loss=progress.loss,
                )
            )

    def progress(self, run_id: int, after: int = 0) -> list[ProgressRecord]:
        """Return the reports of a run numbered above ``after``, in order of arrival."""
        query = (
            select(Progress)
            .where(Progress.run_id == run_id, Progress.number > after)
            .order_by(Progress.number)
        )
        with self.transaction() as session:
            return [_progress(row) for row in session.scalars(query)]

    def add_event(self, kind: str, text: str, run_id: int | None = None, party: str = "") -> None:
        """Store one sentence for the operator; it must carry no data."""
        with self.transaction() as session:
            self._log(session, run_id, party, kind, text)

    def events(self, run_id: int | None = None, after: int = 0) -> list[EventRecord]:
        """Return the events numbered above ``after``, oldest first; with ``run_id``, those of one run."""
        query = select(Event).where(Event.number > after).order_by(Event.number)
        if run_id is not None:
            query = query.where(Event.run_id == run_id)
        with self.transaction() as session:
            return [_event(row) for row in session.scalars(query)]

    def _end(self, session: Session, run_id: int, status: str, reason: str) -> bool:
        run = _get(session, run_id)
        if run.status != "running":
            return False
        run.status, run.reason, run.finished_at = status, reason[:_MAX_TEXT], self.now()
        return True

    def _log(self, session: Session, run_id: int | None, party: str, kind: str, text: str) -> None:
        session.add(Event(at=self.now(), run_id=run_id, party=party, kind=kind, text=text[:_MAX_TEXT]))


def _fields(run: Run) -> dict[str, str]:
    return {"run_id": str(run.run_id), "contract_digest": run.digest}


def _get(session: Session, run_id: int) -> Run:
    run = session.get(Run, run_id, with_for_update=True)
    if run is None:
        raise ConfigError(f"there is no run {run_id}: see `fedshare-server runs`")
    return run


def _forget_served(session: Session, run_id: int) -> None:
    """Note that nothing takes a serving run's place, unless another has taken it already."""
    run = _get(session, run_id)
    others = select(Run.run_id).where(
        Run.digest == run.digest, Run.model_run.is_not(None), Run.status == "running"
    )
    if run.model_run is not None and session.scalar(others) is None:
        session.execute(delete(ServedModel).where(ServedModel.digest == run.digest))


def _run(row: Run) -> RunRecord:
    return RunRecord(
        row.run_id,
        row.digest,
        row.phase,
        row.status,
        row.reason,
        row.started_at,
        row.finished_at,
        row.model_run,
    )


def _progress(row: Progress) -> ProgressRecord:
    return ProgressRecord(
        row.run_id,
        row.party,
        row.phase,
        row.iteration,
        row.seconds,
        row.bytes_sent,
        row.bytes_received,
        row.loss,
        row.number,
    )


def _event(row: Event) -> EventRecord:
    return EventRecord(row.number, row.at, row.run_id, row.party, row.kind, row.text)
