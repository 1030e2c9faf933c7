"""A party's binned columns as one design: each row falls into one bin of every column.

The design is the one-hot matrix of the scorecard, kept as codes: ``codes[i, f]`` is the global index of the
bin of row ``i`` in column ``f``, so row ``i`` of the matrix has ones exactly there.

    >>> design = fit_design(table, columns, minimum=50, party="tax")
    >>> merged, groups = design.merged(customers_per_bin, 50)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedshare.errors import DataError, ParameterError

from .column import ColumnBins, Kind, Monotone, cut_column, verify_usable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ColumnBins", "ColumnSpec", "ColumnTable", "Design", "fit_design", "fit_usable_design"]


class ColumnSpec(Protocol):
    """What a contract says of a column."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> Kind: ...  # noqa: D102
    @property
    def bins(self) -> int: ...  # noqa: D102
    @property
    def monotone(self) -> Monotone: ...  # noqa: D102


class ColumnTable(Protocol):
    """Where the cells come from: a table that names its source."""

    @property
    def source(self) -> str: ...  # noqa: D102
    def __len__(self) -> int: ...
    def column(self, name: str) -> NDArray[Any]: ...  # noqa: D102


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """The binned columns of one party, for its rows.

    Attributes:
        columns: the bins of each column.
        codes: global bin of each row and column, int32 of shape ``[n, F]``, C-contiguous.
        dropped: names of the columns left out because one bin alone remained of them.
    """

    columns: tuple[ColumnBins, ...]
    codes: NDArray[np.int32]
    dropped: tuple[str, ...] = ()
    offsets: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Number the bins of all columns one after another."""
        sizes = [column.size for column in self.columns]
        object.__setattr__(self, "offsets", np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
        if self.codes.dtype != np.int32 or self.codes.ndim != 2 or self.codes.shape[1] != len(self.columns):
            raise ParameterError(
                f"expected int32 codes of {len(self.columns)} columns, found {self.codes.dtype} of shape "
                f"{self.codes.shape}"
            )

    @property
    def width(self) -> int:
        """The number of bins of all columns, m."""
        return int(self.offsets[-1])

    @property
    def is_monotone(self) -> bool:
        """Whether any column asks for weights in one direction."""
        return any(column.monotone != "none" for column in self.columns)

    @classmethod
    def assigned(cls, columns: Sequence[ColumnBins], table: ColumnTable, *, party: str) -> Design:
        """Return the design of a table's rows under bins that are already fixed.

        Raises:
            DataError: a numeric column holds text or infinite values.
        """
        codes = np.empty((len(table), len(columns)), dtype=np.int32)
        offset = 0
        for index, column in enumerate(columns):
            cells = table.column(column.name)
            codes[:, index] = column.assign(cells, party=party, source=table.source) + offset
            offset += column.size
        return cls(tuple(columns), codes)

    @classmethod
    def joined(cls, designs: Sequence[Design]) -> Design:
        """Return the columns of all designs side by side; their rows must be the same enterprises."""
        starts = np.cumsum([0, *(design.width for design in designs)])
        codes = [design.codes + np.int32(start) for design, start in zip(designs, starts, strict=False)]
        return cls(
            tuple(column for design in designs for column in design.columns),
            np.ascontiguousarray(np.hstack(codes), dtype=np.int32),
            tuple(name for design in designs for name in design.dropped),
        )

    def take(self, rows: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> Design:
        """Return the design of some rows, by index or by mask."""
        return Design(self.columns, np.ascontiguousarray(self.codes[rows]), self.dropped)

    def merged(self, counts: NDArray[np.float64], minimum: float) -> tuple[Design, NDArray[np.int64]]:
        """Return the design whose bins have at least ``minimum`` customers each, and where every bin went.

        A column of which one bin alone remains carries no signal: it is left out and named in ``dropped``.

        Args:
            counts: customers per bin, shape ``[width]``; may be noisy.
            minimum: the smallest count a bin may have.

        Returns:
            the merged design, and the new global bin of every old one, -1 for the bins of a column left out.

        Raises:
            DataError: no column remains.
        """
        kept: list[int] = []
        columns: list[ColumnBins] = []
        groups = np.full(self.width, -1, dtype=np.int64)
        start = 0
        for index, column in enumerate(self.columns):
            bins = slice(self.offsets[index], self.offsets[index + 1])
            merged, local = column.merge(counts[bins], minimum)
            if merged.size < 2:
                continue
            groups[bins] = local + start
            start += merged.size
            kept.append(index)
            columns.append(merged)
        if not kept:
            raise DataError(
                f"of none of the {len(self.columns)} columns do two bins reach the minimum cohort of "
                f"{minimum:g} customers"
            )
        names = {column.name for column in columns}
        gone = tuple(column.name for column in self.columns if column.name not in names)
        codes = np.ascontiguousarray(groups.astype(np.int32)[self.codes[:, kept]])
        return Design(tuple(columns), codes, self.dropped + gone), groups

    def to_dict(self) -> dict[str, Any]:
        """Return the bins of all columns as JSON values, without any row."""
        return {"columns": [column.to_dict() for column in self.columns], "dropped": list(self.dropped)}


def fit_design(table: ColumnTable, columns: Sequence[ColumnSpec], minimum: int, *, party: str) -> Design:
    """Return the columns of a table, each cut into bins by what its holder sees of it.

    Args:
        table: the rows.
        columns: what the contract says of each column, in its order.
        minimum: rows each bin must have.
        party: who holds the table, for the error.

    Raises:
        DataError: as in ``cut_column`` and ``verify_usable``, for the first column it concerns.
    """
    fitted = []
    for spec in columns:
        bins, distinct = _cut(table, spec, minimum, party)
        verify_usable(bins, distinct, minimum, party=party, source=table.source)
        fitted.append(bins)
    return Design.assigned(fitted, table, party=party)


def fit_usable_design(
    table: ColumnTable, columns: Sequence[ColumnSpec], minimum: int, *, party: str
) -> Design:
    """Return what ``fit_design`` does, but without the columns that say nothing here, which ``dropped`` names.

    Raises:
        DataError: as in ``cut_column``, for the first column it concerns.
    """
    cut = [_cut(table, spec, minimum, party)[0] for spec in columns]
    design = Design.assigned([bins for bins in cut if bins.size > 1], table, party=party)
    return replace(design, dropped=tuple(bins.name for bins in cut if bins.size < 2))


def _cut(table: ColumnTable, spec: ColumnSpec, minimum: int, party: str) -> tuple[ColumnBins, int]:
    return cut_column(
        spec.name,
        table.column(spec.name),
        kind=spec.kind,
        bins=spec.bins,
        minimum=minimum,
        monotone=spec.monotone,
        party=party,
        source=table.source,
    )
