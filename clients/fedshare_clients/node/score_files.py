"""Applicants in a file, scored by the running node, into another file; and the receipts in such a file, checked."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from fedshare.credit.identifiers import normalise_identifiers
from fedshare.errors import ConfigError, DataError, ProtocolError, StorageError, UnavailableError
from fedshare.scoring.answer import Answer, verify_receipt
from fedshare.wire.v1 import scoring_pb2 as wire
from fedshare.wire.v1.scoring_pb2_grpc import ScoreServiceStub

from .data.cells import CellError, categories, identifiers, numbers
from .data.csv_file import CsvSource
from .data.parquet_file import ParquetSource
from .score_wire import answer_from_wire, not_served, question_to_wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .config import NodeConfig

__all__ = ["check_receipts", "read_applicants", "score_applicants", "write_answers"]

_BATCH: Final = 500
_SCHEMA: Final = pa.schema(
    [
        ("enterprise", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("probability", pa.float64()),
        ("points", pa.int64()),
        ("band", pa.string()),
        ("reasons", pa.string()),
        ("coverage", pa.string()),
        ("own_columns", pa.string()),
        ("model", pa.string()),
        ("age_seconds", pa.float64()),
        ("scored_at", pa.string()),
        ("receipt", pa.string()),
    ]
)


def read_applicants(path: Path, config: NodeConfig, identifier: str) -> list[wire.Question]:
    """Return one question per row of a ``.csv`` or ``.parquet`` file.

    Columns of the bank's model are taken from the file if it has any of them, under their name at the source or in
    contracts; those it lacks then count as missing. If it has none, the node takes all from the bank's table.

    Raises:
        DataError: the file cannot be read, or an identifier or a cell is wrong; names row and field.
    """
    source = _source(path, config)
    available = source.column_names()
    if identifier not in available:
        raise DataError(
            f"expected the column {identifier}, which names the enterprise; name another with --identifier",
            source=source.name,
            field=identifier,
        )
    found = {
        name: place
        for name, at_source in config.data.source_columns().items()
        for place in (at_source, name)
        if place in available and place != identifier
    }
    names: list[str | None] = []
    cells: dict[str, list[Any]] = {name: [] for name in found}
    for batch in source.batches([identifier, *dict.fromkeys(found.values())]):
        row = len(names)
        names.extend(_cells(source.name, identifier, row, batch.column(identifier), "identifier", config))
        for name, place in found.items():
            kind = config.data.columns[name].kind
            cells[name].extend(_cells(source.name, place, row, batch.column(place), kind, config))
    known = normalise_identifiers(
        names,
        config.data.identifier_kind,
        check_digits=config.data.check_digits,
        party=config.party,
        source=source.name,
        field=identifier,
    )
    return [
        question_to_wire(name.decode(), {column: values[row] for column, values in cells.items()})
        for row, name in enumerate(known)
    ]


def _source(path: Path, config: NodeConfig) -> CsvSource | ParquetSource:
    if path.suffix not in {".csv", ".parquet"}:
        raise ConfigError(f"{path}: expected a file that ends with .csv or .parquet")
    if not path.is_file():
        raise DataError("expected a file of applicants, found none; correct --in", source=str(path))
    if path.suffix == ".csv":
        return CsvSource(path, config.party, config.data.encoding, config.data.delimiter)
    return ParquetSource(path, config.party)


def _cells(source: str, field: str, row: int, array: pa.Array, kind: str, config: NodeConfig) -> list[Any]:
    try:
        if kind == "identifier":
            return list(identifiers(array))
        if kind == "categorical":
            return list(categories(array, config.data.missing))
        values = numbers(array, config.data.missing)
        return [None if np.isnan(value) else float(value) for value in values]
    except CellError as error:
        at = None if error.row is None else row + error.row + 1
        raise DataError(error.message, party=config.party, source=source, row=at, field=field) from error


def score_applicants(
    channel: grpc.Channel, contract: str, questions: Sequence[wire.Question]
) -> list[Answer]:
    """Return the running node's answers, in the order of the questions.

    Raises:
        ConfigError: the node serves several contracts that match.
        DataError: the node does not understand a question.
        UnavailableError: the node does not answer, or serves no contract that matches.
    """

    def batches() -> Iterator[wire.ScoreBatchRequest]:
        for start in range(0, len(questions), _BATCH):
            yield wire.ScoreBatchRequest(contract=contract, questions=questions[start : start + _BATCH])

    try:
        return [
            answer_from_wire(answer)
            for response in ScoreServiceStub(channel).ScoreBatch(batches())
            for answer in response.answers
        ]
    except grpc.RpcError as error:
        details = error.details() or ""
        if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
            raise not_served(details) from error
        if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
            raise DataError(details) from error
        raise UnavailableError(
            f"the score service does not answer ({error.code().name}): start `fedshare-node run` with `scoring` in "
            "node.yaml"
        ) from error


def write_answers(path: Path, answers: Sequence[Answer]) -> None:
    """Write answers to a ``.csv`` or ``.parquet`` file, in full or not at all.

    Raises:
        ConfigError: the file ends with something else.
        StorageError: the disk refused; an earlier file is as it was.
    """
    if path.suffix not in {".csv", ".parquet"}:
        raise ConfigError(f"{path}: expected a file that ends with .csv or .parquet")
    rows = [{name: _cell(getattr(answer, name)) for name in _SCHEMA.names} for answer in answers]
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with beside.open("wb") as file:
            if path.suffix == ".csv":
                pa_csv.write_csv(table, file)
            else:
                pq.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from error


def _cell(value: Any) -> Any:  # noqa: ANN401 - a field of an answer
    return json.dumps(value, ensure_ascii=False, sort_keys=True) if isinstance(value, tuple | dict) else value


def check_receipts(path: Path, public_key: bytes) -> int:
    """Return how many answers a ``.parquet`` file holds, if every one is what the key's owner said.

    Raises:
        DataError: the file is no file of answers.
        ProtocolError: a receipt does not fit its row; the message names the row.
    """
    try:
        rows = pq.read_table(path).select(_SCHEMA.names).cast(_SCHEMA).to_pylist()
        answers = [
            Answer(
                **{
                    **row,
                    "reasons": tuple(json.loads(row["reasons"])),
                    "coverage": json.loads(row["coverage"]),
                }
            )
            for row in rows
        ]
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise DataError(
            "expected a Parquet file of `fedshare-node score`, found something else", source=str(path)
        ) from error
    for number, answer in enumerate(answers, 1):
        try:
            verify_receipt(answer, public_key)
        except ProtocolError as error:
            raise ProtocolError(f"{path}, row {number}: the receipt does not fit the answer") from error
    return len(answers)
