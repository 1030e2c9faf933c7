"""The connection to the database: one transaction at a time, foreign errors translated once."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Engine, create_engine, event, insert, inspect, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from fedshare.errors import ConfigError, StorageError, UnavailableError
from fedshare_server.storage.tables import SCHEMA_VERSION, Base, SchemaVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

__all__ = ["Database", "connect"]

_SQLITE_BUSY_SECONDS = 10


class Database:
    """Transactions over one engine.

    Attributes:
        now: the clock that stamps rows.
    """

    def __init__(self, engine: Engine, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self.now = now

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Yield a session that commits on leaving and rolls back on an error.

        Raises:
            StorageError: the database refused, e.g. it is locked or the disk is full.
            UnavailableError: the database server cannot be reached.
        """
        with (
            translated(self._engine.url),
            Session(self._engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def close(self) -> None:
        """Let go of every connection."""
        self._engine.dispose()


def connect(url: str) -> Engine:
    """Open the database at ``url`` and create the tables if it is empty.

    Raises:
        ConfigError: the URL does not parse or names another kind of database, or the schema is another
            version's.
        StorageError: the database refused.
        UnavailableError: the database server cannot be reached.
    """
    parsed = _parse(url)
    with translated(parsed):
        engine = _create_engine(parsed)
        with engine.begin() as connection:
            if not inspect(connection).has_table(SchemaVersion.__tablename__):
                Base.metadata.create_all(connection)
                connection.execute(insert(SchemaVersion).values(version=SCHEMA_VERSION))
            version = connection.scalar(select(SchemaVersion.version))
    if version != SCHEMA_VERSION:
        engine.dispose()
        raise ConfigError(
            f"the database has schema {version}, this version of fedshare expects {SCHEMA_VERSION}: "
            "use the version that created it"
        )
    return engine


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Turn the errors of the database at ``url`` into ours."""
    place = url.render_as_string(hide_password=True)
    try:
        yield
    except IntegrityError as error:
        cause = _first_line(error)
        if "append-only" in cause:
            raise StorageError(f"{place}: the database refused ({cause})") from error
        raise StorageError(f"{place}: another process wrote the same record first: try again") from error
    except OperationalError as error:
        raise _operational(place, error) from error
    except DBAPIError as error:
        raise StorageError(f"{place}: the database refused ({_first_line(error)})") from error
    except SQLAlchemyError as error:
        raise StorageError(f"{place}: the database failed ({type(error).__name__})") from error


def _operational(place: str, error: OperationalError) -> StorageError | UnavailableError:
    cause = _first_line(error)
    if "locked" in cause:
        return StorageError(
            f"{place}: the database is locked by another process for too long: end it and try again"
        )
    if "full" in cause or "No space left" in cause:
        return StorageError(f"{place}: the disk is full: nothing was stored, make room and try again")
    if "connection" in cause:
        return UnavailableError(
            f"{place}: the database server cannot be reached ({cause}): start it and try again"
        )
    return StorageError(f"{place}: the database refused ({cause})")


def _first_line(error: DBAPIError) -> str:
    """Return the driver's own sentence; never the statement or its values."""
    lines = str(error.orig).strip().splitlines()
    return lines[0] if lines else type(error.orig).__name__


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError("database: expected a URL such as postgresql://user@host/name") from error
    if parsed.drivername in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        raise ConfigError(f"database: expected sqlite or postgresql, found {parsed.get_backend_name()}")
    return parsed


def _create_engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    if url.database:
        _touch_private(Path(url.database))
    engine = create_engine(url, connect_args={"timeout": _SQLITE_BUSY_SECONDS})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _touch_private(path: Path) -> None:
    """Create the file before SQLite does, which would follow the process's umask."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StorageError(f"{path}: the database cannot be opened ({error.strerror})") from error


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401  the driver's own type
    # The driver would otherwise begin transactions by itself, late, and two writers could deadlock on the
    # upgrade of a read lock. BEGIN IMMEDIATE takes the write lock first; readers of the WAL are never blocked
    # by it for long.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
