"""How sure an AUC is, and whether one model ranks the same customers better than another.

DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating characteristic
curves", Biometrics 44 (1988), in the fast form of Sun and Xu, IEEE Signal Processing Letters 21 (2014): the placement of
every customer among those of the other outcome follows from two sorts. Weights enter as in a weighted U statistic; with
equal weights the formulas are those of the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from fedshare.errors import DataError

from .metrics import checked_sample

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["AucDifference", "AucEstimate", "auc_difference", "auc_estimate"]

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class AucEstimate:
    """An AUC with its uncertainty.

    Attributes:
        auc: the estimate.
        standard_error: of the estimate.
        low: lower end of the confidence interval, which is symmetric in the log-odds of the AUC.
        high: upper end.
    """

    auc: float
    standard_error: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class AucDifference:
    """The AUC of one model less that of another on the same customers.

    Attributes:
        difference: first less second.
        standard_error: of the difference.
        low: lower end of the confidence interval.
        high: upper end.
        p_value: two-sided, of the hypothesis that the two rank equally well; 1 if the scores rank alike.
    """

    difference: float
    standard_error: float
    low: float
    high: float
    p_value: float


def auc_estimate(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, *, confidence: float = 0.95
) -> AucEstimate:
    """Return the AUC with its interval.

    Args:
        labels: 0 or 1, shape ``[n]``.
        scores: finite log-odds, shape ``[n]``.
        weights: at least 0, shape ``[n]``; all 1 if not given.
        confidence: of the interval, between 0 and 1.

    Raises:
        DataError: as ``metrics.roc_points``, or an outcome has fewer than two customers with weight.
    """
    bad, good, bad_weight, good_weight = _placements(labels, scores, weights)
    area = float(bad_weight @ bad)
    error = math.sqrt(_variance(bad, bad_weight) + _variance(good, good_weight))
    if error == 0.0 or area in (0.0, 1.0):
        return AucEstimate(area, error, area, area)
    middle = math.log(area / (1 - area))
    reach = _quantile(confidence) * error / (area * (1 - area))
    return AucEstimate(area, error, _expit(middle - reach), _expit(middle + reach))


def auc_difference(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
) -> AucDifference:
    """Return the paired comparison of two models' scores; arguments and errors as in ``auc_estimate``."""
    bad, good, bad_weight, good_weight = _placements(labels, first, weights)
    other_bad, other_good, _, _ = _placements(labels, second, weights)
    bad, good = bad - other_bad, good - other_good
    difference = float(bad_weight @ bad)
    error = math.sqrt(_variance(bad, bad_weight) + _variance(good, good_weight))
    if error == 0.0:
        return AucDifference(difference, error, difference, difference, 1.0 if difference == 0.0 else 0.0)
    reach = _quantile(confidence) * error
    p_value = 2.0 * _NORMAL.cdf(-abs(difference) / error)
    return AucDifference(difference, error, difference - reach, difference + reach, p_value)


def _placements(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the placements of defaulters and of others, and both sides' weights, which sum to one.

    A defaulter's placement is the weighted share of others below it; that of another, the share of defaulters above.
    """
    outcome, score, weight = checked_sample(labels, scores, weights)
    is_bad, is_good = (outcome == 1) & (weight > 0), (outcome == 0) & (weight > 0)
    if np.count_nonzero(is_bad) < 2 or np.count_nonzero(is_good) < 2:
        raise DataError("an AUC's uncertainty needs at least two customers of each outcome, 0 and 1")
    bad_weight = weight[is_bad] / weight[is_bad].sum()
    good_weight = weight[is_good] / weight[is_good].sum()
    bad = _share_below(score[is_bad], score[is_good], good_weight)
    good = 1.0 - _share_below(score[is_good], score[is_bad], bad_weight)
    return bad, good, bad_weight, good_weight


def _share_below(
    values: NDArray[np.float64], others: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return, for each value, the weight of the others below it, ties counting one half."""
    order = np.argsort(others)
    total = np.append(0.0, np.cumsum(weights[order]))
    below = total[np.searchsorted(others[order], values, side="left")]
    up_to = total[np.searchsorted(others[order], values, side="right")]
    share: NDArray[np.float64] = (below + up_to) / 2.0
    return share


def _variance(placements: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the variance of the weighted mean of placements."""
    count = len(placements)
    deviations = weights * (placements - weights @ placements)
    return float(deviations @ deviations) * count / (count - 1)


def _quantile(confidence: float) -> float:
    return _NORMAL.inv_cdf(0.5 + confidence / 2.0)


def _expit(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))
