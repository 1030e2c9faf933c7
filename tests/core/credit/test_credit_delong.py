"""DeLong's variance against the definition, pair by pair, and against what repeated samples show."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fedshare.credit.delong import auc_difference, auc_estimate
from fedshare.errors import DataError


def by_definition(labels, scores):
    """Return the AUC and the placements of DeLong (1988), equations 4 and 5, from the matrix of all pairs."""
    bad, good = scores[labels == 1], scores[labels == 0]
    wins = (bad[:, None] > good[None, :]) + 0.5 * (bad[:, None] == good[None, :])
    return wins.mean(), wins.mean(axis=1), wins.mean(axis=0)


samples = st.integers(0, 100_000).map(np.random.default_rng)


def draw(generator, n=60):
    labels = np.append([0, 0, 1, 1], generator.integers(0, 2, n - 4)).astype(float)
    return labels, generator.integers(-4, 5, n) + labels, generator.integers(-4, 5, n) + 0.5 * labels


@given(samples)
def test_the_variance_is_that_of_the_definition_ties_included(generator):
    labels, scores, _ = draw(generator)
    area, bad, good = by_definition(labels, scores)
    estimate = auc_estimate(labels, scores)
    assert estimate.auc == pytest.approx(area)
    assert estimate.auc == pytest.approx(roc_auc_score(labels, scores))
    expected = bad.var(ddof=1) / len(bad) + good.var(ddof=1) / len(good)
    assert estimate.standard_error**2 == pytest.approx(expected)
    assert estimate.low <= estimate.auc <= estimate.high


@given(samples)
def test_the_paired_variance_holds_the_covariance_of_the_definition(generator):
    labels, first, second = draw(generator)
    (_, bad_1, good_1), (_, bad_2, good_2) = by_definition(labels, first), by_definition(labels, second)
    variance = sum(
        np.cov(a, b)[0, 0] / len(a) + np.cov(a, b)[1, 1] / len(a) - 2 * np.cov(a, b)[0, 1] / len(a)
        for a, b in ((bad_1, bad_2), (good_1, good_2))
    )
    found = auc_difference(labels, first, second)
    assert found.standard_error**2 == pytest.approx(variance, abs=1e-12)
    assert found.difference == pytest.approx(
        auc_estimate(labels, first).auc - auc_estimate(labels, second).auc
    )


@given(samples, st.floats(0.1, 10))
def test_equal_weights_are_no_weights(generator, weight):
    labels, scores, _ = draw(generator)
    weighted = auc_estimate(labels, scores, np.full(len(labels), weight))
    assert weighted.standard_error == pytest.approx(auc_estimate(labels, scores).standard_error)


def test_scores_that_rank_alike_do_not_differ():
    labels, scores, _ = draw(np.random.default_rng(1))
    found = auc_difference(labels, scores, 3 * scores + 1)
    assert (found.difference, found.standard_error, found.p_value) == (0.0, 0.0, 1.0)


def test_the_intervals_hold_the_truth_as_often_as_they_say():
    # 400 samples, seed 11: at 95 % the number outside is binomial, mean 20; 8 to 36 holds it with probability 0.9995.
    generator, outside = np.random.default_rng(11), 0
    truth = 0.7602499389065233  # Phi(1 / sqrt(2)): the AUC of normal scores one standard deviation apart
    for _ in range(400):
        labels = np.repeat([0.0, 1.0], 80)
        estimate = auc_estimate(labels, generator.normal(labels, 1.0))
        outside += not estimate.low <= truth <= estimate.high
    assert 8 <= outside <= 36


def test_the_paired_test_rejects_equal_models_as_rarely_as_it_says():
    # 400 samples, seed 12: rejections at 5 % are binomial, mean 20; 8 to 36 holds them with probability 0.9995.
    generator, rejected = np.random.default_rng(12), 0
    for _ in range(400):
        labels = np.repeat([0.0, 1.0], 80)
        common = generator.normal(labels, 1.0)
        first, second = common + generator.normal(0, 0.5, 160), common + generator.normal(0, 0.5, 160)
        rejected += auc_difference(labels, first, second).p_value < 0.05
    assert 8 <= rejected <= 36


def test_one_defaulter_is_too_few():
    with pytest.raises(DataError, match="two customers of each outcome"):
        auc_estimate([0, 0, 1], [0, 1, 2])
