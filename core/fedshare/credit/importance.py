"""How much of a scorecard's spread each column makes: what is important, in log-odds, without outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .points import neutral_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["column_spread"]


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
