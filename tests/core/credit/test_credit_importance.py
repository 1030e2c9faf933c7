"""A column's importance is the spread of what it adds; a group's is also what the ranking loses without it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fedshare.credit.importance import column_spread, group_importance


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


def test_what_a_group_adds_is_what_scikit_learn_finds_with_and_without_it():
    draw = np.random.default_rng(2)
    parts = {"own": draw.normal(0, 0.5, 4000), "holders": draw.normal(0, 1.0, 4000)}
    score = parts["own"] + parts["holders"]
    labels = (draw.random(4000) < 1 / (1 + np.exp(-score))).astype(float)
    found = group_importance(labels, parts, np.ones(4000))
    assert sum(each.share for each in found.values()) == pytest.approx(1.0)
    for name, other in (("own", "holders"), ("holders", "own")):
        assert found[name].spread == pytest.approx(parts[name].std())
        assert found[name].share == pytest.approx(np.cov(parts[name], score)[0, 1] / score.var(ddof=1))
        assert found[name].auc_alone == pytest.approx(roc_auc_score(labels, parts[name]))
        assert found[name].auc_lost == pytest.approx(
            roc_auc_score(labels, score) - roc_auc_score(labels, parts[other])
        )
    assert found["holders"].share == pytest.approx(0.8, abs=0.03)


def test_a_group_that_is_the_same_for_everyone_adds_nothing():
    labels, score = np.array([0.0, 1.0, 0.0, 1.0]), np.array([-1.0, 1.0, 0.0, 0.5])
    found = group_importance(labels, {"own": np.full(4, 0.7), "tax": score}, np.array([1.0, 1.0, 0.5, 1.0]))
    own = found["own"]
    assert [own.spread, own.share, own.auc_alone, own.auc_lost] == pytest.approx(
        [0.0, 0.0, 0.5, 0.0], abs=1e-9
    )
    assert found["tax"].share == pytest.approx(1.0)


def test_weights_count_as_repeated_customers():
    draw = np.random.default_rng(4)
    parts = {"own": draw.normal(size=60), "tax": draw.normal(size=60)}
    labels, times = (draw.random(60) < 0.5).astype(float), draw.integers(1, 4, 60)
    weighted = group_importance(labels, parts, times.astype(float))
    repeated = group_importance(
        np.repeat(labels, times),
        {name: np.repeat(part, times) for name, part in parts.items()},
        np.ones(times.sum()),
    )
    for name in parts:
        assert weighted[name].share == pytest.approx(repeated[name].share)
        assert weighted[name].auc_lost == pytest.approx(repeated[name].auc_lost)
