"""The bank's own part of a score: from its table, or from columns that come with the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedshare.errors import DataError
from fedshare.scoring.saved import SavedModel

from .data.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from fedshare.contract.network import NetworkModel

__all__ = ["OwnPart", "OwnRow"]


@dataclass(frozen=True, slots=True)
class OwnRow:
    """What the bank itself says of one enterprise.

    Attributes:
        shared: its part of the shared model, log-odds of default, the intercept included.
        alone: the score of the model that it trained alone.
        contributions: what each of ``OwnPart.column_names`` adds above the mean training customer's in the shared
            scorecard; a network's are not told apart.
    """

    shared: float
    alone: float
    contributions: NDArray[np.float64]


class OwnPart:
    """The bank's sub-models of a training run, and its customers as they are now.

    Args:
        saved: what the bank kept of the run.
        load: reads its rows; ``refresh`` calls it again.
        network: what the contract says of the banks' network, if they have one.

    Raises:
        ConfigError: what was kept of the training run is no model.
        DataError: the rows cannot be scored.
    """

    def __init__(
        self, saved: Mapping[str, Any], load: Callable[[], Table], network: NetworkModel | None = None
    ) -> None:
        self._shared = SavedModel.from_result(saved)
        self._alone = SavedModel.from_result(saved, "own_model")
        self._network = None
        if network is not None:
            # Imported here: a bank without a network needs no torch to score.
            from fedshare.training.network.saved import SavedNetwork  # noqa: PLC0415

            self._network = SavedNetwork(saved["network"], network)
        #: The columns of the shared scorecard; with a network the bank's own are all in that.
        self.column_names = [column.name for column in self._shared.columns]
        needed = [*self.column_names, *(column.name for column in self._alone.columns)]
        self._needed = list(dict.fromkeys([*needed, *(self._network.column_names if self._network else ())]))
        self._load = load
        self.refresh()
        #: What the bank says of whom it knows nothing about.
        self.nothing = self.given({})

    @property
    def has_columns(self) -> bool:
        """Whether the bank contributes columns at all."""
        return bool(self._needed)

    def refresh(self) -> None:
        """Read the rows again. Raises as the constructor; the earlier rows then stay."""
        table = self._load()
        place = {identifier: row for row, identifier in enumerate(table.identifiers)}
        self._rows = (place, *self._score(table))

    def row(self, identifier: bytes) -> OwnRow | None:
        """Return what the bank says of a customer, or ``None`` if it is none."""
        place, codes, shared, alone = self._rows
        row = place.get(identifier)
        return None if row is None else self._one(codes[row : row + 1], shared[row], alone[row])

    def given(self, cells: Mapping[str, float | str | None]) -> OwnRow:
        """Return what the bank says of an applicant whose own columns are ``cells``; what is not there is missing.

        Raises:
            DataError: there is a column that the bank's models do not have, or a number is text or infinite.
        """
        unknown = sorted(cells.keys() - set(self._needed))
        if unknown:
            known = ", ".join(self._needed) or "none"
            raise DataError(f"expected columns of the bank's model, which are: {known}", source="the request")
        columns = {name: np.array([cells.get(name)], dtype=object) for name in self._needed}
        codes, shared, alone = self._score(Table("the request", [b"applicant"], columns))
        return self._one(codes, shared[0], alone[0])

    def _score(self, table: Table) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
        """Return bins of the shared scorecard, and both scores, of every row."""
        codes = self._shared.assign(table)
        shared = self._shared.scores(codes)
        if self._network is not None:
            shared = shared + self._network.scores(table)
        return codes, shared, self._alone.scores(self._alone.assign(table))

    def _one(self, codes: NDArray[np.int32], shared: float, alone: float) -> OwnRow:
        return OwnRow(float(shared), float(alone), self._shared.contributions(codes)[0])
