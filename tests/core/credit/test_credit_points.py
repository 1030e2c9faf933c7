"""Points reproduce the log-odds within the stated bound."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare.credit.points import PointScale, neutral_weights
from fedshare.errors import ParameterError

SCALE = PointScale(pdo=20, base_points=600, base_odds=50)
scales = st.builds(
    PointScale, pdo=st.floats(1, 200), base_points=st.floats(0, 1000), base_odds=st.floats(0.1, 500)
)
log_odds = st.floats(-12, 12)


def test_base_odds_earn_the_base_points():
    assert SCALE.points(-math.log(50)) == pytest.approx(600)


@given(scales, log_odds)
def test_pdo_more_points_double_the_odds_of_a_good_outcome(scale, risk):
    doubled = scale.log_odds(scale.points(risk) + scale.pdo)
    assert math.exp(-doubled) == pytest.approx(2 * math.exp(-risk))


@given(scales, st.lists(log_odds, min_size=1, max_size=8))
def test_points_and_log_odds_are_inverse(scale, risks):
    np.testing.assert_allclose(scale.log_odds(scale.points(risks)), risks, atol=1e-6)


@given(scales, st.lists(st.floats(-3, 3), min_size=1, max_size=30), st.floats(-5, 5))
def test_the_sum_of_bin_points_is_within_the_rounding_bound(scale, chosen, intercept):
    total = scale.base(intercept) + scale.bin_points(chosen).sum()
    exact = intercept + sum(chosen)
    assert abs(scale.log_odds(total) - exact) <= scale.rounding_bound(len(chosen)) + 1e-9


def test_the_rounding_bound_is_met_by_the_worst_case():
    half = 0.49999 / SCALE.factor
    intercept = float(SCALE.log_odds(599.50001))
    total = SCALE.base(intercept) + SCALE.bin_points([half] * 9).sum()
    missed = abs(float(SCALE.log_odds(total)) - (intercept + 9 * half))
    assert missed == pytest.approx(SCALE.rounding_bound(9), rel=1e-4)
    assert SCALE.rounding_bound(0) == pytest.approx(0.5 * math.log(2) / 20)


@pytest.mark.parametrize("broken", [(0, 600, 50), (20, math.inf, 50), (20, 600, 0), (-1, 600, 50)])
def test_a_scale_without_meaning_is_refused(broken):
    with pytest.raises(ParameterError):
        PointScale(*broken)


def test_neutral_is_the_mean_weight_of_the_training_customers():
    weights, counts = np.array([1.0, -1.0, 0.5, 0.0]), np.array([1.0, 3.0, 2.0, 2.0])
    np.testing.assert_allclose(neutral_weights(weights, counts, np.array([0, 2, 4])), [-0.5, 0.25])


def test_a_column_without_customers_has_no_neutral_weight():
    with pytest.raises(ParameterError):
        neutral_weights(np.zeros(3), np.array([0.0, 0.0, 1.0]), np.array([0, 2, 3]))
