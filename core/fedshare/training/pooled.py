"""The loss of all banks' customers, as the bank that leads the search sees it: sums at the points it asks for.

The leading bank asks for the value and the gradient, which are sums over bins with the minimum cohort of others. It
never asks for the Hessian: the entry of two bins would be a sum over the customers that are in both, of whom there may
be one. What it takes instead is its own customers' Hessian, scaled to the customers per bin of all banks, and
corrected after every step by what the gradient did (BFGS: Nocedal and Wright, "Numerical Optimization", 2nd ed.,
equation 6.19). docs/adr/0004-no-hessian-between-banks.md has figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .customers import Customers, Evaluation, Totals

__all__ = ["Banks", "PooledLoss"]

# The mean of p(1 - p) in bins that the leading bank has no customer in; the first correction mends it.
_CURVATURE = 0.1
# How much of the Hessian at zero, where p(1 - p) is largest, is mixed in: customers whom the model separates would
# else leave a variable without any scale.
_SHARE_AT_ZERO = 0.01
# Relative to the diagonal: the bins of a column sum to one, so some curvature is exactly zero, which rounding may turn
# negative.
_FLOOR = 1e-6
# Damping (Nocedal and Wright, procedure 18.2): no correction takes more than this of the curvature along its step.
_LEAST_SHARE = 0.01


class Banks(Protocol):
    """All banks together, as the leading bank reaches them."""

    @property
    def totals(self) -> Totals:
        """Summed over all banks, this one included."""

    @property
    def resolution(self) -> float:
        """How far the sum of a loss may be off, in nats times weight."""

    def evaluate(
        self, point: NDArray[np.float64], own: Callable[[NDArray[np.float64]], Evaluation]
    ) -> Evaluation:
        """Return the loss at ``point``, summed over all banks, of which this one's is ``own(point)``."""


class PooledLoss:
    """A convex function over points; every point is asked for once."""

    def __init__(self, banks: Banks, own: Customers) -> None:
        """Start a minimisation over the directions that ``own``, the leading bank's customers, have now."""
        self._banks = banks
        self._own = own
        self._seen: dict[bytes, Evaluation] = {}
        self._approximation: NDArray[np.float64] | None = None
        self._last: NDArray[np.float64]

    def evaluate(self, point: NDArray[np.float64]) -> Evaluation:
        """Return the loss of all banks at ``point``."""
        key = point.tobytes()
        if key not in self._seen:
            self._seen[key] = self._banks.evaluate(point, self._own.evaluate)
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
        mine, all_banks = self._own.totals(), self._banks.totals
        loss, count = self._own.training_loss(), self._own.direction_count
        hessian = loss.hessian(point) + _SHARE_AT_ZERO * loss.hessian(np.zeros_like(point))
        own_bins = slice(count, count + len(mine.bin_weights))
        empty = mine.bin_weights <= 0.0
        scale = np.full(len(point), all_banks.training_weight / mine.training_weight)
        scale[own_bins] = all_banks.bin_weights / np.where(empty, 1.0, mine.bin_weights)
        root = np.sqrt(np.maximum(scale, 0.0))
        scaled: NDArray[np.float64] = hessian * np.outer(root, root)
        diagonal = _FLOOR * np.diag(scaled)
        diagonal[own_bins] += np.where(empty, _CURVATURE * all_banks.bin_weights, 0.0)
        return scaled + np.diag(diagonal)

    def _correct(
        self, approximation: NDArray[np.float64], step: NDArray[np.float64], change: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return ``approximation`` with ``change`` as its image of ``step``, damped where that says too little."""
        image = approximation @ step
        expected, found = float(step @ image), float(step @ change)
        if expected <= 0.0:
            return approximation
        if found < _LEAST_SHARE * expected:
            share = (1.0 - _LEAST_SHARE) * expected / (expected - found)
            change = share * change + (1.0 - share) * image
            found = _LEAST_SHARE * expected
        corrected: NDArray[np.float64] = (
            approximation - np.outer(image, image) / expected + np.outer(change, change) / found
        )
        return corrected
