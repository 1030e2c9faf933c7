"""The loss of one bank's customers, with its derivatives, over what all parties' weights are made of.

    f(a, w, b) = sum_i weight_i (log(1 + exp(s_i)) - y_i s_i),   s = S a + X w + b + o

with S the scores along the holders' directions, X the one-hot matrix of the banks' own columns, b the intercept and o
what a network of the banks' own adds, which is not moved here; variables stand in the order a, w, b. Each term is
additive over customers, so the loss of several banks is the sum of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .onehot import OneHotMatrix

__all__ = ["CustomerLoss", "ProfiledLoss"]

# Log-odds that no intercept leaves; reached only if one outcome has no weight.
_INTERCEPT_LIMIT = 50.0
_INTERCEPT_STEPS = 100


@dataclass(frozen=True, slots=True, eq=False)
class CustomerLoss:
    """See the module.

    Attributes:
        labels: y, shape ``[c]``.
        weights: shape ``[c]``.
        directions: S, shape ``[c, t]``.
        matrix: X, shape ``[c, m]``.
        offsets: o, shape ``[c]``.
    """

    labels: NDArray[np.float64]
    weights: NDArray[np.float64]
    directions: NDArray[np.float64]
    matrix: OneHotMatrix
    offsets: NDArray[np.float64]

    def scores(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return s, shape ``[c]``."""
        count = self.directions.shape[1]
        scores: NDArray[np.float64] = (
            self.directions @ point[:count] + self.matrix.times(point[count:-1]) + point[-1] + self.offsets
        )
        return scores

    def value(self, point: NDArray[np.float64]) -> float:
        """Return f."""
        return float(self.values(point).sum())

    def values(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return every customer's term of f, shape ``[c]``."""
        scores = self.scores(point)
        values: NDArray[np.float64] = self.weights * (np.logaddexp(0.0, scores) - self.labels * scores)
        return values

    def residuals(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the derivative of every customer's term along its score, shape ``[c]``."""
        residuals: NDArray[np.float64] = self.weights * (expit(self.scores(point)) - self.labels)
        return residuals

    def gradient(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the gradient of f, shape ``[t + m + 1]``."""
        residual = self.residuals(point)
        return np.concatenate(
            [self.directions.T @ residual, self.matrix.transposed_times(residual), [residual.sum()]]
        )

    def hessian(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the Hessian of f, shape ``[t + m + 1, t + m + 1]``."""
        chance = expit(self.scores(point))
        curvature = self.weights * chance * (1.0 - chance)
        count, width = self.directions.shape[1], self.matrix.width
        dense = np.column_stack([self.directions, np.ones(len(curvature))])
        weighted = dense * curvature[:, None]
        mixed = np.empty((width, count + 1))
        for column in range(count + 1):
            mixed[:, column] = self.matrix.transposed_times(np.ascontiguousarray(weighted[:, column]))
        own = slice(count, count + width)
        outer = np.append(np.arange(count), count + width)
        hessian = np.empty((count + width + 1, count + width + 1))
        hessian[own, own] = self.matrix.gram(curvature)
        hessian[np.ix_(outer, outer)] = dense.T @ weighted
        hessian[own, outer] = mixed
        hessian[outer, own] = mixed.T
        return hessian


@dataclass(frozen=True, slots=True, eq=False)
class ProfiledLoss:
    """The loss of one bank whose intercept is its own affair: f(a, w) = min over b of the loss, over a and w alone.

    Its derivatives show a and w only: by the envelope theorem the gradient is that of the loss at the best b,
    and the Hessian the Schur complement of the intercept.
    """

    loss: CustomerLoss

    def intercept(self, point: NDArray[np.float64]) -> float:
        """Return the best b for a and w, within 50 log-odds: Newton's method, kept inside a shrinking bracket."""
        loss = self.loss
        offsets = loss.scores(np.append(point, 0.0))
        low, high, intercept = -_INTERCEPT_LIMIT, _INTERCEPT_LIMIT, 0.0
        for _ in range(_INTERCEPT_STEPS):
            chance = expit(offsets + intercept)
            slope = float(loss.weights @ (chance - loss.labels))
            if slope > 0.0:
                high = intercept
            else:
                low = intercept
            curvature = float(loss.weights @ (chance * (1.0 - chance)))
            moved = intercept - slope / curvature if curvature > 0.0 else low
            if not low < moved < high:
                moved = 0.5 * (low + high)
            if abs(moved - intercept) < 1e-13 * max(1.0, abs(intercept)):
                break
            intercept = moved
        return intercept

    def value(self, point: NDArray[np.float64]) -> float:
        """Return f."""
        return self.loss.value(np.append(point, self.intercept(point)))

    def gradient(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the gradient of f, shape ``[t + m]``."""
        return self.loss.gradient(np.append(point, self.intercept(point)))[:-1]

    def hessian(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the Hessian of f, shape ``[t + m, t + m]``."""
        full = self.loss.hessian(np.append(point, self.intercept(point)))
        edge = full[:-1, -1]
        reduced: NDArray[np.float64] = full[:-1, :-1] - np.outer(edge, edge) / max(full[-1, -1], 1e-300)
        return reduced
