"""The objective over a span of directions, a bank's own bins and the intercept, with its derivatives.

    f(a, z, b) = sum_i w_i (log(1 + exp(s_i)) - y_i s_i) + 1/2 a^T Q a + 1/2 (T z)^T P (T z)
    s = S a + X T z + b

with S the directions' scores, Q their penalty inner products, X the own one-hot matrix, T the basis of the
own cone (the identity without monotone columns) and P the own penalty. Variables stand in the order a, z, b.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .onehot import OneHotMatrix

__all__ = ["SpanObjective"]


@dataclass(frozen=True, slots=True, eq=False)
class SpanObjective:
    """See the module.

    Attributes:
        labels: y, shape ``[c]``.
        weights: w, shape ``[c]``.
        directions: S, shape ``[c, t]``.
        direction_penalty: Q, shape ``[t, t]``.
        matrix: X, shape ``[c, m]``.
        basis: T, shape ``[m, m]``.
        penalty: P, shape ``[m, m]``.
    """

    labels: NDArray[np.float64]
    weights: NDArray[np.float64]
    directions: NDArray[np.float64]
    direction_penalty: NDArray[np.float64]
    matrix: OneHotMatrix
    basis: NDArray[np.float64]
    penalty: NDArray[np.float64]

    def value(self, point: NDArray[np.float64]) -> float:
        """Return f."""
        coefficients, own, _ = self._parts(point)
        scores = self._scores(point)
        loss = float(self.weights @ (np.logaddexp(0.0, scores) - self.labels * scores))
        return loss + 0.5 * float(
            coefficients @ self.direction_penalty @ coefficients + own @ self.penalty @ own
        )

    def gradient(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the gradient of f, shape ``[t + m + 1]``."""
        coefficients, own, _ = self._parts(point)
        residual = self.weights * (expit(self._scores(point)) - self.labels)
        return np.concatenate(
            [
                self.directions.T @ residual + self.direction_penalty @ coefficients,
                self.basis.T @ (self.matrix.transposed_times(residual) + self.penalty @ own),
                [residual.sum()],
            ]
        )

    def hessian(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the Hessian of f, shape ``[t + m + 1, t + m + 1]``."""
        chance = expit(self._scores(point))
        curvature = self.weights * chance * (1.0 - chance)
        count, width = self.directions.shape[1], self.matrix.width
        dense = np.column_stack([self.directions, np.ones(len(curvature))])
        weighted = dense * curvature[:, None]
        inner = dense.T @ weighted
        mixed = np.empty((width, count + 1))
        for column in range(count + 1):
            mixed[:, column] = self.matrix.transposed_times(np.ascontiguousarray(weighted[:, column]))
        mixed = self.basis.T @ mixed
        own = slice(count, count + width)
        hessian = np.empty((count + width + 1, count + width + 1))
        hessian[own, own] = self.basis.T @ (self.matrix.gram(curvature) + self.penalty) @ self.basis
        outer = np.append(np.arange(count), count + width)
        hessian[np.ix_(outer, outer)] = inner
        hessian[:count, :count] += self.direction_penalty
        hessian[own, outer] = mixed
        hessian[outer, own] = mixed.T
        return hessian

    def _parts(self, point: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Return coefficients a, own weights T z and intercept b."""
        count = self.directions.shape[1]
        return point[:count], self.basis @ point[count:-1], float(point[-1])

    def _scores(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        coefficients, own, intercept = self._parts(point)
        return self.directions @ coefficients + self.matrix.times(own) + intercept
