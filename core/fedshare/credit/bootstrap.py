"""The uncertainty of any figure of a sample, by resampling its customers (Efron and Tibshirani, 1993, chapter 13)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedshare.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["bootstrap_interval"]


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], float | Sequence[float]],
    labels: NDArray[np.float64],
    generator: np.random.Generator,
    *,
    resamples: int = 500,
    confidence: float = 0.95,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both ends of the percentile interval of a statistic, each of the statistic's own shape.

    Customers are drawn with replacement within each outcome, so that both are in every resample.

    Args:
        statistic: takes row numbers, shape ``[n]``, and returns the figure, or several, of these rows.
        labels: 0 or 1, shape ``[n]``.
        generator: draws the rows; the same state gives the same interval.
        resamples: how many, at least 100.
        confidence: of the interval.

    Raises:
        ParameterError: there are fewer than 100 resamples, or the confidence is not between 0 and 1.
    """
    if resamples < 100 or not 0 < confidence < 1:
        raise ParameterError(
            f"an interval needs 100 resamples or more and a confidence in (0, 1), found {resamples}"
        )
    strata = [np.flatnonzero(labels == outcome) for outcome in (0, 1)]
    figures = [
        statistic(np.concatenate([generator.choice(each, len(each)) for each in strata if len(each)]))
        for _ in range(resamples)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.array(figures, dtype=np.float64), [tail, 1 - tail], axis=0)
    return low, high
