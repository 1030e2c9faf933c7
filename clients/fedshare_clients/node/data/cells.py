"""One batch of one column: Arrow cells as numbers, categories or identifiers, or the row that is wrong.

A problem names the kind of what was found and never the cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["CellError", "categories", "identifiers", "numbers"]


class CellError(Exception):
    """A cell is not what was declared.

    Attributes:
        row: 0-based row within the batch, or None if it concerns the whole column.
        message: expected and found.
    """

    def __init__(self, row: int | None, message: str) -> None:
        super().__init__(message)
        self.row = row
        self.message = message


def numbers(array: pa.Array, missing: Sequence[str]) -> NDArray[np.float64]:
    """Return numeric cells as float64, NaN for missing ones.

    Args:
        array: numbers, booleans, decimals, or text that spells numbers.
        missing: text that means a missing cell.

    Raises:
        CellError: a cell is not a number, or is infinite.
    """
    array = _decoded(array)
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        array = _parsed(_text(array, missing))
    elif pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    elif not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    ):
        raise CellError(
            None, f"expected numbers, found {_kind_name(kind)}; derive a number from it at the source"
        )
    result: NDArray[np.float64] = pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    infinite = np.flatnonzero(np.isinf(result))
    if infinite.size:
        raise CellError(
            int(infinite[0]),
            "expected a finite number, found an infinite one; leave the cell empty if it is unknown",
        )
    return result.astype(np.float64, copy=False)


def categories(array: pa.Array, missing: Sequence[str]) -> NDArray[Any]:
    """Return categorical cells as objects, ``str`` or None for missing ones; equal cells share one object.

    Raises:
        CellError: the cells are of a kind that has no categories.
    """
    array = _decoded(array)
    kind = array.type
    if pa.types.is_floating(kind):
        array = pc.if_else(pc.is_nan(array), None, array)
    elif pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_temporal(kind):
        raise CellError(
            None, f"expected categories, found {_kind_name(kind)}; derive a category from it at the source"
        )
    coded = _text(array.cast(pa.string()), missing).dictionary_encode()
    # The extra last entry is what index -1 finds.
    values = np.array([*coded.dictionary.to_pylist(), None], dtype=object)
    result: NDArray[Any] = values[coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    return result


def identifiers(array: pa.Array) -> list[str | None]:
    """Return identifiers as text, None for missing ones.

    Raises:
        CellError: they are of a kind that may have lost digits.
    """
    array = _decoded(array)
    kind = array.type
    if (
        pa.types.is_floating(kind)
        or pa.types.is_nested(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_temporal(kind)
    ):
        raise CellError(
            None,
            f"expected identifiers as text or whole numbers, found {_kind_name(kind)}; store them as text",
        )
    cells: list[str | None] = array.cast(pa.string()).to_pylist()
    return cells


def _decoded(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _text(array: pa.Array, missing: Sequence[str]) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(array)
    is_missing = pc.is_in(trimmed, value_set=pa.array(missing, trimmed.type))
    return pc.if_else(is_missing, pa.scalar(None, trimmed.type), trimmed)


def _parsed(texts: pa.Array) -> pa.Array:
    try:
        return texts.cast(pa.float64())
    except pa.ArrowInvalid as error:
        row = next(
            index for index, text in enumerate(texts.to_pylist()) if text is not None and not _is_number(text)
        )
        raise CellError(
            row,
            "expected a number, found text; correct the cell, leave it empty if it is missing, or declare "
            "the column categorical",
        ) from error


def _is_number(text: str) -> bool:
    try:
        pa.array([text]).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _kind_name(kind: pa.DataType) -> str:
    if pa.types.is_temporal(kind):
        return "dates or times"
    if pa.types.is_floating(kind):
        return "floating-point numbers"
    if pa.types.is_nested(kind):
        return "lists or records"
    return "binary data" if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else f"type {kind}"
