"""Histograms add up over banks, hide thin cells, and bound what the single scores would give."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from fedshare.credit.histogram import (
    CELLS,
    RANGES,
    ScoreHistogram,
    cell_counts,
    cell_sums,
    merge_cells,
    range_votes,
    voted_groups,
)
from fedshare.credit.metrics import ks
from fedshare.errors import DataError, ParameterError


def sample(seed, n=400):
    draw = np.random.default_rng(seed)
    scores = draw.normal(-1.5, 2.0, n)
    labels = (draw.random(n) < 1 / (1 + np.exp(-0.8 * scores))).astype(float)
    return labels, scores, draw.uniform(0.2, 1.0, n)


def pooled(banks, minimum):
    counts = sum(cell_counts(scores) for _, scores, _ in banks)
    groups = merge_cells(counts, minimum)
    customers = np.bincount(groups, counts).astype(np.int64)
    return ScoreHistogram.from_sums(groups, customers, sum(cell_sums(*bank, groups) for bank in banks))


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 80))
def test_sums_over_banks_are_those_of_the_pooled_customers(seed, count, minimum):
    banks = [sample(seed + bank, 80 + bank) for bank in range(count)]
    together = tuple(np.concatenate(part) for part in zip(*banks, strict=True))
    summed, at_once = pooled(banks, minimum), ScoreHistogram.of(*together, minimum=minimum)
    np.testing.assert_array_equal(summed.customers, at_once.customers)
    for name in ("upper", "weight", "default_weight", "pd", "pd_squared", "pd_default", "odds"):
        np.testing.assert_allclose(getattr(summed, name), getattr(at_once, name))


@given(st.lists(st.integers(0, 40), min_size=CELLS, max_size=CELLS), st.integers(1, 200))
def test_every_group_reaches_the_minimum_cohort(counts, minimum):
    counts = np.array(counts)
    if counts.sum() < minimum:
        with pytest.raises(DataError):
            merge_cells(counts, minimum)
        return
    groups = merge_cells(counts, minimum)
    assert np.bincount(groups, counts).min() >= minimum
    assert set(np.diff(groups)) <= {0, 1}


@given(st.integers(0, 10_000), st.integers(1, 120))
def test_auc_and_ks_of_the_single_scores_lie_within_the_bounds(seed, minimum):
    labels, scores, weights = sample(seed)
    histogram = ScoreHistogram.of(labels, scores, weights, minimum=minimum)
    area, distance = histogram.auc(), histogram.ks()
    exact = roc_auc_score(labels, scores, sample_weight=weights)
    assert area.low - 1e-12 <= exact <= area.high + 1e-12
    assert distance.low - 1e-12 <= ks(labels, scores, weights) <= distance.high + 1e-12
    assert distance.low <= distance.value <= distance.high


def test_the_brier_score_is_exact_whatever_the_groups():
    labels, scores, weights = sample(3)
    probability = 1 / (1 + np.exp(-scores))
    exact = brier_score_loss(labels, probability, sample_weight=weights)
    for minimum in (1, 400):
        assert ScoreHistogram.of(labels, scores, weights, minimum=minimum).brier() == pytest.approx(exact)


def test_no_score_of_a_group_exceeds_its_upper_end():
    labels, scores, weights = sample(5)
    scores[:3] = [-30.0, 30.0, 8.0]
    counts = cell_counts(scores)
    groups = merge_cells(counts, 25)
    histogram = ScoreHistogram.from_sums(
        groups, np.bincount(groups, counts).astype(np.int64), cell_sums(labels, scores, weights, groups)
    )
    edges = np.append(-np.inf, histogram.upper)
    inside = [((scores > low) & (scores <= high)).sum() for low, high in pairwise(edges)]
    assert inside == histogram.customers.tolist()


def test_extreme_scores_leave_every_sum_finite():
    histogram = ScoreHistogram.of([0, 1, 0, 1], [-800.0, 800.0, 0.0, 0.0], minimum=1)
    assert all(np.isfinite(each).all() for each in (histogram.pd, histogram.odds, histogram.pd_squared))


def test_one_outcome_alone_cannot_be_ranked():
    with pytest.raises(DataError):
        ScoreHistogram.of([0, 0], [0.0, 1.0], minimum=1).auc()


def test_a_histogram_survives_json():
    histogram = ScoreHistogram.of(*sample(2), minimum=20)
    again = ScoreHistogram.from_json(json.loads(json.dumps(histogram.to_json())))
    assert (again.auc(), again.brier()) == (histogram.auc(), histogram.brier())
    np.testing.assert_array_equal(again.upper, histogram.upper)


def test_a_histogram_with_a_missing_array_is_refused():
    document = ScoreHistogram.of(*sample(2), minimum=20).to_json()
    del document["odds"]
    with pytest.raises(ParameterError):
        ScoreHistogram.from_json(document)


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(20, 400)), min_size=2, max_size=5),
    st.integers(1, 20),
)
def test_whichever_bank_subtracts_its_own_part_is_left_with_the_minimum_cohort(banks, minimum):
    counts = np.array([cell_counts(sample(seed, n)[1]) for seed, n in banks])
    groups = voted_groups(sum(range_votes(each, minimum) for each in counts))
    assert groups[0] == 0
    assert set(np.diff(groups)) <= {0, 1}
    per_group = np.array([np.bincount(groups, each) for each in counts])
    assert (per_group.sum(axis=0) - per_group >= minimum).all()


def test_ranges_in_which_two_banks_have_enough_are_told_apart():
    counts = np.zeros((2, CELLS), dtype=np.int64)
    for cell in (3, 200, 201, 400):
        counts[:, cell] = 30
    groups = voted_groups(sum(range_votes(each, 30) for each in counts))
    assert len({groups[cell] for cell in (3, 200, 201, 400)}) == 4


def test_a_bank_that_has_nearly_all_of_a_range_does_not_see_the_others_apart():
    # 1,000 customers of one bank at either score, and one of the others at the higher one.
    counts = np.zeros((3, CELLS), dtype=np.int64)
    counts[0, [100, 300]] = 1000
    counts[1:, 100] = 40
    counts[1, 300] = 1
    groups = voted_groups(sum(range_votes(each, 30) for each in counts))
    assert groups[100] == groups[300]


def test_votes_say_nothing_of_fewer_than_the_minimum_cohort():
    counts = np.zeros(CELLS, dtype=np.int64)
    before = range_votes(counts, 30)
    counts[77] = 29
    np.testing.assert_array_equal(range_votes(counts, 30), before)


@pytest.mark.parametrize("votes", [np.ones(RANGES, dtype=np.int64), np.ones(3, dtype=np.int64)])
def test_one_bank_alone_has_no_groups(votes):
    with pytest.raises(DataError):
        voted_groups(votes)
