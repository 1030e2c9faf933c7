"""The minimum of a smooth convex function, some of whose variables must not be negative.

Source: Lee, Sun, Saunders, "Proximal Newton-type methods for minimizing composite functions", SIAM J. Optimization
24 (2014), algorithm 1, with the bounds as the composite part. Each step goes towards the minimum of the quadratic model
under the bounds, and a line search makes it lower the function. Without bounds it is Newton's method, and with an
approximate Hessian a quasi-Newton method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular
from scipy.optimize import nnls

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ConvexFunction", "bounded_least_squares", "minimise"]

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
        step = _step(function.hessian(point), gradient, point, nonnegative)
        if -gradient @ step < 2.0 * precision:
            break
        moved, moved_value = _search(function, point, value, step, float(gradient @ step), nonnegative)
        if moved_value >= value:
            break
        point, value = moved, moved_value
    return point


def bounded_least_squares(
    matrix: NDArray[np.float64], target: NDArray[np.float64], nonnegative: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the variables, some at least zero, whose image under ``matrix`` is nearest to ``target``.

    The free variables are solved for exactly: what they can reach is projected out of the bounded ones.

    Args:
        matrix: square and of full rank, shape ``[m, m]``.
        target: shape ``[m]``.
        nonnegative: which variables must not be negative, shape ``[m]``.
    """
    bounded, free = matrix[:, nonnegative], matrix[:, ~nonnegative]
    reach, triangle = np.linalg.qr(free)
    variables = np.zeros(len(nonnegative))
    if nonnegative.any():
        steps, _ = nnls(bounded - reach @ (reach.T @ bounded), target - reach @ (reach.T @ target))
        variables[nonnegative] = steps
        target = target - bounded @ steps
    variables[~nonnegative] = solve_triangular(triangle, reach.T @ target)
    return variables


def _step(
    hessian: NDArray[np.float64],
    gradient: NDArray[np.float64],
    point: NDArray[np.float64],
    nonnegative: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Return the way to the minimum of the quadratic model under the bounds."""
    step = -_solve(hessian, gradient)
    if not (point[nonnegative] + step[nonnegative] < 0.0).any():
        return step
    scale, factor = _factored(hessian)
    # With scaled variables y / scale the model is |factor y - factor (point + step)|^2 / 2.
    target = factor @ ((point + step) / scale)
    nearest = scale * bounded_least_squares(factor, target, nonnegative)
    return np.asarray(nearest - point)


def _search(
    function: ConvexFunction,
    point: NDArray[np.float64],
    value: float,
    step: NDArray[np.float64],
    slope: float,
    nonnegative: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], float]:
    """Return the first point back along the step that is low enough, with its value."""
    length = 1.0
    while length > _SMALLEST_STEP:
        moved = point + length * step
        moved[nonnegative] = np.maximum(moved[nonnegative], 0.0)  # what rounding leaves below
        moved_value = function.value(moved)
        if moved_value <= value + _SUFFICIENT * length * slope:
            return moved, moved_value
        length *= 0.5
    return point, value


def _factored(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a scale s and the upper triangle R with R^T R = diag(s) matrix diag(s), lifted if it is singular."""
    scale = 1.0 / np.sqrt(np.maximum(np.diag(matrix), np.finfo(np.float64).tiny))
    scaled = matrix * np.outer(scale, scale)
    for jitter in _JITTERS:
        try:
            return scale, np.asarray(cholesky(scaled + jitter * np.eye(len(scaled))))
        except LinAlgError:
            continue
    return scale, np.eye(len(scaled))


def _solve(matrix: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the solution of a positive semidefinite system, scaled to a unit diagonal first."""
    scale, factor = _factored(matrix)
    solution: NDArray[np.float64] = scale * cho_solve((factor, False), scale * right)
    return solution if np.isfinite(solution).all() else scale**2 * right
