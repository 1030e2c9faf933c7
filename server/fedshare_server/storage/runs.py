"""Runs, their progress, and the events that explain them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from fedshare.errors import ConfigError
from fedshare_server.storage.database import Database
from fedshare_server.storage.records import EventRecord, ProgressRecord, RunRecord
from fedshare_server.storage.tables import Contract, ContractParty, Event, Progress, Run

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["RunStore"]

_MAX_TEXT = 1000


class RunStore(Database):
    """What the ServerApp, the Exchange and the operator share about a run.

    A run is ``running`` until it ends once, as ``completed``, ``refused``, ``failed`` or ``aborted``; the
    first end and its reason stay.
    """

    def open_run(self, run_id: int, digest: str) -> None:
        """Store that a run of the contract has begun; doing it again for the same contract changes nothing.

        Raises:
            ConfigError: no contract has this digest, or the run is another contract's.
        """
        with self.transaction() as session:
            if session.scalar(select(Contract.digest).where(Contract.digest == digest)) is None:
                raise ConfigError(f"no contract has the digest {digest}")
            run = session.get(Run, run_id)
            if run is not None:
                if run.digest != digest:
                    raise ConfigError(f"run {run_id} is of contract {run.digest[:12]}, not of {digest[:12]}")
                return
            session.add(
                Run(
                    run_id=run_id, digest=digest, phase="", status="running", reason="", started_at=self.now()
                )
            )
            self._log(session, run_id, "", "run_opened", f"run of contract {digest[:12]} is opened")

    def set_phase(self, run_id: int, phase: str) -> None:
        """Store which phase a run is in."""
        with self.transaction() as session:
            run = _get(session, run_id)
            if run.phase != phase:
                run.phase = phase
                self._log(session, run_id, "", "phase", phase)

    def abort(self, run_id: int, reason: str, party: str = "", code: str = "aborted") -> None:
        """End a run for every party; the first reason stays, later ones are logged."""
        with self.transaction() as session:
            self._end(session, run_id, "aborted", reason)
            self._log(session, run_id, party, code, reason)

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


def _get(session: Session, run_id: int) -> Run:
    run = session.get(Run, run_id, with_for_update=True)
    if run is None:
        raise ConfigError(f"there is no run {run_id}: see `fedshare-server runs`")
    return run


def _run(row: Run) -> RunRecord:
    return RunRecord(
        row.run_id, row.digest, row.phase, row.status, row.reason, row.started_at, row.finished_at
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
