"""From a source to a checked table: ``load`` stops at the first problem, ``inspect`` collects all of them.

The source is read once, in batches, into one array per column, so that the memory needed is that of the
table: 8 bytes per cell and about 100 per identifier.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fedshare.credit.identifiers import normalise_identifiers
from fedshare.errors import DataError, FedshareError, UnavailableError

from .cells import CellError, categories, identifiers, numbers
from .csv_file import CsvSource
from .parquet_file import ParquetSource
from .sources import BATCH_ROWS, unreadable
from .table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from fedshare_clients.node.config import NodeConfig

    from .sources import Source

__all__ = ["ColumnSummary", "Inspection", "inspect", "load", "open_source", "roster_digest"]


@dataclass(frozen=True, slots=True)
class ColumnSummary:
    """What a column looks like, in counts.

    Attributes:
        name: its name in contracts.
        kind: ``numeric``, ``categorical``, ``label`` or ``weight``.
        source_type: its type at the source, as Arrow calls it.
        missing_rate: share of rows without a value.
        distinct: number of different values, missing not counted.
    """

    name: str
    kind: str
    source_type: str
    missing_rate: float
    distinct: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found at the source.

    Attributes:
        source: the file or table.
        available: the names of all columns there.
        rows: how many rows were read.
        columns: the declared columns that could be read, in the order of the configuration.
        problems: everything that ``load`` would refuse, in order; empty if the data can be used.
        table: the data, if there is no problem.
    """

    source: str
    available: tuple[str, ...]
    rows: int
    columns: tuple[ColumnSummary, ...]
    problems: tuple[FedshareError, ...]
    table: Table | None


@dataclass(slots=True)
class _Column:
    """A column while it is read: ``failed`` once a problem with it was noted."""

    name: str
    source_name: str
    kind: str
    source_type: str = ""
    failed: bool = False
    _cells: NDArray[Any] | None = None
    _used: int = 0

    def append(self, cells: NDArray[Any]) -> None:
        """Add the cells of the next batch; one array grows in place, so that no pieces stay in the heap."""
        if self._cells is None:
            self._cells = np.empty(max(len(cells), BATCH_ROWS), dtype=cells.dtype)
        needed = self._used + len(cells)
        if needed > len(self._cells):
            self._cells.resize(max(needed, 2 * len(self._cells)), refcheck=False)
        self._cells[self._used : needed] = cells
        self._used = needed

    def clear(self) -> None:
        """Forget all cells."""
        self._cells, self._used = None, 0

    def values(self) -> NDArray[Any]:
        """Return all cells; they are the caller's."""
        cells, used = self._cells, self._used
        self.clear()
        if cells is None:
            return np.empty(0)
        cells.resize(used, refcheck=False)
        return cells


def load(config: NodeConfig) -> Table:
    """Return this party's checked rows.

    Raises:
        ConfigError: the database's URL is not set.
        DataError: the data cannot be used; the message names party, source, row and field.
        UnavailableError: the database cannot be reached.
    """
    inspection = inspect(config)
    if inspection.table is None:
        raise inspection.problems[0]
    return inspection.table


def inspect(config: NodeConfig) -> Inspection:
    """Return what is at the source and everything that is wrong with it.

    Raises:
        ConfigError: the database's URL is not set.
    """
    return _Reader(config).inspect()


def open_source(config: NodeConfig) -> Source:
    """Return the configured source, not yet opened.

    Raises:
        ConfigError: the database's URL is not set.
    """
    data = config.data
    if data.source == "postgresql":
        # Imported here: an institution that reads files needs no database driver.
        from .postgresql import PostgresqlSource  # noqa: PLC0415

        return PostgresqlSource(config.database_url(), config.party, data.table, data.query)
    if data.source == "query":
        from .query import QuerySource  # noqa: PLC0415 - as above

        return QuerySource(data.query or "", data.folder, config.party)
    if data.path is None:
        raise DataError("data.path is not set", party=config.party)
    if data.source == "csv":
        return CsvSource(data.path, config.party, data.encoding, data.delimiter)
    return ParquetSource(data.path, config.party)


