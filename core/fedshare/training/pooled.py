"""The loss of all banks' customers, as the bank that leads the search sees it: sums at the points it asks for.

The leading bank asks for the value and the gradient, which are sums over bins of at least the minimum cohort. It
never asks for the Hessian: the entry of two bins would be a sum over the customers that are in both, of whom there may
be one. What it takes instead is its own customers' Hessian, scaled to the customers per bin of all banks, and
corrected after every step by what the gradient did (BFGS: Nocedal and Wright, "Numerical Optimization", 2nd ed.,
equation 6.19). docs/adr/0004-no-hessian-between-banks.md has figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .customers import Evaluation, Totals
    from .newton import ConvexFunction

__all__ = ["Banks", "PooledLoss"]

# The mean of p(1 - p) in bins that the leading bank has no customer in; the first correction mends it.
_CURVATURE = 0.1
# How much of the Hessian at zero, where p(1 - p) is largest, is mixed in: customers whom the model separates would
# else leave a variable without any scale.
_SHARE_AT_ZERO = 0.01
# Steps along which the gradient hardly changes say nothing about the curvature (Nocedal and Wright, section 6.1).
_LEAST_CURVATURE = 1e-8


class Banks(Protocol):
    """All banks together, as the leading bank reaches them."""

    @property
    def totals(self) -> Totals:
        """Summed over all banks, this one included."""

    def evaluate(self, point: NDArray[np.float64]) -> Evaluation:
        """Return the loss at ``point``, summed over all banks, this one included."""


class PooledLoss:
    """A convex function over points; every point is asked for once."""

    def __init__(self, banks: Banks, own: ConvexFunction, own_totals: Totals, directions: int) -> None:
        """Start a minimisation.

        Args:
            banks: whom to ask.
            own: the loss of the leading bank's own training customers.
            own_totals: of the same customers.
            directions: how many of a point's entries, the first, are coefficients of directions.
        """
        self._banks = banks
        self._own = own
        self._own_totals = own_totals
        self._directions = directions
        self._seen: dict[bytes, Evaluation] = {}
        self._approximation: NDArray[np.float64] | None = None
        self._last: NDArray[np.float64]

    def evaluate(self, point: NDArray[np.float64]) -> Evaluation:
        """Return the loss of all banks at ``point``."""
        key = point.tobytes()
        if key not in self._seen:
            self._seen[key] = self._banks.evaluate(point)
        return self._seen[key]

    def value(self, point: NDArray[np.float64]) -> float:
        """Return the loss of all training customers."""
        return self.evaluate(point).training

    def gradient(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return its gradient, as long as the point."""
        return self.evaluate(point).gradient

    def hessian(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a positive semidefinite approximation of its Hessian; ask for it at one accepted point after another."""
        if self._approximation is None:
            self._approximation = self._scaled_own_hessian(point)
        else:
            change = self.gradient(point) - self.gradient(self._last)
            self._approximation = self._correct(self._approximation, point - self._last, change)
        self._last = point.copy()
        return self._approximation

    def _scaled_own_hessian(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the own customers' Hessian as if they were as many, in every bin, as those of all banks."""
        mine, all_banks = self._own_totals, self._banks.totals
        hessian = self._own.hessian(point) + _SHARE_AT_ZERO * self._own.hessian(np.zeros_like(point))
        own_bins = slice(self._directions, self._directions + len(mine.bin_weights))
        empty = mine.bin_weights <= 0.0
        scale = np.full(len(point), all_banks.training_weight / mine.training_weight)
        scale[own_bins] = all_banks.bin_weights / np.where(empty, 1.0, mine.bin_weights)
        root = np.sqrt(np.maximum(scale, 0.0))
        scaled: NDArray[np.float64] = hessian * np.outer(root, root)
        diagonal = np.zeros(len(point))
        diagonal[own_bins] = np.where(empty, _CURVATURE * all_banks.bin_weights, 0.0)
        return scaled + np.diag(diagonal)

    def _correct(
        self, approximation: NDArray[np.float64], step: NDArray[np.float64], change: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return ``approximation`` with ``change`` as its image of ``step``."""
        image = approximation @ step
        expected, found = float(step @ image), float(step @ change)
        if expected <= 0.0 or found <= _LEAST_CURVATURE * expected:
            return approximation
        corrected = approximation - np.outer(image, image) / expected + np.outer(change, change) / found
        # Rounding may cancel a variable's whole curvature; the approximation before is then the better one.
        kept = np.all(np.diag(corrected) > _LEAST_CURVATURE * np.diag(approximation))
        return corrected if kept else approximation
