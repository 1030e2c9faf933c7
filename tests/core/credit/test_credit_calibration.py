"""Calibration against scikit-learn and known truths."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fedshare.credit.calibration import brier_parts, recalibrate
from fedshare.credit.histogram import ScoreHistogram
from fedshare.errors import DataError


def sample(slope=1.0, shift=0.0, n=3000, seed=4):
    generator = np.random.default_rng(seed)
    scores = generator.normal(-1.0, 1.5, n)
    labels = generator.random(n) < 1 / (1 + np.exp(-(slope * scores + shift)))
    return labels.astype(float), scores, generator.uniform(0.5, 1.0, n)


def test_the_slope_is_that_of_an_unpenalised_logistic_regression():
    labels, scores, weights = sample(slope=0.6)
    other = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(scores[:, None], labels, weights)
    assert recalibrate(labels, scores, weights).slope == pytest.approx(other.coef_[0, 0], abs=1e-5)


@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (0.5, 0.0), (1.0, 0.7)])
def test_the_truth_is_within_three_standard_errors(slope, shift):
    found = recalibrate(*sample(slope, shift))
    assert abs(found.slope - slope) < 3 * found.slope_error
    if slope == 1.0:
        assert abs(found.intercept - shift) < 3 * found.intercept_error


def test_the_intercept_makes_the_mean_probability_the_default_rate():
    labels, scores, weights = sample(shift=1.0)
    shifted = scores + recalibrate(labels, scores, weights).intercept
    assert weights @ (1 / (1 + np.exp(-shifted))) == pytest.approx(weights @ labels)


def test_murphys_parts_add_up_to_the_brier_score():
    labels, scores, weights = sample()
    parts = brier_parts(ScoreHistogram.of(labels, scores, weights, minimum=100))
    whole = weights @ (1 / (1 + np.exp(-scores)) - labels) ** 2 / weights.sum()
    assert parts.brier == pytest.approx(whole)
    assert parts.reliability - parts.resolution + parts.uncertainty + parts.within == pytest.approx(whole)


def test_groups_of_equal_probability_have_murphys_three_parts_only():
    scores = np.repeat([-2.0, -0.5, 1.0], 50)
    labels = np.tile([0.0, 0.0, 1.0, 0.0, 1.0], 30)
    parts = brier_parts(ScoreHistogram.of(labels, scores, minimum=1))
    assert parts.within == pytest.approx(0.0, abs=1e-12)
    assert parts.uncertainty == pytest.approx(0.4 * 0.6)
    assert parts.resolution == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("scores", [[-2.0, -1.0, 1.0, 2.0], [0.5, 0.5, 0.5, 0.5]])
def test_scores_without_a_best_slope_are_refused(scores):
    with pytest.raises(DataError, match="no calibration slope"):
        recalibrate([0, 0, 1, 1], scores)
