"""Groups, intervals and densities of a report."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare.credit.histogram import ScoreHistogram
from fedshare.credit.points import PointScale
from fedshare_clients.node.report.figures import (
    _coarser,
    _densities,
    _reliability,
    measure_histogram,
    stability,
)

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
