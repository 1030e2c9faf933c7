"""How well scores rank and predict a binary outcome: AUC, KS, Gini, lift, log loss, ROC and gain curves.

All take weights and are exact with ties: customers with the same score are one step of the ROC curve, so AUC
counts such a pair as one half. Scores are log-odds of default; any increasing function of them gives the
same AUC, Gini and KS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedshare.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["auc", "checked_sample", "gain_points", "gini", "ks", "lift", "log_loss", "roc_points"]


def roc_points(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return false and true positive rates, one point per distinct score from the highest down, after (0, 0).

    Args:
        labels: 0 or 1, shape ``[n]``.
        scores: finite log-odds, shape ``[n]``.
        weights: at least 0, shape ``[n]``; all 1 if not given.

    Raises:
        DataError: a label is not 0 or 1, a score or weight is not finite, a weight is negative, the lengths
            differ, or either outcome has no weight.
    """
    positive, negative = _ranked(labels, scores, weights)
    return negative / negative[-1], positive / positive[-1]


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the chance that a random defaulter scores above a random other, ties counting one half.

    Arguments and errors as in ``roc_points``.
    """
    false_rate, true_rate = roc_points(labels, scores, weights)
    return float(np.trapezoid(true_rate, false_rate))


def gini(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return 2 AUC - 1; arguments and errors as in ``roc_points``."""
    return 2.0 * auc(labels, scores, weights) - 1.0


def ks(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the largest distance between the score distributions of the two outcomes.

    Two-sided: a ranking that is upside down has a large KS too. Arguments and errors as in ``roc_points``.
    """
    false_rate, true_rate = roc_points(labels, scores, weights)
    return float(np.abs(true_rate - false_rate).max())


def gain_points(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return which share of customers, riskiest first, holds which share of the defaulters: the gain curve.

    One point per distinct score, after (0, 0); arguments and errors as in ``roc_points``.
    """
    positive, negative = _ranked(labels, scores, weights)
    everyone = positive + negative
    return everyone / everyone[-1], positive / positive[-1]


def lift(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, *, share: float = 0.1
) -> float:
    """Return the default rate among the riskiest ``share`` of customers over that of all, ties taken in part.

    Arguments and errors as in ``roc_points``.
    """
    customers, defaulters = gain_points(labels, scores, weights)
    return float(np.interp(share, customers, defaulters)) / share


def log_loss(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the weighted mean of -log P(outcome), in nats, for log-odds ``scores``.

    Arguments as in ``roc_points``; one outcome alone is allowed.

    Raises:
        DataError: as in ``roc_points``, or the weights sum to zero.
    """
    outcome, score, weight = checked_sample(labels, scores, weights)
    total = float(weight.sum())
    if total <= 0:
        raise DataError("the weights sum to zero; a mean loss needs at least one weighted customer")
    return float(weight @ (np.logaddexp(0.0, score) - outcome * score)) / total


def _ranked(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weight of defaulters and of others down to each distinct score, from the highest, after 0."""
    outcome, score, weight = checked_sample(labels, scores, weights)
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    positive = np.cumsum((weight * outcome)[order])[last_of_tie]
    negative = np.cumsum((weight * (1.0 - outcome))[order])[last_of_tie]
    if not (positive.size and positive[-1] > 0 and negative[-1] > 0):
        raise DataError("both outcomes, 0 and 1, are needed to measure a ranking; found one")
    return np.append(0.0, positive), np.append(0.0, negative)


def checked_sample(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return outcome, score and weight as float64 vectors of one length; errors as in ``roc_points``."""
    outcome = np.asarray(labels, dtype=np.float64)
    score = np.asarray(scores, dtype=np.float64)
    weight = np.ones_like(score) if weights is None else np.asarray(weights, dtype=np.float64)
    if outcome.ndim != 1 or outcome.shape != score.shape or outcome.shape != weight.shape:
        raise DataError(
            "labels, scores and weights must be vectors of one length; found shapes "
            f"{outcome.shape}, {score.shape} and {weight.shape}"
        )
    if not ((outcome == 0) | (outcome == 1)).all():
        raise DataError("a label must be 0 or 1")
    if not (np.isfinite(score).all() and np.isfinite(weight).all() and (weight >= 0).all()):
        raise DataError("scores must be finite, and weights finite and not negative")
    return outcome, score, weight
