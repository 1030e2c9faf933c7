"""The triangle against loan-by-loan arithmetic; a cap is never exceeded and never clips a rate."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare.credit.histogram import ScoreHistogram
from fedshare.credit.pricing import Guarantee, Ladder, Terms, serve, serve_at_loss
from fedshare.errors import ParameterError

TERMS = Terms(0.025, 0.02, 0.005, 0.6, 0.1, 0.1, Guarantee(cover=0.8, fee=0.01))
rates = st.floats(0, 0.2)
terms = st.builds(
    Terms, rates, rates, rates, st.floats(0.05, 1), st.floats(0, 1), rates,
    st.none() | st.builds(Guarantee, st.floats(0, 1), rates),
)  # fmt: skip
probabilities = st.floats(0, 0.999)


def sample(seed, n=300, noise=1.0):
    draw = np.random.default_rng(seed)
    scores = draw.normal(-2.0, 1.5, n)
    labels = (draw.random(n) < 1 / (1 + np.exp(-scores))).astype(float)
    return labels, scores + draw.normal(0, noise, n)


@given(terms, probabilities)
def test_at_the_break_even_rate_a_loan_earns_what_it_costs(costs, pd):
    rate = float(costs.break_even_rate(pd))
    earned = (1 - pd) * (1 + rate) + pd * (1 - costs.loss_given_default)
    assert earned == pytest.approx(1 + costs.cost)


@given(terms, st.floats(0.01, 0.5))
def test_the_limit_of_a_cap_is_where_the_break_even_rate_meets_it(costs, cap):
    limit = costs.pd_limit(cap)
    if limit >= 0:
        assert float(costs.break_even_rate(limit)) == pytest.approx(cap)
    else:
        assert float(costs.break_even_rate(0.0)) > cap


def answer(pd, costs, cutoff, cap):
    """Return what a lender says to one enterprise."""
    helped = costs.guaranteed()
    if pd <= cutoff and float(costs.break_even_rate(pd)) <= cap:
        return "approve"
    if pd <= cutoff and helped is not None and float(helped.break_even_rate(pd)) <= cap:
        return "guarantee"
    return "decline"


@given(st.integers(0, 10_000), st.floats(0.05, 1), st.sampled_from([0.10, 0.18, 0.24]))
def test_what_is_served_is_the_sum_over_single_loans(seed, cutoff, cap):
    labels, scores = sample(seed)
    pd = 1 / (1 + np.exp(-scores))
    found = serve(Ladder.of(labels, scores), TERMS, cutoff=cutoff, cap=cap)
    given_answers = np.array([answer(each, TERMS, cutoff, cap) for each in pd])
    approved = given_answers == "approve"
    assert found.enterprises == approved.sum()
    assert found.guaranteed == (given_answers == "guarantee").sum()
    assert found.declined == pytest.approx((given_answers == "decline").sum())
    if approved.any():
        assert found.rate == pytest.approx(TERMS.break_even_rate(pd[approved]).mean())
        assert found.rate <= cap + 1e-12
        assert found.expected_loss == pytest.approx(0.6 * pd[approved].mean())
        assert found.realised_loss == pytest.approx(0.6 * labels[approved].mean())


@given(st.integers(0, 10_000), st.floats(0, 0.2))
def test_no_cut_off_serves_more_at_the_same_loss(seed, loss):
    labels, scores = sample(seed)
    order = np.argsort(scores)
    best = 0
    for count in range(1, len(labels) + 1):
        pd = 1 / (1 + np.exp(-scores[order[count - 1]]))
        if float(TERMS.break_even_rate(pd)) <= 0.24 and 0.6 * labels[order[:count]].mean() <= loss + 1e-12:
            best = count
    found = serve_at_loss(Ladder.of(labels, scores), TERMS, loss=loss, cap=0.24)
    assert found.enterprises == best
    assert not found.realised_loss > loss + 1e-9


@given(st.integers(0, 10_000), st.integers(1, 60))
def test_groups_of_a_histogram_serve_nobody_whom_the_cap_excludes(seed, minimum):
    labels, scores = sample(seed)
    exact = serve(Ladder.of(labels, scores), TERMS, cutoff=1.0, cap=0.18)
    grouped = serve(
        Ladder.of_histogram(ScoreHistogram.of(labels, scores, minimum=minimum)), TERMS, cutoff=1.0, cap=0.18
    )
    assert grouped.enterprises <= exact.enterprises
    assert not grouped.pd_limit > TERMS.pd_limit(0.18)


def test_a_fine_histogram_gives_what_the_single_scores_give():
    labels, scores = sample(3, n=5000)
    exact = serve(Ladder.of(labels, scores), TERMS, cutoff=1.0, cap=0.18)
    fine = serve(
        Ladder.of_histogram(ScoreHistogram.of(labels, scores, minimum=1)), TERMS, cutoff=1.0, cap=0.18
    )
    assert fine.enterprises == pytest.approx(exact.enterprises, rel=0.02)
    assert fine.rate == pytest.approx(exact.rate, rel=0.01)


def test_a_better_ranking_serves_more_at_the_same_loss():
    labels, scores = sample(5, n=4000, noise=0.0)
    blurred = scores + np.random.default_rng(9).normal(0, 3, len(scores))
    loss = serve(Ladder.of(labels, blurred), TERMS, cutoff=1.0, cap=0.18).realised_loss
    better = serve_at_loss(Ladder.of(labels, scores), TERMS, loss=loss, cap=0.24)
    worse = serve_at_loss(Ladder.of(labels, blurred), TERMS, loss=loss, cap=0.24)
    assert better.enterprises > worse.enterprises


def test_a_cap_below_the_costs_serves_nobody_and_has_no_rate():
    found = serve(Ladder.of(*sample(1)), TERMS, cutoff=1.0, cap=0.01)
    assert (found.enterprises, found.share, found.guaranteed) == (0, 0, 0)
    assert all(math.isnan(each) for each in (found.rate, found.realised_loss, found.expected_loss))


@pytest.mark.parametrize(
    "broken",
    [
        (-0.01, 0, 0, 0.5, 0, 0),
        (0, 0, 0, 1.2, 0, 0),
        (0, math.inf, 0, 0.5, 0, 0),
        (0, 0, 0, 0.5, 0, 0, Guarantee(2, 0)),
    ],
)
def test_impossible_costs_are_refused(broken):
    with pytest.raises(ParameterError):
        Terms(*broken)
