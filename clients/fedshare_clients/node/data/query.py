"""SQL over CSV and Parquet files, run by DuckDB in the node: for features that are derived, such as sums over invoices.

data:
  source: query
  query: select credit_code, sum(amount) as turnover from 'invoices.parquet' group by credit_code
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb

from fedshare.errors import DataError

from .sources import BATCH_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

__all__ = ["QuerySource"]


@dataclass(frozen=True, slots=True)
class QuerySource:
    """The rows of one SELECT; relative paths in it are relative to ``folder``."""

    query: str
    folder: Path
    party: str

    @property
    def name(self) -> str:
        """Return what messages call this source."""
        return "data.query"

    def column_names(self) -> list[str]:
        """Return the names of the query's columns. Raises as ``Source.column_names``."""
        with self._run(f"SELECT * FROM ({self._select()}) LIMIT 0") as relation:  # noqa: S608 - the node's own query
            return list(relation.columns)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the query's order. Raises as ``Source.batches``."""
        names = ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
        with self._run(f"SELECT {names} FROM ({self._select()})") as relation:  # noqa: S608 - the node's own query
            yield from relation.to_arrow_reader(BATCH_ROWS)

    def _select(self) -> str:
        return self.query.strip().rstrip(";")

    @contextmanager
    def _run(self, statement: str) -> Iterator[duckdb.DuckDBPyRelation]:
        try:
            with duckdb.connect(":memory:", config={"file_search_path": str(self.folder)}) as connection:
                relation = connection.sql(statement)
                if relation is None:
                    raise DataError(
                        "expected a SELECT, found another statement", party=self.party, source=self.name
                    )
                yield relation
        except duckdb.Error as error:
            # DuckDB quotes cells in some messages (a failed cast), so only the kind of error is passed on.
            kind = type(error).__name__
            raise DataError(
                f"the query cannot be run ({kind}); try it with the duckdb command",
                party=self.party,
                source=self.name,
            ) from error
