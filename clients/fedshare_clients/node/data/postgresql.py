"""A PostgreSQL table or query, streamed through ADBC inside one read-only transaction.

What the node may read is best decided by the database: give its role SELECT on one view. The read-only
transaction is the second lock. Messages never repeat what the server says, because it quotes cells.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pyarrow as pa
from adbc_driver_manager import Error as AdbcError
from adbc_driver_postgresql import dbapi

from fedshare.errors import ConfigError, DataError, FedshareError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["PostgresqlSource"]

_CONNECT_SECONDS = 15
# PostgreSQL manual, appendix A: classes 08 and 57P are lost or refused connections.
_LOST = ("08", "57P")
_STATES = {
    "42P01": "expected an existing table or view, found none of this name; correct data.table",
    "42501": "permission denied; grant the node's role SELECT on it",
    "25006": "expected a SELECT, found a statement that writes; the node only reads",
    "42601": "expected one SELECT, found something that is not SQL; correct data.query",
    "42703": "the query names a column that is not there; correct data.query",
}


@dataclass(frozen=True, slots=True)
class PostgresqlSource:
    """A table, view or SELECT in a PostgreSQL database."""

    url: str = field(repr=False)
    party: str
    table: str | None = None
    query: str | None = None

    @property
    def name(self) -> str:
        """Return the table, or that it is a query; never the URL."""
        return f"postgresql {self.table}" if self.table else "postgresql query"

    def column_names(self) -> list[str]:
        """Return the names of the result's columns. Raises as ``Source.column_names``."""
        with self._cursor() as cursor:
            cursor.execute(f"SELECT * FROM {self._relation()} LIMIT 0")  # noqa: S608 - the operator's own words
            return list(cursor.fetch_arrow_table().schema.names)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows with the database's types. Raises as ``Source.batches``."""
        names = ", ".join(_quoted(name) for name in columns)
        with self._cursor() as cursor:
            cursor.execute(f"SELECT {names} FROM {self._relation()}")  # noqa: S608 - the operator's own words
            reader = cursor.fetch_record_batch()
            for batch in reader:
                yield _plain(batch)

    def _relation(self) -> str:
        if self.query is not None:
            return f"({self.query.strip().rstrip(';')}) AS fedshare_rows"
        return ".".join(_quoted(part) for part in (self.table or "").split("."))

    @contextmanager
    def _cursor(self) -> Iterator[dbapi.Cursor]:
        try:
            with self._connect() as connection, connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                yield cursor
        except AdbcError as error:
            raise self._explained(error) from error
        except (pa.ArrowException, OSError) as error:
            raise self._interrupted(str(error)) from error

    def _connect(self) -> dbapi.Connection:
        place = self._place()
        separator = "&" if "?" in self.url else "?"
        timeout = "" if "connect_timeout" in self.url else f"{separator}connect_timeout={_CONNECT_SECONDS}"
        try:
            return dbapi.connect(self.url + timeout)
        except AdbcError as error:
            said = str(error)
            if "no pg_hba.conf" in said or "authentication failed" in said or "no password supplied" in said:
                raise self._refused(
                    f"{place} refuses the node's user or password; correct data.url"
                ) from error
            if "does not exist" in said or "permission denied" in said:
                raise self._refused(
                    f"{place} has no such database or role, or the role may not connect"
                ) from error
            raise UnavailableError(
                f"party {self.party}, source {self.name}: PostgreSQL at {place} cannot be reached; check "
                "that it runs and that data.url names it"
            ) from error

    def _place(self) -> str:
        try:
            parts = urlsplit(self.url)
            port = parts.port or 5432
        except ValueError as error:
            raise ConfigError("data.url: expected postgresql://USER@HOST:PORT/DATABASE") from error
        if parts.scheme not in {"postgresql", "postgres"}:
            raise ConfigError("data.url: expected postgresql://USER@HOST:PORT/DATABASE")
        return f"{parts.hostname or 'the local socket'}:{port}"

    def _explained(self, error: AdbcError) -> FedshareError:
        """Return what an SQL state means for the operator."""
        state = error.sqlstate or ""
        if state.startswith(_LOST) or not state:
            return UnavailableError(
                f"party {self.party}, source {self.name}: the database ended the connection; try again"
            )
        unknown = f"the database refused the query with SQL state {state}; run it by hand to see why"
        return self._refused(_STATES.get(state, unknown))

    def _interrupted(self, said: str) -> FedshareError:
        """Return what an error in the middle of the rows means: the driver gives no SQL state for it."""
        if "read-only transaction" in said:
            return self._refused(_STATES["25006"])
        if (
            "PGRES_FATAL_ERROR" in said
            and "terminating connection" not in said
            and "server closed" not in said
        ):
            return self._refused(
                "the database stopped in the middle of the rows; run the query by hand to see why"
            )
        return UnavailableError(
            f"party {self.party}, source {self.name}: the connection was lost while reading; try again"
        )

    def _refused(self, message: str) -> DataError:
        return DataError(message, party=self.party, source=self.name)


def _quoted(name: str) -> str:
    """Return ``name`` as an SQL identifier (PostgreSQL manual, 4.1.1)."""
    return '"' + name.replace('"', '""') + '"'


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return ``batch`` with types that Arrow only wraps (numeric, uuid) as what they are stored as: text."""
    arrays = [array.storage if isinstance(array, pa.ExtensionArray) else array for array in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)
