"""The figures of a validation report: how well each model ranks, how true its probabilities are, and how sure that is.

Everything is about held-out customers, who entered no gradient. Curves are drawn through groups of customers not smaller
than the contract's minimum cohort, so that a report that leaves the bank shows no single customer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import binom

from fedshare.credit.bootstrap import bootstrap_interval
from fedshare.credit.calibration import brier_parts, recalibrate
from fedshare.credit.delong import auc_difference, auc_estimate
from fedshare.credit.histogram import ScoreHistogram, cell_counts, merge_cells
from fedshare.credit.metrics import ks, lift, log_loss
from fedshare.credit.stability import stability_index
from fedshare.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedshare.credit.points import PointScale

__all__ = [
    "CONFIDENCE",
    "LIFT_SHARES",
    "Sample",
    "calibration_findings",
    "compare",
    "measure",
    "measure_histogram",
    "stability",
]

CONFIDENCE = 0.95
"""Of every interval in a report."""

LIFT_SHARES = (0.05, 0.1, 0.2)
"""The riskiest customers whose default rate is set against that of all."""

# How many standard errors a figure may be off by sampling.
_ERRORS = 2
_GRADES = 10
_BARS = 30


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The customers on which models are compared; every array has shape ``[n]``.

    Attributes:
        labels: 0 or 1.
        weights: above 0.
        scores: log-odds of default by model.
    """

    labels: NDArray[np.float64]
    weights: NDArray[np.float64]
    scores: Mapping[str, NDArray[np.float64]]


def measure(sample: Sample, model: str, scale: PointScale, minimum: int, seed: int) -> dict[str, Any]:
    """Return all figures of one model as JSON values.

    Args:
        sample: held-out customers.
        model: one of ``sample.scores``.
        scale: for the distribution of points.
        minimum: no group of a curve has fewer customers.
        seed: of the bootstrap; the same one gives the same interval.
    """
    labels, weights, scores = sample.labels, sample.weights, sample.scores[model]
    area = auc_estimate(labels, scores, weights, confidence=CONFIDENCE)
    low, high = bootstrap_interval(
        lambda rows: ks(labels[rows], scores[rows], weights[rows]),
        labels,
        np.random.default_rng(seed),
        resamples=200,
        confidence=CONFIDENCE,
    )
    fine = ScoreHistogram.of(labels, scores, weights, minimum=minimum)
    return {
        "auc": asdict(area),
        "gini": {"gini": 2 * area.auc - 1, "low": 2 * area.low - 1, "high": 2 * area.high - 1},
        "ks": {"ks": ks(labels, scores, weights), "low": float(low), "high": float(high)},
        "log_loss": log_loss(labels, scores, weights),
        "lift": {f"{share:.0%}": lift(labels, scores, weights, share=share) for share in LIFT_SHARES},
        "calibration": _calibration(labels, scores, weights),
        **_histogram_figures(fine, scale, minimum),
    }


def measure_histogram(histogram: ScoreHistogram, scale: PointScale, minimum: int) -> dict[str, Any]:
    """Return what a histogram, such as that of all banks, says of one model, as JSON values."""
    return {
        "customers": int(histogram.customers.sum()),
        "auc": asdict(histogram.auc()),
        "ks": asdict(histogram.ks()),
        **_histogram_figures(histogram, scale, minimum),
    }


def compare(sample: Sample, first: str, second: str) -> dict[str, Any]:
    """Return the paired test of two models' ranking (DeLong 1988) as JSON values."""
    difference = auc_difference(
        sample.labels, sample.scores[first], sample.scores[second], sample.weights, confidence=CONFIDENCE
    )
    return {"first": first, "second": second, **asdict(difference)}


