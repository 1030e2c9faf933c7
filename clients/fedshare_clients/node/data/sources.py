"""What a source of rows is: it names its columns and streams some of them.

Three kinds exist, each written the natural way for its store: a CSV file, a Parquet file and a PostgreSQL
table or query. Their errors say what could not be read and never what is in it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

from fedshare.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

__all__ = ["BATCH_ROWS", "Source", "unreadable"]

BATCH_ROWS = 65_536
"""Rows read at a time: what bounds the memory above the table itself."""


class Source(Protocol):
    """Rows in a file or a database."""

    @property
    def name(self) -> str:
        """Return the file or table, for messages: never a password."""

    def column_names(self) -> list[str]:
        """Return the names of all columns that are there.

        Raises:
            DataError: the source cannot be read.
            UnavailableError: the database cannot be reached.
        """

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, with these columns in this order.

        Raises:
            DataError: the source cannot be read; ``row`` is the first row where it cannot.
            UnavailableError: the connection to the database was lost.
        """


def unreadable(path: Path, error: OSError, *, party: str) -> DataError:
    """Return the error that says why the file at ``path`` cannot be opened and what to do."""
    advice = {
        errno.ENOENT: "there is no such file; correct data.path",
        errno.EACCES: "permission denied; let the node's user read it",
        errno.EISDIR: "it is a folder; name the file in data.path",
    }.get(error.errno or 0, error.strerror or "it cannot be read")
    return DataError(f"expected a readable file: {advice}", party=party, source=str(path))
