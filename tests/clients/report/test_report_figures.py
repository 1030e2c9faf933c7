"""Groups, intervals and densities of a report."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare.credit.histogram import ScoreHistogram
from fedshare.credit.points import PointScale
from fedshare_clients.node.report.figures import (
    Sample,
    _coarser,
    _densities,
    _reliability,
    calibration_findings,
    measure,
    measure_histogram,
    stability,
)
from fedshare_clients.node.report.triangle import percent

SCALE = PointScale(pdo=20, base_points=600, base_odds=50)


def histogram(seed, n=300, minimum=5):
    draw = np.random.default_rng(seed)
    scores = draw.normal(-1, 2, n)
    labels = np.append([0.0, 1.0], (draw.random(n - 2) < 1 / (1 + np.exp(-scores[2:]))).astype(float))
    return ScoreHistogram.of(labels, scores, minimum=minimum)


@given(st.integers(0, 10_000), st.integers(5, 300))
def test_joined_groups_keep_every_sum_and_reach_the_minimum(seed, minimum):
    fine = histogram(seed)
    coarse = _coarser(fine, minimum)
    assert coarse.customers.min() >= minimum
    assert coarse.upper[-1] == np.inf
    assert set(coarse.upper) <= set(fine.upper)
    for name in ("customers", "weight", "default_weight", "pd", "odds"):
        assert getattr(coarse, name).sum() == pytest.approx(getattr(fine, name).sum())
    assert coarse.brier() == pytest.approx(fine.brier())


def test_the_interval_of_a_grade_is_wilsons():
    # Five of ten at 95 %: 0.5 less and plus 0.2634, worked by hand from the formula (Wilson, JASA 22, 1927).
    (grade,) = _reliability(ScoreHistogram.of([0, 1] * 5, [0.0] * 10, minimum=10))
    assert (grade["observed"], grade["predicted"]) == (0.5, 0.5)
    assert (grade["low"], grade["high"]) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))


@given(st.integers(0, 10_000), st.integers(5, 150))
def test_densities_of_points_integrate_to_one(seed, minimum):
    drawn = _densities(_coarser(histogram(seed), minimum), SCALE)
    widths = np.diff(drawn["edges"])
    assert (widths > 0).all()
    for outcome in ("good", "bad"):
        assert widths @ np.array(drawn[outcome]) == pytest.approx(1.0)


def test_curves_run_from_nothing_to_everything():
    figures = measure_histogram(histogram(3), SCALE, 5)
    for curve in ("roc", "gain"):
        points = np.array(figures[curve])
        assert points[0].tolist() == [0, 0]
        assert points[-1] == pytest.approx([1, 1])
        assert (np.diff(points, axis=0) >= 0).all()


def test_scores_that_are_all_alike_have_no_stability_index():
    assert stability(np.zeros(50), np.zeros(20)) is None
    assert stability(np.linspace(-2, 2, 500), np.linspace(-2, 2, 300))["verdict"] == "stable"
    assert stability(np.linspace(-2, 2, 500), np.linspace(1, 3, 300))["verdict"] == "shifted"


def findings(change):
    """What is found where ``change`` of the true log-odds of 4,000 customers is reported, seed 6."""
    draw = np.random.default_rng(6)
    truth = draw.normal(-1, 1, 4000)
    labels = (draw.random(4000) < 1 / (1 + np.exp(-truth))).astype(float)
    sample = Sample(labels, np.ones(4000), {"federated": change(truth)})
    return " ".join(calibration_findings(measure(sample, "federated", SCALE, 30, 1)))


def test_nothing_is_said_about_true_probabilities():
    assert findings(lambda truth: truth) == ""


def test_scores_that_spread_too_much_or_too_little_are_named():
    assert "The scores are too extreme: calibration slope 0.4" in findings(lambda truth: 2 * truth)
    assert "The scores are not extreme enough: calibration slope 1.8" in findings(lambda truth: truth / 2)


def test_probabilities_that_are_too_low_or_too_high_are_named_with_both_rates_and_the_correction():
    low = findings(lambda truth: truth - 0.4)
    assert (
        "Defaults are more frequent than predicted: 31.20 % of the held-out customers instead of 24.08 %"
        in low
    )
    assert "+0.4" in low
    assert "of 9 grades the predicted default rate is outside" in low
    assert "Defaults are less frequent than predicted" in findings(lambda truth: truth + 0.4)


def test_a_bend_that_slope_and_intercept_do_not_show_is_seen_in_the_grades():
    bent = findings(lambda truth: truth + 0.8 * (np.abs(truth + 1) - 0.8))
    assert "grades the predicted default rate is outside" in bent


def test_a_setting_is_shown_in_percent_with_all_its_digits():
    assert [percent(share) for share in (0.1, 0.175, 0.0005)] == ["10 %", "17.5 %", "0.05 %"]