def stability(training: NDArray[np.float64], holdout: NDArray[np.float64]) -> dict[str, Any] | None:
    """Return the PSI of the scores of training and held-out customers, over ten grades of training, as JSON values.

    ``None`` if the scores are all alike, as those of a bank without columns of its own are.
    """
    counts = cell_counts(training)
    groups = merge_cells(counts, max(1, len(training) // _GRADES))
    size = int(groups[-1]) + 1
    before, after = (np.bincount(groups, each, size) for each in (counts, cell_counts(holdout)))
    return None if size < 2 else asdict(stability_index(before, after, confidence=CONFIDENCE))


def calibration_findings(figures: Mapping[str, Any]) -> list[str]:
    """Return in words what is wrong with the probabilities of a model, beyond what sampling makes likely.

    Args:
        figures: of the model, as ``measure`` gave them.
    """
    found, fit, rates = [], figures["calibration"], figures["rates"]
    if fit is not None and abs(fit["slope"] - 1) > _ERRORS * fit["slope_error"]:
        extreme = "too" if fit["slope"] < 1 else "not"
        enough = "" if fit["slope"] < 1 else " enough"
        found.append(
            f"The scores are {extreme} extreme{enough}: calibration slope {fit['slope']:.2f} instead of 1."
        )
    if fit is not None and abs(fit["intercept"]) > _ERRORS * fit["intercept_error"]:
        more = "more" if fit["intercept"] > 0 else "less"
        found.append(
            f"Defaults are {more} frequent than predicted: {100 * rates['observed']:.2f} % of the held-out customers instead "
            f"of {100 * rates['predicted']:.2f} %; {fit['intercept']:+.2f} on the log-odds would correct the mean."
        )
    grades = figures["grades"]
    outside = sum(not grade["as_predicted"] for grade in grades)
    if binom.sf(outside - 1, len(grades), 1 - CONFIDENCE) < 1 - CONFIDENCE:
        found.append(
            f"In {outside} of {len(grades)} grades the predicted default rate is outside the interval of the observed one."
        )
    return found


def _calibration(
    labels: NDArray[np.float64], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> dict[str, float] | None:
    try:
        return asdict(recalibrate(labels, scores, weights))
    except DataError:  # scores that are all equal, or separate the outcomes, have no slope
        return None


def _histogram_figures(histogram: ScoreHistogram, scale: PointScale, minimum: int) -> dict[str, Any]:
    total = int(histogram.customers.sum())
    grades = _coarser(histogram, max(minimum, total // _GRADES))
    bars = _coarser(histogram, max(minimum, total // _BARS))
    good = histogram.weight - histogram.default_weight
    bad_first = np.append(0.0, np.cumsum(histogram.default_weight[::-1])) / histogram.default_weight.sum()
    good_first = np.append(0.0, np.cumsum(good[::-1])) / good.sum()
    customers = np.append(0.0, np.cumsum(histogram.weight[::-1])) / histogram.weight.sum()
    return {
        "brier": asdict(brier_parts(grades)),
        "rates": {
            "predicted": float(histogram.pd.sum() / histogram.weight.sum()),
            "observed": histogram.default_rate,
        },
        "roc": _pairs(good_first, bad_first),
        "gain": _pairs(customers, bad_first),
        "grades": _reliability(grades),
        "distribution": _densities(bars, scale),
    }


def _coarser(histogram: ScoreHistogram, minimum: int) -> ScoreHistogram:
    """Return the histogram with neighbouring groups joined to at least ``minimum`` customers each."""
    ends, held = [], 0
    for at, count in enumerate(histogram.customers.tolist()):
        held += count
        if held >= minimum:
            ends.append(at)
            held = 0
    # What is too little for a group of its own joins the last one.
    ends = [*ends[:-1], len(histogram.customers) - 1]
    starts = np.append(0, np.array(ends[:-1], dtype=np.int64) + 1)
    names = ("customers", "weight", "default_weight", "pd", "pd_squared", "pd_default", "odds")
    sums = {name: np.add.reduceat(getattr(histogram, name), starts) for name in names}
    return ScoreHistogram(upper=histogram.upper[ends], **sums)


def _reliability(grades: ScoreHistogram) -> list[dict[str, Any]]:
    """Return predicted and observed default rate of each grade, with Wilson's interval (Wilson 1927)."""
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    rows = []
    for at, count in enumerate(grades.customers.tolist()):
        rate = float(grades.default_weight[at] / grades.weight[at])
        middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
        reach = z / (1 + z * z / count) * np.sqrt(rate * (1 - rate) / count + (z / (2 * count)) ** 2)
        predicted = float(grades.pd[at] / grades.weight[at])
        low, high = max(0.0, float(middle - reach)), min(1.0, float(middle + reach))
        rows.append(
            {
                "customers": count,
                "predicted": predicted,
                "observed": rate,
                "low": low,
                "high": high,
                "as_predicted": low <= predicted <= high,
            }
        )
    return rows


def _densities(bars: ScoreHistogram, scale: PointScale) -> dict[str, list[float]]:
    """Return edges in points, ascending, and the share of each outcome per point between them."""
    upper = bars.upper.copy()
    if len(upper) == 1:  # nobody differs enough: one bar around the mean probability
        rate = float(bars.pd[0] / bars.weight[0])
        upper[0] = np.log(rate / (1 - rate)) - 1.0
    widths = np.diff(upper[:-1]) if len(upper) > 2 else np.array([1.0])
    lowest = upper[0] - 2 * float(widths[0])
    upper[-1] = (upper[-2] if len(upper) > 1 else lowest) + 2 * float(widths[-1])
    edges = scale.points(np.append(lowest, upper))[::-1]
    good = (bars.weight - bars.default_weight)[::-1]
    bad = bars.default_weight[::-1]
    return {
        "edges": edges.tolist(),
        "good": (good / good.sum() / np.diff(edges)).tolist(),
        "bad": (bad / bad.sum() / np.diff(edges)).tolist(),
    }


def _pairs(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[list[float]]:
    return [[float(a), float(b)] for a, b in zip(x, y, strict=True)]
