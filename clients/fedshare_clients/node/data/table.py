"""Rows of one institution, in memory, one per enterprise."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from fedshare.errors import DataError, ParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from numpy.typing import NDArray

__all__ = ["Table"]


class Table:
    """Checked rows. Treat the arrays as read-only.

    Attributes:
        source: the file or table they came from, for messages.
        identifiers: one per row, unique, in their one spelling (UTF-8).
        columns: by their name in contracts: float64 with NaN for missing, or ``str`` and None objects;
            shape ``[n]``.
        label: the outcome, 0.0 or 1.0, float64 of shape ``[n]``; NaN where there is none (feature holders).
        weight: positive, float64 of shape ``[n]``; ones where there is none.
    """

    __slots__ = ("columns", "identifiers", "label", "source", "weight")

    def __init__(
        self,
        source: str,
        identifiers: Sequence[bytes],
        columns: Mapping[str, NDArray[Any]],
        label: NDArray[np.float64] | None = None,
        weight: NDArray[np.float64] | None = None,
    ) -> None:
        count = len(identifiers)
        self.source = source
        self.identifiers = list(identifiers)
        self.columns: dict[str, NDArray[Any]] = dict(columns)
        # A constant takes no memory as a broadcast.
        self.label: NDArray[np.float64] = np.broadcast_to(np.nan, count) if label is None else label
        self.weight: NDArray[np.float64] = np.broadcast_to(1.0, count) if weight is None else weight
        for name, values in {**self.columns, "label": self.label, "weight": self.weight}.items():
            if values.shape != (count,):
                raise ParameterError(
                    f"{name}: expected {count} cells, one per identifier, got shape {values.shape}"
                )

    def __len__(self) -> int:
        return len(self.identifiers)

    def digest(self) -> str:
        """Return a SHA-256 over every cell in order, hexadecimal: whether two runs had the same rows.

        It is for this institution's own files: whoever can guess a small table can confirm the guess by it.
        """
        digest = hashlib.sha256()

        def add(name: str, content: bytes) -> None:
            digest.update(json.dumps([name, len(content)]).encode())
            digest.update(content)

        digest.update(len(self).to_bytes(8, "big"))
        for each in self.identifiers:
            digest.update(len(each).to_bytes(4, "big") + each)
        for name, values in {**self.columns, "label": self.label, "weight": self.weight}.items():
            if values.dtype == object:
                add(name, json.dumps(values.tolist()).encode())
            else:
                add(name, np.ascontiguousarray(values, dtype="<f8").tobytes())
        return digest.hexdigest()

    def column(self, name: str) -> NDArray[Any]:
        """Return the cells of one column.

        Raises:
            DataError: there is no such column.
        """
        try:
            return self.columns[name]
        except KeyError:
            known = ", ".join(sorted(self.columns)) or "none"
            raise DataError(
                f"there is no such column; there are: {known}", source=self.source, field=name
            ) from None

    def take(self, rows: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> Table:
        """Return a table of some rows, by index or by mask."""
        indices = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return Table(
            self.source,
            [self.identifiers[index] for index in indices.tolist()],
            {name: values[indices] for name, values in self.columns.items()},
            self.label[indices],
            self.weight[indices],
        )

    def rows(self, identifiers: Sequence[bytes]) -> Table:
        """Return the rows of these enterprises, in this order.

        Raises:
            DataError: one of them has no row here; the message gives counts only.
        """
        position = {identifier: row for row, identifier in enumerate(self.identifiers)}
        found = [position.get(identifier, -1) for identifier in identifiers]
        missing = found.count(-1)
        if missing:
            raise DataError(
                f"{missing} of {len(found)} enterprises asked for have no row", source=self.source
            )
        return self.take(np.array(found, dtype=np.int64))

    def without(self, identifiers: AbstractSet[bytes]) -> Table:
        """Return this table without the rows of these enterprises."""
        if identifiers.isdisjoint(self.identifiers):
            return self
        return self.take(np.array([each not in identifiers for each in self.identifiers], dtype=np.bool_))

    def extended(self, identifiers: Sequence[bytes]) -> Table:
        """Return this table with a row without values for every enterprise that it does not have yet."""
        known = set(self.identifiers)
        new = [identifier for identifier in dict.fromkeys(identifiers) if identifier not in known]
        count = len(new)
        if not count:
            return self
        columns: dict[str, NDArray[Any]] = {}
        for name, values in self.columns.items():
            empty: Any = (
                np.full(count, None, dtype=object) if values.dtype == object else np.full(count, np.nan)
            )
            columns[name] = np.concatenate([values, empty])
        return Table(
            self.source,
            self.identifiers + new,
            columns,
            np.concatenate([self.label, np.full(count, np.nan)]),
            np.concatenate([self.weight, np.ones(count)]),
        )
