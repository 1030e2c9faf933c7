"""What is important in a score: the spread that each column makes, and what each group of columns adds to the ranking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .metrics import auc
from .points import neutral_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["GroupImportance", "column_spread", "group_importance"]


@dataclass(frozen=True, slots=True)
class GroupImportance:
    """What one group of columns adds to a score, over some customers.

    Attributes:
        spread: standard deviation of its part, in log-odds.
        share: of the variance of the score; the shares of all groups sum to 1. Below 0 where it works against the others.
        auc_alone: of its part by itself.
        auc_lost: by how much the AUC of the score falls when its part is left out, the other weights as they are.
    """

    spread: float
    share: float
    auc_alone: float
    auc_lost: float


def column_spread(
    weights: NDArray[np.float64], counts: NDArray[np.float64], offsets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the standard deviation of each column's weight over the training customers, shape ``[F]``.

    Arguments and errors as in ``points.neutral_weights``.
    """
    neutral = neutral_weights(weights, counts, offsets)
    deviations = weights - np.repeat(neutral, np.diff(offsets))
    variance = np.add.reduceat(deviations**2 * counts, offsets[:-1]) / np.add.reduceat(counts, offsets[:-1])
    return np.sqrt(variance)


def group_importance(
    labels: NDArray[np.float64], parts: Mapping[str, NDArray[np.float64]], weights: NDArray[np.float64]
) -> dict[str, GroupImportance]:
    """Return the importance of each of the ``parts`` of a score, which is their sum and not the same for everyone.

    Args:
        labels: 0 or 1, shape ``[n]``.
        parts: log-odds by group, each of shape ``[n]``.
        weights: above 0, shape ``[n]``.

    Raises:
        DataError: as ``metrics.auc``.
    """
    score = np.sum(list(parts.values()), axis=0)
    whole = auc(labels, score, weights)

    def covariance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
        first_mean, second_mean = np.average(first, weights=weights), np.average(second, weights=weights)
        return float(np.average((first - first_mean) * (second - second_mean), weights=weights))

    return {
        name: GroupImportance(
            spread=covariance(part, part) ** 0.5,
            share=covariance(part, score) / covariance(score, score),
            auc_alone=auc(labels, part, weights),
            auc_lost=whole - auc(labels, score - part, weights),
        )
        for name, part in parts.items()
    }
