"""A column's importance is the spread of what it adds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare.credit.importance import column_spread


@given(st.integers(0, 10_000))
def test_the_spread_is_the_standard_deviation_over_customers(seed):
    draw = np.random.default_rng(seed)
    offsets = np.array([0, 3, 5])
    codes = np.column_stack(
        [np.append([0, 1, 2], draw.integers(0, 3, 40)), np.append([3, 4, 3], draw.integers(3, 5, 40))]
    )
    weights = draw.normal(size=5)
    counts = np.bincount(codes.ravel(), minlength=5).astype(float)
    assert column_spread(weights, counts, offsets) == pytest.approx(weights[codes].std(axis=0))


def test_a_column_of_equal_weights_has_no_importance():
    assert column_spread(np.array([0.3, 0.3]), np.array([5.0, 7.0]), np.array([0, 2])) == pytest.approx([0.0])
