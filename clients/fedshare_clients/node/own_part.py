"""The bank's own part of a score: from its table, or from columns that come with the question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedshare.errors import DataError
from fedshare.scoring.saved import SavedModel

from .data.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

__all__ = ["OwnPart"]


class OwnPart:
    """The bank's sub-model of a training run and its customers as they are now.

    ``load`` reads the bank's rows; ``refresh`` reads them again.

    Attributes:
        shared: its part of the shared model.
        alone: the model of its own columns alone.
    """

    def __init__(self, saved: Mapping[str, Any], load: Callable[[], Table]) -> None:
        """Read the rows.

        Raises:
            ConfigError: what was kept of the training run is no model.
            DataError: the rows cannot be scored.
        """
        self.shared = SavedModel.from_result(saved)
        self.alone = SavedModel.from_result(saved, "own_model")
        self.column_names = [column.name for column in self.shared.columns]
        self._load = load
        self.refresh()

    def refresh(self) -> None:
        """Read the rows again. Raises as the constructor; the earlier rows then stay."""
        table = self._load()
        codes = self.shared.assign(table)
        self._rows = ({identifier: row for row, identifier in enumerate(table.identifiers)}, codes)

    def row(self, identifier: bytes) -> NDArray[np.int32] | None:
        """Return the bins of a customer, shape ``[1, F]``, or ``None`` if it is none."""
        place, codes = self._rows
        row = place.get(identifier)
        return None if row is None else codes[row : row + 1]

    def given(self, cells: Mapping[str, float | str | None]) -> NDArray[np.int32]:
        """Return the bins of an applicant, shape ``[1, F]``, whose own columns came with the question.

        A column that is not among them counts as missing.

        Raises:
            DataError: there is a column that the model does not have, or a number is text or infinite.
        """
        unknown = sorted(cells.keys() - set(self.column_names))
        if unknown:
            known = ", ".join(self.column_names) or "none"
            raise DataError(f"expected columns of the bank's model, which are: {known}", source="the request")
        columns = {name: np.array([cells.get(name)], dtype=object) for name in self.column_names}
        return self.shared.assign(Table("the request", [b"applicant"], columns))
