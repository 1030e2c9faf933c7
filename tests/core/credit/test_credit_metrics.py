"""Metrics against pair counting and enumeration."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import assume, given
from hypothesis import strategies as st

from fedshare.credit.metrics import auc, gain_points, gini, ks, lift, log_loss, roc_points
from fedshare.errors import DataError

rows = st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(0, 4)), min_size=2, max_size=25)


def weighted(sample):
    labels, scores, weights = (np.array(part, dtype=float) for part in zip(*sample, strict=True))
    assume((weights * labels).sum() > 0)
    assume((weights * (1 - labels)).sum() > 0)
    return labels, scores, weights


@given(rows)
def test_auc_counts_weighted_pairs_and_ties_one_half(sample):
    y, s, w = weighted(sample)
    pairs = np.outer(w * y, w * (1 - y))
    wins = (s[:, None] > s[None, :]) + 0.5 * (s[:, None] == s[None, :])
    assert auc(y, s, w) == pytest.approx((pairs * wins).sum() / pairs.sum())
    assert gini(y, s, w) == pytest.approx(2 * auc(y, s, w) - 1)


@given(rows)
def test_ks_is_the_largest_distance_over_all_cut_offs(sample):
    y, s, w = weighted(sample)
    gaps = [
        abs((w * y)[s >= cut].sum() / (w * y).sum() - (w * (1 - y))[s >= cut].sum() / (w * (1 - y)).sum())
        for cut in s
    ]
    assert ks(y, s, w) == pytest.approx(max(gaps))


@given(rows)
def test_roc_points_rise_from_nothing_to_everything(sample):
    false_rate, true_rate = roc_points(*weighted(sample))
    assert (np.diff(false_rate) >= 0).all()
    assert (np.diff(true_rate) >= 0).all()
    assert (false_rate[0], true_rate[0], false_rate[-1], true_rate[-1]) == (0, 0, 1, 1)


def test_log_loss_is_the_mean_surprise_and_survives_extreme_scores():
    assert log_loss([0, 1], [0.0, 0.0]) == pytest.approx(np.log(2))
    assert log_loss([1], [-1000.0]) == pytest.approx(1000.0)


@pytest.mark.parametrize(
    ("labels", "scores", "weights"),
    [([0, 2], [0, 1], None), ([1, 1], [0, 1], None), ([0, 1], [0, np.nan], None), ([0, 1], [0, 1], [1, -1])],
)
def test_what_cannot_be_ranked_is_refused(labels, scores, weights):
    with pytest.raises(DataError):
        auc(labels, scores, weights)


@given(rows)
def test_the_gain_curve_says_how_many_defaulters_the_riskiest_hold(sample):
    y, s, w = weighted(sample)
    customers, defaulters = gain_points(y, s, w)
    for cut in s:
        share = w[s >= cut].sum() / w.sum()
        assert np.isclose(np.interp(share, customers, defaulters), (w * y)[s >= cut].sum() / (w * y).sum())


def test_lift_is_the_default_rate_at_the_top_over_that_of_all():
    labels = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert lift(labels, range(10, 0, -1), share=0.2) == pytest.approx(5.0)
    assert lift(labels, [0] * 10, share=0.2) == pytest.approx(1.0)


def test_curves_and_areas_are_those_of_scikit_learn():
    generator = np.random.default_rng(6)
    labels, scores, weights = (
        generator.integers(0, 2, 500),
        generator.normal(0, 1, 500).round(1),
        generator.random(500),
    )
    false_rate, true_rate, _ = sklearn.metrics.roc_curve(
        labels, scores, sample_weight=weights, drop_intermediate=False
    )
    np.testing.assert_allclose(roc_points(labels, scores, weights), (false_rate, true_rate), atol=1e-12)
    assert auc(labels, scores, weights) == pytest.approx(
        sklearn.metrics.roc_auc_score(labels, scores, sample_weight=weights)
    )
    probability = 1 / (1 + np.exp(-scores))
    assert log_loss(labels, scores, weights) == pytest.approx(
        sklearn.metrics.log_loss(labels, probability, sample_weight=weights)
    )
