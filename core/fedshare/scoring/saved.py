"""One party's part of a trained model, as it kept it of the training run, applied to rows that it has now.

Bins and weights are those of training, whatever the rows are now: a number falls between the edges of then, a category
that had no bin then falls into the bin for others, a missing cell into the bin for missing ones.

    >>> model = SavedModel.from_result(result)
    >>> partial_scores = model.scores(model.assign(table))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedshare.credit.bins import ColumnBins, Design
from fedshare.errors import ConfigError, DataError
from fedshare.training.onehot import OneHotMatrix

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from fedshare.credit.bins import ColumnTable

__all__ = ["SavedModel"]


@dataclass(frozen=True, slots=True, eq=False)
class SavedModel:
    """Bins of a party's columns and what each adds to the log-odds of default.

    Attributes:
        columns: the bins of each column that training kept.
        weights: one per bin, log-odds, shape ``[m]``.
        neutral: mean weight of each column over the training customers, shape ``[F]``.
        intercept: what every customer starts from; 0 at a feature holder.
    """

    columns: tuple[ColumnBins, ...]
    weights: NDArray[np.float64]
    neutral: NDArray[np.float64]
    intercept: float = 0.0

    @classmethod
    def from_result(cls, result: Mapping[str, Any], part: str = "") -> SavedModel:
        """Return the model in a training run's ``result.json``.

        Args:
            result: what this party kept of the run.
            part: ``own_model`` for the model that a bank trained on its own columns alone; else the shared one.

        Raises:
            ConfigError: the document is incomplete or contradicts itself.
        """
        try:
            source = result[part] if part else result
            bins = source.get("bins", result["bins"])
            columns = tuple(ColumnBins.from_dict(column) for column in bins["columns"])
            model = cls(
                columns,
                np.array(source["weights"], dtype=np.float64),
                np.array(source["neutral"], dtype=np.float64),
                float(source.get("intercept", 0.0)),
            )
        except (KeyError, TypeError, ValueError, AttributeError, DataError) as error:
            raise ConfigError("the saved model of the training run is damaged: name another run") from error
        numbers = (*model.weights, *model.neutral, model.intercept)
        shapes = ((sum(column.size for column in columns),), (len(columns),))
        if (model.weights.shape, model.neutral.shape) != shapes or not np.isfinite(numbers).all():
            raise ConfigError("the saved model of the training run contradicts itself: name another run")
        return model

    def assign(self, table: ColumnTable, *, party: str = "") -> NDArray[np.int32]:
        """Return the bin of every row in every column, numbered over all columns, shape ``[n, F]``.

        Raises:
            DataError: a column is missing, or a cell of a numeric one is text or infinite.
        """
        return Design.assigned(self.columns, table, party=party).codes

    def scores(self, codes: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return the log-odds of every row that ``assign`` gave, the intercept included, shape ``[n]``."""
        return OneHotMatrix(codes, len(self.weights)).times(self.weights) + self.intercept

    def contributions(self, codes: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return what each column adds above what it adds for the mean training customer, shape ``[n, F]``."""
        above: NDArray[np.float64] = self.weights[codes] - self.neutral
        return above

    def group(self, contributions: NDArray[np.float64], names: Collection[str]) -> NDArray[np.float64]:
        """Return the joint contribution of some columns, shape ``[n]``; columns that training left out add nothing."""
        chosen = [index for index, column in enumerate(self.columns) if column.name in names]
        total: NDArray[np.float64] = contributions[:, chosen].sum(axis=1)
        return total
