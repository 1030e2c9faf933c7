"""Whether a population still looks like the one a model was made on: PSI of scores, CSI of a column's bins.

The population stability index is the symmetric Kullback-Leibler divergence of two binned samples. Without any change
its expectation is not zero: with B bins and N and M customers, PSI divided by (1/N + 1/M) is about chi-squared with B - 1
degrees of freedom (Yurdakul and Naranjo, "Statistical properties of the population stability index", J. Risk Model
Validation 14, 2020). So a PSI is read against what sampling alone produces before the usual thresholds mean anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from scipy.special import chdtri

from fedshare.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["MODERATE", "SEVERE", "Stability", "stability_index"]

MODERATE: Final = 0.10
SEVERE: Final = 0.25
"""The thresholds in common use (Siddiqi, 2006, chapter 10)."""


@dataclass(frozen=True, slots=True)
class Stability:
    """A stability index and what it says.

    Attributes:
        index: PSI or CSI, from 0.
        by_chance: what sampling alone exceeds with a probability of 1 - confidence.
        verdict: ``stable`` up to ``by_chance`` or below 0.10, ``moderate`` below 0.25, else ``shifted``.
    """

    index: float
    by_chance: float
    verdict: Literal["stable", "moderate", "shifted"]


def stability_index(expected: ArrayLike, actual: ArrayLike, *, confidence: float = 0.95) -> Stability:
    """Return the index of two samples over the same bins.

    Half a customer is added to every bin, so that an empty one leaves the index finite.

    Args:
        expected: customers per bin when the model was made, shape ``[B]``.
        actual: customers per bin now, shape ``[B]``.
        confidence: of ``by_chance``.

    Raises:
        DataError: fewer than two bins, differing shapes, a negative count, or no customers in a sample.
    """
    before, after = np.asarray(expected, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    if before.ndim != 1 or before.shape != after.shape or len(before) < 2:
        raise DataError(
            f"expected the same two or more bins in both samples, found {before.shape} and {after.shape}"
        )
    if not (min(before.min(), after.min()) >= 0 and min(before.sum(), after.sum()) > 0):
        raise DataError("expected counts of at least 0, and customers in both samples")
    bins = len(before)
    p = (before + 0.5) / (before.sum() + 0.5 * bins)
    q = (after + 0.5) / (after.sum() + 0.5 * bins)
    index = float((p - q) @ np.log(p / q))
    by_chance = float(chdtri(bins - 1, 1.0 - confidence)) * (1.0 / before.sum() + 1.0 / after.sum())
    if index <= by_chance or index < MODERATE:
        return Stability(index, by_chance, "stable")
    return Stability(index, by_chance, "moderate" if index < SEVERE else "shifted")
