"""The tables, alike on SQLite and PostgreSQL, and the triggers that keep signed matter from changing."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    DDL,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    event,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

__all__ = [
    "SCHEMA_VERSION",
    "Base",
    "Contract",
    "ContractParty",
    "Decision",
    "Event",
    "Invitation",
    "LogEntry",
    "Party",
    "Progress",
    "Revocation",
    "Run",
    "SchemaVersion",
    "ServedModel",
]

SCHEMA_VERSION = 3

_PARTY = String(32)
_DIGEST = String(64)


class RunId(TypeDecorator[int]):
    """Flower's unsigned 64-bit run id, kept as the signed number with the same bits."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Return the signed form."""
        return value if value is None or value < 2**63 else value - 2**64

    def process_result_value(self, value: int | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Return the unsigned form."""
        return value if value is None else value % 2**64


class Moment(TypeDecorator[datetime]):
    """An aware time, in UTC; SQLite keeps no zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return ``value`` in UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return ``value`` with its zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite gives an automatic number to INTEGER keys only.
_Number = BigInteger().with_variant(Integer(), "sqlite")


class Base(DeclarativeBase):
    """The schema."""


class SchemaVersion(Base):
    """Which schema the database holds; one row."""

    __tablename__ = "schema_version"

    version: Mapped[int] = mapped_column(primary_key=True)


class Party(Base):
    """An enrolled institution."""

    __tablename__ = "parties"

    party: Mapped[str] = mapped_column(_PARTY, primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    identity_key: Mapped[bytes] = mapped_column(LargeBinary)
    flower_key: Mapped[str] = mapped_column(Text)
    witness_key: Mapped[str] = mapped_column(Text)
    certificate_digest: Mapped[str] = mapped_column(_DIGEST)
    enrolled_at: Mapped[datetime] = mapped_column(Moment)


class Invitation(Base):
    """A one-time invitation."""

    __tablename__ = "invitations"

    key_digest: Mapped[str] = mapped_column(_DIGEST, primary_key=True)
    party: Mapped[str] = mapped_column(_PARTY, index=True)
    role: Mapped[str] = mapped_column(String(16))
    replaces: Mapped[bool]
    expires_at: Mapped[datetime] = mapped_column(Moment)
    used_at: Mapped[datetime | None] = mapped_column(Moment)


class Contract(Base):
    """A drafted contract; append-only."""

    __tablename__ = "contracts"

    number: Mapped[int] = mapped_column(_Number, primary_key=True, autoincrement=True)
    digest: Mapped[str] = mapped_column(_DIGEST, unique=True)
    name: Mapped[str] = mapped_column(Text, index=True)
    canonical: Mapped[bytes] = mapped_column(LargeBinary)
    drafted_at: Mapped[datetime] = mapped_column(Moment)


class ContractParty(Base):
    """Who has to sign a contract; append-only."""

    __tablename__ = "contract_parties"

    digest: Mapped[str] = mapped_column(ForeignKey("contracts.digest"), primary_key=True)
    party: Mapped[str] = mapped_column(_PARTY, primary_key=True)


class Decision(Base):
    """A party's final word on a contract; append-only."""

    __tablename__ = "decisions"

    digest: Mapped[str] = mapped_column(ForeignKey("contracts.digest"), primary_key=True)
    party: Mapped[str] = mapped_column(_PARTY, primary_key=True)
    approved: Mapped[bool]
    envelope: Mapped[bytes] = mapped_column(LargeBinary)
    decided_at: Mapped[datetime] = mapped_column(Moment)


class Revocation(Base):
    """That a party took its approval back; append-only."""

    __tablename__ = "revocations"

    digest: Mapped[str] = mapped_column(ForeignKey("contracts.digest"), primary_key=True)
    party: Mapped[str] = mapped_column(_PARTY, primary_key=True)
    entry: Mapped[bytes] = mapped_column(LargeBinary)


class LogEntry(Base):
    """What is said, in the order in which the audit log takes it."""

    __tablename__ = "log_entries"

    number: Mapped[int] = mapped_column(_Number, primary_key=True, autoincrement=True)
    digest: Mapped[str] = mapped_column(_DIGEST, unique=True)
    subject: Mapped[str | None] = mapped_column(String(64), unique=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    is_signed: Mapped[bool]
    place: Mapped[int | None] = mapped_column(BigInteger, index=True)


class Run(Base):
    """A run of a contract."""

    __tablename__ = "runs"

    run_id: Mapped[int] = mapped_column(RunId, primary_key=True, autoincrement=False)
    digest: Mapped[str] = mapped_column(ForeignKey("contracts.digest"))
    model_run: Mapped[int | None] = mapped_column(RunId)
    phase: Mapped[str] = mapped_column(String(32))
    status: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(Moment)
    finished_at: Mapped[datetime | None] = mapped_column(Moment)


class ServedModel(Base):
    """The model of a contract that is to be served, in one serving run after the other, until the operator ends it."""

    __tablename__ = "served_models"

    digest: Mapped[str] = mapped_column(ForeignKey("contracts.digest"), primary_key=True)
    model_run: Mapped[int] = mapped_column(RunId)


class Progress(Base):
    """A report of how far a party is."""

    __tablename__ = "progress"

    number: Mapped[int] = mapped_column(_Number, primary_key=True, autoincrement=True)
    run_id: Mapped[int] = mapped_column(RunId, ForeignKey("runs.run_id"), index=True)
    party: Mapped[str] = mapped_column(_PARTY)
    phase: Mapped[str] = mapped_column(String(32))
    iteration: Mapped[int]
    seconds: Mapped[float]
    bytes_sent: Mapped[int] = mapped_column(BigInteger)
    bytes_received: Mapped[int] = mapped_column(BigInteger)
    loss: Mapped[float | None]


class Event(Base):
    """Something to read later; append-only."""

    __tablename__ = "events"

    number: Mapped[int] = mapped_column(_Number, primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(Moment)
    run_id: Mapped[int | None] = mapped_column(RunId, index=True)
    party: Mapped[str] = mapped_column(_PARTY)
    kind: Mapped[str] = mapped_column(String(64))
    text: Mapped[str] = mapped_column(Text)


def _forbid_changes(table: Table) -> None:
    """Let the database itself refuse to change or delete rows of ``table``."""
    name = table.name
    sqlite = [
        f"CREATE TRIGGER {name}_no_{verb} BEFORE {verb} ON {name} "
        f"BEGIN SELECT RAISE(ABORT, '{name} is append-only'); END"
        for verb in ("UPDATE", "DELETE")
    ]
    function = (
        f"CREATE OR REPLACE FUNCTION {name}_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{name} is append-only'; END $$"
    )
    trigger = (
        f"CREATE TRIGGER {name}_no_change BEFORE UPDATE OR DELETE ON {name} "
        f"FOR EACH ROW EXECUTE FUNCTION {name}_is_append_only()"
    )
    for dialect, commands in (("sqlite", sqlite), ("postgresql", [function, trigger])):
        for command in commands:
            ddl = DDL(command)  # type: ignore[no-untyped-call]  # SQLAlchemy leaves the constructor untyped
            event.listen(table, "after_create", ddl.execute_if(dialect=dialect))


for _model in (Contract, ContractParty, Decision, Event, Revocation):
    _forbid_changes(Base.metadata.tables[_model.__tablename__])
