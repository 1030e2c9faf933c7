"""The shared scorecard: what each role computes, as pure functions of what it holds.

The model adds points per bin: log-odds = intercept + one weight per column. Training minimises the
customers' weighted log loss plus a penalty, by a search over a growing subspace (docs/training.md,
docs/adr/0002-subspace-search.md):

1. bank: ``solve`` minimises over all directions so far, its own weights and the intercept; ``residual`` is
   what it sends, sealed, with the coefficients;
2. holder: ``combine`` moves its weights to what the bank found, ``direction`` turns the gradient of its own
   bins into the next direction, ``scores`` and ``penalty_row`` are what it sends, sealed;
3. bank: ``add_direction``, and again from 1, until ``Step.stop``.

    >>> step = model.solve()
    >>> while not step.stop:
    ...     block.combine(step.coefficients)
    ...     direction = block.direction(gradient_of(model.residual()))
    ...     model.add_direction(opened(block.scores(direction)), block.penalty_row())
    ...     step = model.solve()
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .customers import Customers
from .holder import HolderBlock
from .label_holder import LabelHolderModel, Step
from .newton import minimise
from .objective import SpanObjective
from .penalty import monotone_cone, penalty_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedshare.credit.bins import Design

    from .newton import ConvexFunction
    from .penalty import ModelSettings

__all__ = [
    "Customers",
    "HolderBlock",
    "LabelHolderModel",
    "PooledCustomers",
    "Step",
    "centralised_fit",
    "centralised_scores",
]


@dataclass(frozen=True, slots=True, eq=False)
class PooledCustomers:
    """The customers of all banks in one place, as no party has them.

    Attributes:
        labels: 0 or 1, shape ``[c]``.
        weights: at least 0, shape ``[c]``.
        design: all parties' binned columns joined (``Design.joined``), ``c`` rows.
        training: which customers train, shape ``[c]``; the others are held out.
        banks: number of each customer's bank, from 0, shape ``[c]``, if every bank has an intercept of its own.
    """

    labels: NDArray[np.float64]
    weights: NDArray[np.float64]
    design: Design
    training: NDArray[np.bool_]
    banks: NDArray[np.int64] | None = None

    def bank_rows(self) -> list[NDArray[np.bool_]]:
        """Return which customers are each bank's."""
        assert self.banks is not None  # noqa: S101 - only asked for where it is
        return [self.banks == number for number in range(int(self.banks.max()) + 1)]


def centralised_fit(
    labels: NDArray[np.float64],
    weights: NDArray[np.float64],
    design: Design,
    training: NDArray[np.bool_],
    settings: ModelSettings,
) -> LabelHolderModel:
    """Return the exact optimum of the same objective on pooled columns, which no party could compute.

    Args:
        labels: 0 or 1 per customer, shape ``[c]``.
        weights: at least 0 per customer, shape ``[c]``.
        design: all parties' columns joined (``Design.joined``), rows of the customers.
        training: which customers train, shape ``[c]``.
        settings: the contract's model.

    Raises:
        DataError: as ``LabelHolderModel``.
        ParameterError: as ``LabelHolderModel``.
    """
    model = LabelHolderModel(labels, weights, design, training, settings)
    model.solve()
    return model


def centralised_scores(
    pooled: PooledCustomers, settings: ModelSettings, offsets: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return the log-odds of every customer at the optimum on pooled columns, shape ``[c]``; errors as ``centralised_fit``.

    Args:
        pooled: the customers of all banks.
        settings: the contract's model.
        offsets: what a network adds to the log-odds, shape ``[c]``; it is not moved.
    """
    if offsets is None:
        offsets = np.zeros(len(pooled.labels))
    if pooled.banks is None:
        model = LabelHolderModel(pooled.labels, pooled.weights, pooled.design, pooled.training, settings)
        model.set_offsets(offsets)
        model.solve()
        return model.scores()
    parts = [_part(pooled, rows, offsets) for rows in pooled.bank_rows()]
    cone = monotone_cone(pooled.design)
    loss = _SumOfLosses([part.training_loss() for part in parts])
    objective = SpanObjective(loss, np.empty((0, 0)), cone.basis, penalty_matrix(pooled.design, settings))
    precision = 1e-4 * settings.tolerance * float(pooled.weights[pooled.training].sum())
    found = minimise(objective, np.zeros(pooled.design.width), cone.nonnegative, precision)
    scores = np.empty(len(pooled.labels))
    for rows, part in zip(pooled.bank_rows(), parts, strict=True):
        part.move_to(objective.plain(found))
        scores[rows] = part.scores()
    return scores


def _part(pooled: PooledCustomers, rows: NDArray[np.bool_], offsets: NDArray[np.float64]) -> Customers:
    part = Customers(
        pooled.labels[rows],
        pooled.weights[rows],
        pooled.design.take(rows),
        pooled.training[rows],
        personal_intercept=True,
    )
    part.set_offsets(offsets[rows])
    return part


class _SumOfLosses:
    def __init__(self, losses: list[ConvexFunction]) -> None:
        self._losses = losses

    def value(self, point: NDArray[np.float64]) -> float:
        return sum(loss.value(point) for loss in self._losses)

    def gradient(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.sum([loss.gradient(point) for loss in self._losses], axis=0))

    def hessian(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.sum([loss.hessian(point) for loss in self._losses], axis=0))
