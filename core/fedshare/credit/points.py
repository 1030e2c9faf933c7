"""Log-odds as the points that a credit officer reads, bin by bin.

A scale is fixed by three numbers (Siddiqi, "Credit Risk Scorecards", 2006, chapter 6): at ``base_points`` the odds of a
good outcome are ``base_odds`` to 1, and every ``pdo`` points more double them. Points fall as risk rises.

    >>> scale = PointScale(pdo=20, base_points=600, base_odds=50)
    >>> scale.points(-math.log(50))
    array(600.)
    >>> scale.base(model.intercept) + scale.bin_points(weights)[design.codes].sum(axis=1)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedshare.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["PointScale", "neutral_weights"]


@dataclass(frozen=True, slots=True)
class PointScale:
    """What a point is worth.

    Attributes:
        pdo: points that double the odds, above 0.
        base_points: points at ``base_odds``.
        base_odds: good to bad, above 0.
    """

    pdo: float
    base_points: float
    base_odds: float

    def __post_init__(self) -> None:
        """Refuse a scale on which points mean nothing."""
        numbers = (self.pdo, self.base_points, self.base_odds)
        if not all(math.isfinite(each) for each in numbers) or self.pdo <= 0 or self.base_odds <= 0:
            raise ParameterError("points need a pdo and base_odds above 0, and finite base_points")

    @property
    def factor(self) -> float:
        """Points per unit of log-odds."""
        return self.pdo / math.log(2.0)

    def points(self, log_odds: ArrayLike) -> NDArray[np.float64]:
        """Return the exact points of log-odds of default, not rounded, of the same shape."""
        good = -np.asarray(log_odds, dtype=np.float64)
        return self.base_points + self.factor * (good - math.log(self.base_odds))

    def log_odds(self, points: ArrayLike) -> NDArray[np.float64]:
        """Return the log-odds of default of points; the inverse of ``points``."""
        above = np.asarray(points, dtype=np.float64) - self.base_points
        return -(above / self.factor + math.log(self.base_odds))

    def bin_points(self, weights: ArrayLike) -> NDArray[np.int64]:
        """Return whole points for each bin's weight (log-odds of default), so that each holder rounds its own."""
        return np.rint(-self.factor * np.asarray(weights, dtype=np.float64)).astype(np.int64)

    def base(self, intercept: float) -> int:
        """Return the whole points that every customer starts from."""
        return int(np.rint(self.points(intercept)))

    def rounding_bound(self, columns: int) -> float:
        """Return how far, in log-odds, ``base`` plus the points of one bin per column can be from the model.

        Each of the ``columns + 1`` roundings moves at most half a point. A total that is rounded once, as scoring
        does, is ``rounding_bound(0)`` away at most.
        """
        return (columns + 1) / (2.0 * self.factor)


def neutral_weights(
    weights: NDArray[np.float64], counts: NDArray[np.float64], offsets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the mean weight of each column over the training customers, shape ``[F]``.

    Args:
        weights: of every bin, log-odds of default, shape ``[m]``.
        counts: training customers per bin, shape ``[m]``; every column's sum is above 0.
        offsets: first bin of each column and ``m`` at the end (``Design.offsets``), shape ``[F + 1]``.

    Raises:
        ParameterError: shapes differ, or a column has no customers.
    """
    if not weights.shape == counts.shape == (offsets[-1],):
        raise ParameterError(
            f"expected {offsets[-1]} weights and counts, found {weights.shape} and {counts.shape}"
        )
    totals = np.add.reduceat(counts, offsets[:-1])
    if not (totals > 0).all():
        raise ParameterError("a column without customers has no neutral weight")
    neutral: NDArray[np.float64] = np.add.reduceat(weights * counts, offsets[:-1]) / totals
    return neutral
