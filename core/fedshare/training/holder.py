"""A feature holder's side of training: gradients of its own bins in, directions for the search out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedshare.errors import ParameterError, ProtocolError

from .newton import bounded_least_squares
from .onehot import OneHotMatrix
from .penalty import monotone_cone, penalty_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedshare.credit.bins import Design

    from .penalty import Cone, ModelSettings

__all__ = ["HolderBlock"]

# The second derivative of the log loss is p(1 - p), at most 1/4 (Boehning 1992): where the estimate starts.
_LARGEST_CURVATURE = 0.25
_SMALLEST_CURVATURE = 0.001
# Rows from which the shape of the Gram matrix is taken: enough for a preconditioner, whatever the universe.
_GRAM_ROWS = 131_072


class HolderBlock:
    """The weights of one holder's bins, a combination of the directions it has released.

    In each iteration the holder first combines its directions as the bank found best, then turns the gradient
    of the customers' loss into the next direction: Newton's step of its own block. The Hessian it takes is
    the Gram matrix of its universe, scaled to the customer counts and by the mean curvature of the loss,
    which it estimates from how its own gradient changed.

    In a ``cone`` run, where some holder's weights must be monotone, it releases points instead of directions:
    the weights it would move to, projected onto its cone. Combinations with coefficients of at least zero
    then obey the cone as well.
    """

    def __init__(
        self,
        design: Design,
        customer_counts: NDArray[np.float64],
        settings: ModelSettings,
        *,
        cone: bool = False,
    ) -> None:
        """Prepare the block; all weights are zero.

        Args:
            design: the holder's rows, one per enterprise of its universe.
            customer_counts: training customers per bin, shape ``[m]``; may be noisy.
            settings: the contract's model.
            cone: whether any holder's column in the contract is monotone.

        Raises:
            ParameterError: the counts do not fit the design, a column is monotone in a run that is not a cone
                run, or the penalty is refused.
        """
        if customer_counts.shape != (design.width,) or not np.isfinite(customer_counts).all():
            raise ParameterError(f"expected {design.width} finite customer counts, one per bin")
        if design.is_monotone and not cone:
            raise ParameterError("a monotone column needs a cone run at every party")
        self._matrix = OneHotMatrix(design.codes, design.width)
        self._penalty = penalty_matrix(design, settings)
        self._gram = _scaled_gram(design, customer_counts)
        self._curvature = _LARGEST_CURVATURE
        self._previous: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self._cone = monotone_cone(design) if cone else None
        self._basis: list[NDArray[np.float64]] = []
        self.weights: NDArray[np.float64] = np.zeros(design.width)

    def combine(self, coefficients: NDArray[np.float64]) -> None:
        """Set the weights to the combination of all directions so far.

        Args:
            coefficients: one per direction, shape ``[t]``.

        Raises:
            ProtocolError: another number of coefficients, not all finite, or a negative one in a cone run.
        """
        if coefficients.shape != (len(self._basis),) or not np.isfinite(coefficients).all():
            raise ProtocolError(
                f"expected {len(self._basis)} finite coefficients, found shape {coefficients.shape}"
            )
        if self._cone and (coefficients < 0).any():
            raise ProtocolError("a negative coefficient would leave the monotone cone")
        self.weights = np.zeros_like(self.weights)
        for coefficient, vector in zip(coefficients, self._basis, strict=True):
            self.weights += coefficient * vector

    def direction(self, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the next direction, or point in a cone run, shape ``[m]``, and remember it.

        Args:
            gradient: X^T d of the loss at the current weights, without the penalty, shape ``[m]``.

        Raises:
            ProtocolError: the gradient has another shape or is not finite.
        """
        if gradient.shape != self.weights.shape or not np.isfinite(gradient).all():
            raise ProtocolError(
                f"expected a finite gradient of {len(self.weights)} bins, found shape {gradient.shape}"
            )
        self._estimate_curvature(gradient)
        hessian = self._curvature * self._gram + self._penalty
        slope = gradient + self._penalty @ self.weights
        vector = np.linalg.solve(hessian, -slope).astype(np.float64)
        if self._cone:
            vector = _nearest(self.weights + vector, self._cone, hessian)
        self._basis.append(vector)
        return vector

    def penalty_row(self) -> NDArray[np.float64]:
        """Return the penalty inner products of the newest direction with all, itself last, shape ``[t]``."""
        image = self._penalty @ self._basis[-1]
        return np.array([float(image @ vector) for vector in self._basis])

    def scores(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return X v for ``vector`` of shape ``[m]``: the partial score of every row, shape ``[n]``."""
        return self._matrix.times(vector)

    def _estimate_curvature(self, gradient: NDArray[np.float64]) -> None:
        """Move the curvature half-way, on a log scale, to what the last move of the weights showed.

        The change of the gradient along the move, over its length in the Gram matrix, is the mean p(1 - p)
        where the customers are, up to what the other parties' moves added.
        """
        if self._previous:
            move = self.weights - self._previous[0]
            along = float(move @ (gradient - self._previous[1]))
            length = float(move @ self._gram @ move)
            if along > 0.0 and length > 0.0:
                shown = float(np.sqrt(self._curvature * along / length))
                self._curvature = min(max(shown, _SMALLEST_CURVATURE), _LARGEST_CURVATURE)
        self._previous = (self.weights.copy(), gradient.copy())


def _nearest(weights: NDArray[np.float64], cone: Cone, metric: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of the cone nearest to ``weights`` in the metric."""
    root = np.linalg.cholesky(metric).T
    nearest: NDArray[np.float64] = cone.basis @ bounded_least_squares(
        np.asarray(root @ cone.basis), root @ weights, cone.nonnegative
    )
    return nearest


def _scaled_gram(design: Design, customer_counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the universe's Gram matrix scaled so that its diagonal is the customer counts."""
    stride = -(-len(design.codes) // _GRAM_ROWS)
    codes = np.ascontiguousarray(design.codes[::stride])
    gram = OneHotMatrix(codes, design.width).gram(np.ones(len(codes)))
    scale = np.sqrt(np.maximum(customer_counts, 0.0) / np.maximum(np.diag(gram), 1.0))
    scaled: NDArray[np.float64] = gram * np.outer(scale, scale)
    return scaled
