"""The minimum of a smooth convex function, some of whose variables must not be negative.

Source: Bertsekas, "Projected Newton methods for optimization problems with simple constraints", SIAM J.
Control and Optimization 20 (1982), section 2. Each step solves Newton's equations over the variables that
are not held at zero, then searches back along the projected path; every step lowers the function. Without
bounds it is Newton's method with a line search.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ConvexFunction", "minimise"]

_MAX_STEPS = 100
_SUFFICIENT = 1e-4
_SMALLEST_STEP = 1e-10
# Relative to the diagonal: keeps Newton's equations solvable for nearly dependent variables, without moving
# the minimum.
_JITTERS = (1e-13, 1e-10, 1e-7, 1e-4)


class ConvexFunction(Protocol):
    """A function with its derivatives."""

    def value(self, point: NDArray[np.float64]) -> float:
        """Return the value."""

    def gradient(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the gradient."""

    def hessian(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the Hessian, symmetric and positive semidefinite."""


def minimise(
    function: ConvexFunction,
    start: NDArray[np.float64],
    nonnegative: NDArray[np.bool_],
    precision: float,
) -> NDArray[np.float64]:
    """Return the minimiser, to where one more step would lower the value by less than ``precision``.

    Args:
        function: what to minimise.
        start: where to begin; zero or positive where ``nonnegative``.
        nonnegative: which variables must not be negative.
        precision: in units of the value, > 0.
    """
    point = start
    value = function.value(point)
    for _ in range(_MAX_STEPS):
        gradient = function.gradient(point)
        held = nonnegative & (point <= 0.0) & (gradient > 0.0)
        free = np.flatnonzero(~held)
        step = np.zeros_like(point)
        step[free] = -_solve(function.hessian(point)[np.ix_(free, free)], gradient[free])
        if -gradient @ step < 2.0 * precision:
            break
        moved, moved_value = _search(function, point, value, gradient, step, nonnegative)
        if moved_value >= value:
            break
        point, value = moved, moved_value
    return point


def _search(
    function: ConvexFunction,
    point: NDArray[np.float64],
    value: float,
    gradient: NDArray[np.float64],
    step: NDArray[np.float64],
    nonnegative: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], float]:
    """Return the first point back along the projected path that is low enough, with its value."""
    length = 1.0
    while length > _SMALLEST_STEP:
        moved = point + length * step
        moved[nonnegative] = np.maximum(moved[nonnegative], 0.0)
        moved_value = function.value(moved)
        if moved_value <= value + _SUFFICIENT * float(gradient @ (moved - point)):
            return moved, moved_value
        length *= 0.5
    return point, value


def _solve(matrix: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the solution of a positive semidefinite system, scaled to a unit diagonal first."""
    scale = 1.0 / np.sqrt(np.maximum(np.diag(matrix), np.finfo(np.float64).tiny))
    scaled = matrix * np.outer(scale, scale)
    for jitter in _JITTERS:
        try:
            factor = cho_factor(scaled + jitter * np.eye(len(scaled)), lower=True)
        except LinAlgError:
            continue
        solution: NDArray[np.float64] = scale * cho_solve(factor, scale * right)
        if np.isfinite(solution).all():
            return solution
    return scale**2 * right
