"""What training minimises over a span of directions, own bins and, unless each bank has one, the intercept.

    f(a, z, b) = loss(a, T z, b) + 1/2 a^T Q a + 1/2 (T z)^T P (T z)

with Q the directions' penalty inner products, T the basis of the own cone (the identity without monotone
columns) and P the own penalty. The loss is one bank's (:mod:`.loss`) or that of several (:mod:`.pooled`).
Variables stand in the order a, z, b.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .newton import ConvexFunction

__all__ = ["SpanObjective"]


@dataclass(frozen=True, slots=True, eq=False)
class SpanObjective:
    """See the module.

    Attributes:
        loss: over a, w and, if it has one, b.
        direction_penalty: Q, shape ``[t, t]``.
        basis: T, shape ``[m, m]``.
        penalty: P, shape ``[m, m]``.
    """

    loss: ConvexFunction
    direction_penalty: NDArray[np.float64]
    basis: NDArray[np.float64]
    penalty: NDArray[np.float64]

    def plain(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the point with the weights w = T z themselves."""
        plain = point.copy()
        plain[self._own] = self.basis @ point[self._own]
        return plain

    def value(self, point: NDArray[np.float64]) -> float:
        """Return f."""
        plain = self.plain(point)
        coefficients, own = plain[: self._count], plain[self._own]
        return self.loss.value(plain) + 0.5 * float(
            coefficients @ self.direction_penalty @ coefficients + own @ self.penalty @ own
        )

    def gradient(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the gradient of f, as long as the point."""
        plain = self.plain(point)
        gradient = self.loss.gradient(plain).copy()
        gradient[: self._count] += self.direction_penalty @ plain[: self._count]
        gradient[self._own] = self.basis.T @ (gradient[self._own] + self.penalty @ plain[self._own])
        return gradient

    def hessian(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the Hessian of f, square."""
        hessian = self.loss.hessian(self.plain(point)).copy()
        hessian[: self._count, : self._count] += self.direction_penalty
        hessian[self._own, self._own] += self.penalty
        hessian[:, self._own] = hessian[:, self._own] @ self.basis
        hessian[self._own, :] = self.basis.T @ hessian[self._own, :]
        return hessian

    @property
    def _count(self) -> int:
        return len(self.direction_penalty)

    @property
    def _own(self) -> slice:
        return slice(self._count, self._count + len(self.basis))
