"""What is said and has to come into the audit log, in its order."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from sqlalchemy import func, select, update

from fedshare.audit.entries import Entry, expect_short
from fedshare.audit.statements import COORDINATOR
from fedshare.errors import ConfigError, ParameterError
from fedshare_server.storage.database import Database
from fedshare_server.storage.records import LogRecord
from fedshare_server.storage.tables import Contract, LogEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy.orm import Session

    from fedshare.audit.statements import Statement

__all__ = ["LogStore", "close_subject", "open_subject"]


def open_subject(run_id: int, phase: str) -> str:
    """Return the subject of the entry that opens a phase, or a run if ``phase`` is empty."""
    return f"open/{run_id}/{phase}"


def close_subject(run_id: int) -> str:
    """Return the subject of the entry that closes a run."""
    return f"close/{run_id}"


class LogStore(Database):
    """The way of entries from whoever says something to the log.

    A statement is stored once: saying it again changes nothing. It has a place as soon as it is in the log.
    """

    def pending_entries(self, limit: int) -> list[LogRecord]:
        """Return what is not in the log yet, oldest first."""
        query = select(LogEntry).where(LogEntry.place.is_(None)).order_by(LogEntry.number).limit(limit)
        with self.transaction() as session:
            return [LogRecord(row.number, row.data, row.is_signed) for row in session.scalars(query)]

    def set_places(self, places: Mapping[int, int]) -> None:
        """Store the index in the log of each of these numbers."""
        with self.transaction() as session:
            for number, place in places.items():
                session.execute(update(LogEntry).where(LogEntry.number == number).values(place=place))

    def logged_size(self) -> int:
        """Return how many entries the log had when the last place was stored."""
        with self.transaction() as session:
            last = session.scalar(select(func.max(LogEntry.place)))
            return 0 if last is None else last + 1

    def number_of_statement(self, statement: Statement) -> int | None:
        """Return the number of a statement that was stored, or ``None``."""
        with self.transaction() as session:
            return session.scalar(select(LogEntry.number).where(LogEntry.digest == _digest(statement)))

    def places(self, numbers: Iterable[int]) -> list[int | None]:
        """Return the index in the log of each number, ``None`` for what is not there yet."""
        with self.transaction() as session:
            return [
                session.scalar(select(LogEntry.place).where(LogEntry.number == number)) for number in numbers
            ]

    def place_of(self, subject: str) -> int | None:
        """Return the index in the log of the entry about ``subject``, or ``None``."""
        with self.transaction() as session:
            return session.scalar(select(LogEntry.place).where(LogEntry.subject == subject))

    def say(self, kind: type[Statement], subject: str | None = None, **fields: Any) -> None:  # noqa: ANN401
        """Store a statement of the coordinator about something that stands nowhere else."""
        with self.transaction() as session:
            self._say(session, kind, subject, **fields)

    def _say(
        self,
        session: Session,
        kind: type[Statement],
        subject: str | None = None,
        **fields: Any,  # noqa: ANN401 - the statement checks them
    ) -> None:
        """Store a statement of the coordinator, to be signed on its way into the log.

        Raises:
            ConfigError: it is longer than an entry may be.
        """
        if subject is not None and _has(session, subject):
            return
        try:
            statement = kind(issuer=COORDINATOR, issued_at=int(self.now().timestamp()), **fields)
            data = statement.to_bytes()
            expect_short(data)
        except (ValidationError, ParameterError) as error:
            raise ConfigError(
                f"the audit log cannot take this {kind.__name__}: it is too long, or says what it must not"
            ) from error
        self._store(session, statement, data, subject, is_signed=False)

    def _add_entry(self, session: Session, entry: bytes) -> int:
        """Store a party's entry, whose signature the caller has verified, and return its number."""
        return self._store(session, Entry.parse(entry).statement, entry, None, is_signed=True)

    def _store(
        self, session: Session, statement: Statement, data: bytes, subject: str | None, *, is_signed: bool
    ) -> int:
        digest = _digest(statement)
        number = session.scalar(select(LogEntry.number).where(LogEntry.digest == digest))
        if number is not None:
            return number
        row = LogEntry(digest=digest, subject=subject, data=data, is_signed=is_signed, place=None)
        session.add(row)
        session.flush()
        return row.number


def _has(session: Session, subject: str) -> bool:
    return session.scalar(select(LogEntry.number).where(LogEntry.subject == subject)) is not None


def is_closed(session: Session, run_id: int) -> bool:
    """Whether the end of a run is stated, after which nothing may be said about it."""
    return _has(session, close_subject(run_id))


def code_digest_of(session: Session, digest: str) -> str:
    """Return the code digest of the contract with this digest.

    Raises:
        ConfigError: there is no such contract.
    """
    canonical = session.scalar(select(Contract.canonical).where(Contract.digest == digest))
    if canonical is None:
        raise ConfigError(f"no contract has the digest {digest}")
    return str(json.loads(canonical)["code_digest"])


def _digest(statement: Statement) -> str:
    return hashlib.sha256(statement.to_bytes()).hexdigest()
