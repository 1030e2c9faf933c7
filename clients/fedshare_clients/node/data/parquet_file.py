"""Parquet files, read one row group after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from fedshare.errors import DataError

from .sources import BATCH_ROWS, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["ParquetSource"]


@dataclass(frozen=True, slots=True)
class ParquetSource:
    """One Parquet file."""

    path: Path
    party: str

    @property
    def name(self) -> str:
        """Return the path."""
        return str(self.path)

    def column_names(self) -> list[str]:
        """Return the names in the file's schema. Raises as ``Source.column_names``."""
        with self._open() as file:
            return list(file.schema_arrow.names)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows with the file's types. Raises as ``Source.batches``."""
        row = 0
        with self._open() as file:
            try:
                for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
                    row += batch.num_rows
                    yield batch.select(list(columns))
            except (OSError, pa.ArrowException) as error:
                raise self._damaged(row + 1) from error

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path)
        except pa.ArrowInvalid as error:
            raise self._damaged() from error
        except OSError as error:
            if error.errno is None:
                raise self._damaged() from error
            raise unreadable(self.path, error, party=self.party) from error

    def _damaged(self, row: int | None = None) -> DataError:
        return DataError(
            "expected a Parquet file, found something else or a damaged one; write it again",
            party=self.party,
            source=self.name,
            row=row,
        )
