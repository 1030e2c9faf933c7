"""Whether predicted default probabilities are true: slope and intercept, reliability by group, the Brier score in parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from fedshare.errors import DataError

from .metrics import checked_sample

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from .histogram import ScoreHistogram

__all__ = ["BrierParts", "Recalibration", "brier_parts", "recalibrate"]

_MAX_STEPS = 100
_NO_SLOPE = "no calibration slope fits best: the scores separate the outcomes, or are all equal"


@dataclass(frozen=True, slots=True)
class Recalibration:
    """The logistic regression of the outcome on the log-odds (Cox, "Two further applications ...", Biometrika 45, 1958).

    Attributes:
        slope: 1 if scores spread as they should; below 1 they are too extreme, as an overfitted model's are.
        slope_error: its standard error.
        intercept: what to add to the log-odds as they are, slope 1, so that the mean probability is the default rate;
            above 0, defaults are more frequent than predicted.
        intercept_error: its standard error.
    """

    slope: float
    slope_error: float
    intercept: float
    intercept_error: float


@dataclass(frozen=True, slots=True)
class BrierParts:
    """The Brier score in parts (Murphy, "A new vector partition of the probability score", J. Appl. Meteorology 12, 1973).

    ``brier = reliability - resolution + uncertainty + within``; ``within`` is what Murphy's groups of equal probability do
    not have: the spread of probabilities inside a group.
    """

    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float


def recalibrate(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> Recalibration:
    """Return slope and intercept of the scores.

    Args:
        labels: 0 or 1, shape ``[n]``.
        scores: log-odds of default, shape ``[n]``.
        weights: at least 0, shape ``[n]``; all 1 if not given.

    Raises:
        DataError: as ``metrics.roc_points``, or scores separate the outcomes or are all equal, so that no slope fits best.
    """
    outcome, score, weight = checked_sample(labels, scores, weights)
    bad, good = (score[(outcome == each) & (weight > 0)] for each in (1, 0))
    if not (bad.size and good.size and bad.max() > good.min() and good.max() > bad.min()):
        raise DataError(_NO_SLOPE)
    ones = np.ones_like(score)
    alone, alone_error = _fit(ones[:, None], score, outcome, weight)
    both, both_error = _fit(np.column_stack([score, ones]), np.zeros_like(score), outcome, weight)
    return Recalibration(float(both[0]), float(both_error[0]), float(alone[0]), float(alone_error[0]))


def brier_parts(histogram: ScoreHistogram) -> BrierParts:
    """Return the Brier score and its parts over the histogram's groups."""
    total = float(histogram.weight.sum())
    predicted, observed = histogram.pd / histogram.weight, histogram.default_weight / histogram.weight
    share, rate = histogram.weight / total, histogram.default_rate
    reliability = float(share @ (predicted - observed) ** 2)
    resolution = float(share @ (observed - rate) ** 2)
    uncertainty, brier = rate * (1 - rate), histogram.brier()
    return BrierParts(
        brier, reliability, resolution, uncertainty, brier - reliability + resolution - uncertainty
    )


def _fit(
    design: NDArray[np.float64],
    offset: NDArray[np.float64],
    outcome: NDArray[np.float64],
    weight: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weighted maximum likelihood coefficients and standard errors, by Newton's method with halving."""
    current = np.zeros(design.shape[1])

    def loss(coefficients: NDArray[np.float64]) -> float:
        linear = design @ coefficients + offset
        return float(weight @ (np.logaddexp(0.0, linear) - outcome * linear))

    for _ in range(_MAX_STEPS):
        p = expit(design @ current + offset)
        gradient = design.T @ (weight * (p - outcome))
        curvature = design.T @ (design * (weight * p * (1 - p))[:, None])
        if not np.linalg.cond(curvature) < 1e12:
            break
        step = np.linalg.solve(curvature, gradient)
        if float(step @ gradient) <= 1e-12 * max(1.0, float(weight.sum())):
            return current, np.sqrt(np.diag(np.linalg.inv(curvature)))
        size, before = 1.0, loss(current)
        while loss(current - size * step) > before and size > 1e-6:
            size /= 2.0
        current = current - size * step
    raise DataError(_NO_SLOPE)