def roster_digest(path: Path, *, party: str) -> str:
    """Return the SHA-256 of the roster file, hexadecimal, as the contract names it.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error, party=party) from error


class _Reader:
    """One reading of one source; collects problems as it goes."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._source = open_source(config)
        self._problems: list[FedshareError] = []
        self._rows = 0
        self._identifiers: list[str | None] = []
        data = config.data
        self._key = _Column(data.identifier, data.identifier, "identifier")
        self._columns = [
            _Column(name, source_name, data.columns[name].kind)
            for name, source_name in data.source_columns().items()
        ]
        self._label = None if data.label is None else _Column(data.label, data.label, "label")
        self._weight = None if data.weight is None else _Column(data.weight, data.weight, "weight")

    def inspect(self) -> Inspection:
        """Read everything and return what was found."""
        available: tuple[str, ...] = ()
        summaries: tuple[ColumnSummary, ...] = ()
        table = None
        try:
            available = tuple(self._source.column_names())
            self._find_columns(available)
            self._read_rows()
            # What reading borrowed goes back to the system: training needs the room.
            pa.default_memory_pool().release_unused()
            table, summaries = self._check()
        except (DataError, UnavailableError) as error:
            self._problems.append(error)
        return Inspection(
            self._source.name,
            available,
            self._rows,
            summaries,
            tuple(self._problems),
            None if self._problems else table,
        )

    def _all_columns(self) -> list[_Column]:
        """Return every declared column that has not failed, the identifier last."""
        declared = [*self._columns, self._label, self._weight, self._key]
        return [column for column in declared if column is not None and not column.failed]

    def _find_columns(self, available: tuple[str, ...]) -> None:
        """Note the declared columns that do not exist or exist twice."""
        for column in self._all_columns():
            count = available.count(column.source_name)
            if count == 1:
                continue
            listed = ", ".join(sorted(available)) or "none"
            found = f"found {count}" if count else f"found none; the source has: {listed}"
            self._fail(column, None, f"expected one column of this name, {found}")

    def _read_rows(self) -> None:
        columns = self._all_columns()
        if not columns:
            return
        limit = self._config.limits.rows
        for batch in self._source.batches(list(dict.fromkeys(column.source_name for column in columns))):
            for column in columns:
                if not column.failed:
                    self._read_cells(column, batch.column(column.source_name))
            self._rows += batch.num_rows
            if self._rows > limit:
                raise self._problem(f"expected at most {limit} rows (limits.rows), found more")
        if self._rows == 0:
            raise self._problem("expected rows, found none; check the source, its filter and its date")

    def _read_cells(self, column: _Column, array: pa.Array) -> None:
        column.source_type = str(array.type)
        missing = self._config.data.missing
        try:
            if column.kind == "identifier":
                self._identifiers.extend(identifiers(array))
            elif column.kind == "categorical":
                column.append(categories(array, missing))
            else:
                column.append(numbers(array, missing))
        except CellError as error:
            row = None if error.row is None else self._rows + error.row
            self._fail(column, row, error.message)

    def _check(self) -> tuple[Table | None, tuple[ColumnSummary, ...]]:
        """Return the table, unless a column failed, and what its columns look like."""
        summaries: list[ColumnSummary] = []
        values: dict[str, NDArray[Any]] = {}
        for column in self._columns:
            if not column.failed:
                values[column.name] = self._checked(column, summaries)
        label = self._checked(self._label, summaries) if self._label and not self._label.failed else None
        weight = self._checked(self._weight, summaries) if self._weight and not self._weight.failed else None
        keys = [] if self._key.failed else self._checked_identifiers()
        table = None if self._problems else Table(self._source.name, keys, values, label, weight)
        return (None if table is None else self._with_roster(table)), tuple(summaries)

    def _checked(self, column: _Column, summaries: list[ColumnSummary]) -> NDArray[Any]:
        values = column.values()
        is_missing = (
            np.array([cell is None for cell in values]) if values.dtype == object else np.isnan(values)
        )
        present = values[~is_missing]
        distinct = len(set(present.tolist())) if values.dtype == object else len(np.unique(present))
        summaries.append(
            ColumnSummary(column.name, column.kind, column.source_type, float(is_missing.mean()), distinct)
        )
        if column.kind == "label":
            self._check_label(column, values, distinct)
        elif column.kind == "weight":
            self._check_rows(
                column, ~(values > 0), "expected a positive weight, found none or one that is not positive"
            )
        elif distinct == 0:
            self._fail(column, None, "expected values, found missing cells only; leave the column out")
        elif distinct == 1 and not is_missing.any():
            self._fail(
                column, None, "expected different values, found one alone in all rows; leave the column out"
            )
        return values

    def _check_label(self, column: _Column, values: NDArray[np.float64], distinct: int) -> None:
        self._check_rows(column, np.isnan(values), "expected a label of 0 or 1, found a missing cell")
        self._check_rows(
            column,
            ~np.isnan(values) & (values != 0) & (values != 1),
            "expected a label of 0 or 1, found another number",
        )
        if not column.failed and distinct < 2:
            self._fail(column, None, "expected labels of both kinds, 0 and 1, found one kind in all rows")

    def _check_rows(self, column: _Column, wrong: NDArray[np.bool_], message: str) -> None:
        rows = np.flatnonzero(wrong)
        if rows.size and not column.failed:
            more = f" (and in {rows.size - 1} more row(s))" if rows.size > 1 else ""
            self._fail(column, int(rows[0]), message + more)

    def _checked_identifiers(self) -> list[bytes]:
        cells, self._identifiers = self._identifiers, []
        return self._normalised(cells, self._source.name, self._key.source_name)

    def _normalised(self, cells: list[str | None], source: str, name: str) -> list[bytes]:
        data = self._config.data
        return normalise_identifiers(
            cells,
            data.identifier_kind,
            check_digits=data.check_digits,
            party=self._config.party,
            source=source,
            field=name,
        )

    def _with_roster(self, table: Table) -> Table:
        path = self._config.data.roster
        if path is None:
            return table
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise unreadable(path, error, party=self._config.party) from error
        except UnicodeDecodeError as error:
            raise DataError(
                "expected one enterprise code a line in UTF-8, found other bytes",
                party=self._config.party,
                source=str(path),
            ) from error
        return table.extended(self._normalised([line for line in lines if line.strip()], str(path), "roster"))

    def _fail(self, column: _Column, row: int | None, message: str) -> None:
        """Note a problem and leave the column out of what follows."""
        column.failed = True
        column.clear()
        self._problems.append(self._problem(message, row=row, name=column.source_name))

    def _problem(self, message: str, *, row: int | None = None, name: str = "") -> DataError:
        return DataError(
            message,
            party=self._config.party,
            source=self._source.name,
            row=None if row is None else row + 1,
            field=name,
        )
