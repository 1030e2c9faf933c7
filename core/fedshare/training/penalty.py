"""What keeps weights small, smooth and in the right direction.

The penalty of weights w is ``1/2 <w, w>`` with ``<u, v> = ridge u.v + smoothness sum (u_b+1 - u_b)(v_b+1 -
v_b)`` over neighbouring ordered bins b of each numeric column. A monotone column asks that its weights never
fall (or never rise) along its ordered bins; the weights that obey form a cone, written as ``w = basis z``
with some entries of z not negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fedshare.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedshare.credit.bins import Design

__all__ = ["Cone", "ModelSettings", "monotone_cone", "penalty_matrix"]


class ModelSettings(Protocol):
    """What the contract says of the model."""

    @property
    def ridge(self) -> float:
        """Weight of the squared weights, > 0, in units of one customer's loss."""

    @property
    def smoothness(self) -> float:
        """Weight of the squared steps between neighbouring ordered bins, >= 0."""

    @property
    def max_iterations(self) -> int:
        """The largest number of directions."""

    @property
    def tolerance(self) -> float:
        """The decrease of the mean objective, in nats per customer, below which training stops."""

    @property
    def patience(self) -> int:
        """Iterations without a lower held-out loss after which training stops; 0 to train to the optimum."""


@dataclass(frozen=True, slots=True)
class Cone:
    """The weights that obey the monotone columns: ``basis @ z`` with ``z[nonnegative] >= 0``.

    Attributes:
        basis: shape ``[m, m]``, invertible.
        nonnegative: bool, shape ``[m]``.
    """

    basis: NDArray[np.float64]
    nonnegative: NDArray[np.bool_]


def penalty_matrix(design: Design, settings: ModelSettings) -> NDArray[np.float64]:
    """Return the symmetric positive definite matrix of the penalty, shape ``[m, m]``.

    Raises:
        ParameterError: ridge is not finite and positive, or smoothness not finite and at least 0. Without
            ridge the weights are not determined: the bins of every column sum to one.
    """
    ridge, smoothness = settings.ridge, settings.smoothness
    if not (np.isfinite(ridge) and ridge > 0 and np.isfinite(smoothness) and smoothness >= 0):
        raise ParameterError(f"expected ridge > 0 and smoothness >= 0, found {ridge} and {smoothness}")
    matrix = ridge * np.eye(design.width)
    for offset, column in zip(design.offsets, design.columns, strict=False):
        ordered = slice(offset, offset + column.ordered)
        steps = np.diff(np.eye(column.ordered), axis=0)
        matrix[ordered, ordered] += smoothness * steps.T @ steps
    return matrix


def monotone_cone(design: Design) -> Cone:
    """Return the cone of the design's monotone columns; the whole space if there are none.

    Along a monotone column z holds the weight of the first ordered bin and then the steps from each bin to
    the next, counted in the asked direction.
    """
    basis = np.eye(design.width)
    nonnegative = np.zeros(design.width, dtype=np.bool_)
    for offset, column in zip(design.offsets, design.columns, strict=False):
        if column.monotone == "none":
            continue
        ordered = slice(offset, offset + column.ordered)
        sign = 1.0 if column.monotone == "increasing" else -1.0
        steps = sign * np.tril(np.ones((column.ordered, column.ordered)))
        steps[:, 0] = 1.0
        basis[ordered, ordered] = steps
        nonnegative[offset + 1 : offset + column.ordered] = True
    return Cone(basis, nonnegative)
