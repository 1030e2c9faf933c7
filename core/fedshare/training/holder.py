"""A feature holder's side of training: gradients of its own weights in, directions for the shared search
out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

from fedshare.errors import ParameterError, ProtocolError

from .onehot import OneHotMatrix
from .penalty import monotone_cone, penalty_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedshare.credit.bins import Design

    from .penalty import ModelSettings

__all__ = ["HolderBlock"]

# The second derivative of the log loss is p(1 - p), at most 1/4 (Boehning 1992); the holder does not know p.
_CURVATURE = 0.25
# Rows from which the shape of the Gram matrix is taken: enough for a preconditioner, whatever the universe.
_GRAM_ROWS = 131_072


class HolderBlock:
    """The weights of one holder's bins, always a combination of the directions it has released.

    In each iteration the holder first combines its directions as the bank found best, then turns the
    gradient of the customers' loss into the next direction: Newton's step of its own block, with the
    curvature of its universe scaled to the customers.

    In a ``cone`` run, where some holder's weights must be monotone, it releases points instead of
    directions: the weights it would move to, projected onto its cone. Combinations with coefficients of at
        least zero then obey the cone as well.
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
            ParameterError: the counts do not fit the design, a column is monotone in a run that is not a
                cone run, or the penalty is refused.
        """
        if customer_counts.shape != (design.width,) or not np.isfinite(customer_counts).all():
            raise ParameterError(f"expected {design.width} finite customer counts, one per bin")
        if design.is_monotone and not cone:
            raise ParameterError("a monotone column needs a cone run at every party")
        self._matrix = OneHotMatrix(design.codes, design.width)
        self._penalty = penalty_matrix(design, settings)
        self._curvature = _CURVATURE * _scaled_gram(design, customer_counts) + self._penalty
        self._projection = _Projection(design, self._curvature) if cone else None
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
        if self._projection and (coefficients < 0).any():
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
                f"expected a finite gradient of {len(self.weights)} bins, found {gradient.shape}"
            )
        slope = gradient + self._penalty @ self.weights
        step: NDArray[np.float64] = np.linalg.solve(self._curvature, -slope)
        vector = self._projection.nearest(self.weights + step) if self._projection else step
        self._basis.append(vector)
        return vector

    def penalty_row(self) -> NDArray[np.float64]:
        """Return the penalty inner products of the newest direction with all, itself last, shape ``[t]``."""
        image = self._penalty @ self._basis[-1]
        return np.array([float(image @ vector) for vector in self._basis])

    def scores(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return X v for ``vector`` of shape ``[m]``: the partial score of every row, shape ``[n]``."""
        return self._matrix.times(vector)


class _Projection:
    """The nearest weights in the cone, in the metric of the block's curvature: a nonnegative least-squares
    problem."""

    def __init__(self, design: Design, metric: NDArray[np.float64]) -> None:
        cone = monotone_cone(design)
        self._basis = cone.basis
        self._nonnegative = cone.nonnegative
        self._root = np.linalg.cholesky(metric).T
        image = self._root @ cone.basis
        # The free variables are solved for exactly; what they can reach is projected out of the rest.
        self._free = np.linalg.qr(image[:, ~cone.nonnegative])
        self._image = image
        reach = self._free.Q
        bounded = image[:, cone.nonnegative]
        self._bounded = bounded - reach @ (reach.T @ bounded)

    def nearest(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the weights of the cone nearest to ``weights``, shape ``[m]``."""
        target = self._root @ weights
        variables = np.zeros_like(weights)
        if self._nonnegative.any():
            variables[self._nonnegative], _ = nnls(self._bounded, target, maxiter=10 * len(weights))
        rest = target - self._image[:, self._nonnegative] @ variables[self._nonnegative]
        variables[~self._nonnegative] = np.linalg.solve(self._free.R, self._free.Q.T @ rest)
        nearest: NDArray[np.float64] = self._basis @ variables
        return nearest


def _scaled_gram(design: Design, customer_counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the universe's Gram matrix scaled so that its diagonal is the customer counts."""
    stride = -(-len(design.codes) // _GRAM_ROWS)
    codes = np.ascontiguousarray(design.codes[::stride])
    gram = OneHotMatrix(codes, design.width).gram(np.ones(len(codes)))
    scale = np.sqrt(np.maximum(customer_counts, 0.0) / np.maximum(np.diag(gram), 1.0))
    return gram * np.outer(scale, scale)
