"""Questions and answers as they stand on the wire of the bank's score service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedshare.errors import ConfigError, ProtocolError, UnavailableError
from fedshare.scoring.answer import Answer
from fedshare.wire.v1 import scoring_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["answer_from_wire", "answer_to_wire", "cells_of", "not_served", "question_to_wire"]


def not_served(details: str) -> ConfigError | UnavailableError:
    """Return the error of a service that does not serve the contract: there may be a serving run later."""
    return UnavailableError(details) if details.startswith("no_serving_run") else ConfigError(details)


def question_to_wire(enterprise: str, cells: Mapping[str, float | str | None]) -> wire.Question:
    """Return the question about one enterprise; ``cells`` are own columns, ``None`` for a missing one."""
    columns = {}
    for name, cell in cells.items():
        if cell is None:
            columns[name] = wire.Cell()
        elif isinstance(cell, str):
            columns[name] = wire.Cell(text=cell)
        else:
            columns[name] = wire.Cell(number=cell)
    return wire.Question(enterprise=enterprise, columns=columns)


def cells_of(question: wire.Question) -> dict[str, float | str | None]:
    """Return the own columns in a question, as ``question_to_wire`` was given them."""
    cells: dict[str, float | str | None] = {}
    for name, cell in question.columns.items():
        kind = cell.WhichOneof("value")
        cells[name] = None if kind is None else cell.number if kind == "number" else cell.text
    return cells


def answer_to_wire(answer: Answer) -> wire.ScoreAnswer:
    """Return ``answer`` on the wire; ``answer_from_wire`` is the inverse."""
    return wire.ScoreAnswer(
        enterprise=answer.enterprise,
        status=answer.status,
        reason=answer.reason,
        probability=answer.probability,
        points=answer.points,
        band=answer.band,
        reasons=answer.reasons,
        coverage=answer.coverage,
        own_columns=answer.own_columns,
        model=answer.model,
        age_seconds=answer.age_seconds,
        scored_at=answer.scored_at,
        receipt=answer.receipt,
    )


def answer_from_wire(message: wire.ScoreAnswer) -> Answer:
    """Return the answer in a message.

    Raises:
        ProtocolError: its status, or where own columns came from, is a word that this version does not have.
    """
    if message.status not in {"scored", "fallback", "withheld"} or message.own_columns not in {
        "table",
        "given",
        "missing",
        "none",
    }:
        raise ProtocolError(
            "expected an answer of this version's score service: update this program or the node"
        )
    words: dict[str, Any] = {"status": message.status, "own_columns": message.own_columns}
    return Answer(
        enterprise=message.enterprise,
        reason=message.reason,
        probability=message.probability if message.HasField("probability") else None,
        points=message.points if message.HasField("points") else None,
        band=message.band,
        reasons=tuple(message.reasons),
        coverage=dict(message.coverage),
        model=message.model,
        age_seconds=message.age_seconds if message.HasField("age_seconds") else None,
        scored_at=message.scored_at,
        receipt=message.receipt,
        **words,
    )
