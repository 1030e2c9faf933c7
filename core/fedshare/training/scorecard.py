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

from typing import TYPE_CHECKING

from .customers import Customers
from .holder import HolderBlock
from .label_holder import LabelHolderModel, Step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedshare.credit.bins import Design

    from .penalty import ModelSettings

__all__ = ["Customers", "HolderBlock", "LabelHolderModel", "Step", "centralised_fit"]


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
