"""CSV files: every cell is read as text, so that an identifier keeps its leading zeros and its digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import csv

from fedshare.errors import DataError

from .sources import unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["CsvSource"]


@dataclass(frozen=True, slots=True)
class CsvSource:
    """A CSV file with a header (RFC 4180; another delimiter or encoding may be set)."""

    path: Path
    party: str
    encoding: str = "utf-8"
    delimiter: str = ","

    @property
    def name(self) -> str:
        """Return the path."""
        return str(self.path)

    def column_names(self) -> list[str]:
        """Return the header. Raises as ``Source.column_names``."""
        reader, _ = self._open(None)
        with reader:
            return list(reader.schema.names)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows as text. Raises as ``Source.batches``."""
        reader, malformed = self._open(list(columns))
        row = 0
        with reader:
            while True:
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    break
                except (pa.ArrowInvalid, UnicodeError) as error:
                    raise self._undecodable(row) from error
                yield self._as_text(batch, row)
                row += batch.num_rows
        if malformed:
            # A row with too many or too few cells shifts what its cells mean: nothing of it can be used.
            first = malformed[0]
            raise DataError(
                f"expected {first.expected_columns} cells as in the header, found {first.actual_columns}"
                f"{_others(len(malformed))}; quote cells that hold the delimiter",
                party=self.party,
                source=self.name,
                row=first.number - 1,
            )

    def _open(self, columns: list[str] | None) -> tuple[csv.CSVStreamingReader, list[Any]]:
        malformed: list[Any] = []

        def note(row: Any) -> str:  # noqa: ANN401 - pyarrow's InvalidRow
            malformed.append(row)
            return "skip"

        types = {name: pa.binary() for name in columns or ()}
        try:
            reader = csv.open_csv(
                self.path,
                # One thread: only then does the parser know the numbers of malformed rows.
                read_options=csv.ReadOptions(use_threads=False, block_size=8 << 20, encoding=self.encoding),
                parse_options=csv.ParseOptions(
                    delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=note
                ),
                convert_options=csv.ConvertOptions(
                    include_columns=columns, column_types=types, strings_can_be_null=False, check_utf8=False
                ),
            )
        except OSError as error:
            raise unreadable(self.path, error, party=self.party) from error
        except LookupError as error:
            raise DataError(
                f"data.encoding: there is no text encoding called {self.encoding!r}",
                party=self.party,
                source=self.name,
            ) from error
        except UnicodeError as error:
            raise self._undecodable(0) from error
        except pa.ArrowInvalid as error:
            raise DataError(
                "expected a header and rows, found an empty file or a row longer than 8 MiB (an open quote?)",
                party=self.party,
                source=self.name,
            ) from error
        return reader, malformed

    def _as_text(self, batch: pa.RecordBatch, rows_before: int) -> pa.RecordBatch:
        arrays = []
        for name, array in zip(batch.schema.names, batch.columns, strict=True):
            try:
                arrays.append(array.cast(pa.string()))
            except pa.ArrowInvalid as error:
                row = next(index for index, cell in enumerate(array.to_pylist()) if not _is_utf8(cell))
                raise self._undecodable(rows_before + row, name) from error
        return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)

    def _undecodable(self, rows_before: int, field: str = "") -> DataError:
        place = "" if field else " or a later one"
        return DataError(
            f"expected text in {self.encoding}, found other bytes in this row{place}; save it as UTF-8 or "
            "set data.encoding (gb18030 for most Chinese exports)",
            party=self.party,
            source=self.name,
            row=rows_before + 1,
            field=field,
        )


def _is_utf8(cell: bytes) -> bool:
    try:
        cell.decode()
    except UnicodeDecodeError:
        return False
    return True


def _others(count: int) -> str:
    return f" (and {count - 1} more such row(s))" if count > 1 else ""
