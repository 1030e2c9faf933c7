"""Cells of a source as numbers or as categories, or an error that names the row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fedshare.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MISSING", "categorical_values", "is_missing", "numeric_values"]

MISSING = ""
"""What a missing category is after parsing; its bin is a bin like any other."""


def numeric_values(
    values: NDArray[Any], *, party: str = "", source: str = "", field: str = ""
) -> NDArray[np.float64]:
    """Return a numeric column as float64, NaN where a cell is missing (None, NaN or blank text).

    Args:
        values: numbers, or text that spells numbers, shape ``[n]``.
        party: who holds the column, for the error.
        source: the file or table, for the error.
        field: the column, for the error.

    Raises:
        DataError: a cell is not a number, or is infinite; ``row`` is its 1-based number.
    """
    column = np.asarray(values)
    if column.dtype.kind in "fiub":
        numbers = column.astype(np.float64)
    else:
        numbers = np.empty(len(column), dtype=np.float64)
        for row, cell in enumerate(column):
            try:
                numbers[row] = np.nan if cell is None or cell == "" else float(cell)
            except (TypeError, ValueError):
                if isinstance(cell, str) and not cell.strip():
                    numbers[row] = np.nan
                    continue
                raise DataError(
                    "expected a number, found text; correct the cell, leave it empty if it is missing, or "
                    "declare the column categorical in the contract",
                    party=party,
                    source=source,
                    row=row + 1,
                    field=field,
                ) from None
    infinite = np.flatnonzero(np.isinf(numbers))
    if infinite.size:
        raise DataError(
            f"expected finite numbers, found {infinite.size} infinite; leave a cell empty if it is unknown",
            party=party,
            source=source,
            row=int(infinite[0]) + 1,
            field=field,
        )
    return numbers


def categorical_values(values: NDArray[Any]) -> NDArray[np.str_]:
    """Return a categorical column as stripped text, ``MISSING`` where a cell is None, NaN or blank."""
    column = np.asarray(values)
    if column.dtype.kind == "U":
        return np.char.strip(column)
    cells = [_text(cell) for cell in column.tolist()]
    return np.array(cells, dtype=np.str_)


def is_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which cells of a numeric (float) or categorical (object) column are missing, shape ``[n]``."""
    if values.dtype == object:
        return np.array([_text(cell) == MISSING for cell in values.tolist()], dtype=np.bool_)
    return np.asarray(np.isnan(values))


def _text(cell: Any) -> str:  # noqa: ANN401 - a cell of any source
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return MISSING
    return str(cell).strip()
