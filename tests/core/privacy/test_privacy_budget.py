"""The budget only grows, and what would exceed it is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare.contract.privacy import Privacy
from fedshare.errors import ParameterError, RefusedError
from fedshare.privacy.budget import MECHANISMS, Amount, Spending, spent_by, verify_affordable, verify_noise

EPSILON = st.floats(1e-6, 50.0)
SPENDINGS = st.lists(
    st.builds(Spending, st.just("labels"), st.sampled_from(["2025", "2026"]), EPSILON, st.just(0.0))
    | st.builds(Spending, st.just("network"), st.just(""), EPSILON, st.floats(0.0, 1e-3)),
    max_size=12,
)
LIMITS = {"labels": Amount(4.0, 0.0), "network": Amount(3.0, 1e-5)}


@given(SPENDINGS, SPENDINGS)
def test_spending_more_never_lowers_what_was_spent(before, more):
    for mechanism in MECHANISMS:
        was, now = spent_by(before, mechanism), spent_by([*before, *more], mechanism)
        assert now.epsilon >= was.epsilon
        assert now.delta >= was.delta


@given(SPENDINGS, SPENDINGS)
def test_what_is_affordable_after_spending_was_affordable_before(spent, asked):
    try:
        verify_affordable(spent, asked, LIMITS, party="bank")
    except RefusedError:
        return
    verify_affordable([], asked, LIMITS, party="bank")
    for mechanism in {each.mechanism for each in asked}:
        assert spent_by([*spent, *asked], mechanism).epsilon <= LIMITS[mechanism].epsilon


def test_the_same_flips_of_labels_cost_once_and_others_add_up():
    once = Spending("labels", "2026", 2.0, 0.0)
    assert spent_by([once, once, once], "labels") == Amount(2.0, 0.0)
    again = [once, Spending("labels", "2026", 1.0, 0.0), Spending("labels", "2027", 2.0, 0.0)]
    assert spent_by(again, "labels") == Amount(5.0, 0.0)


def test_every_run_of_a_network_costs():
    run = Spending("network", "", 1.0, 1e-6)
    assert spent_by([run, run], "network") == Amount(2.0, 2e-6)


def test_the_last_run_that_fits_is_allowed_and_the_next_one_refused():
    run = Spending("network", "", 1.0, 1e-6)
    verify_affordable([run, run], [run], LIMITS, party="bank")
    with pytest.raises(RefusedError, match=r"epsilon 4.*limit is 3") as refusal:
        verify_affordable([run, run, run], [run], LIMITS, party="bank")
    assert refusal.value.code == "privacy_budget_exceeded"


def test_delta_has_a_limit_of_its_own():
    with pytest.raises(RefusedError):
        verify_affordable([], [Spending("network", "", 0.1, 1e-4)], LIMITS, party="bank")


@pytest.mark.parametrize(
    ("mechanism", "epsilon", "delta"),
    [
        ("network", 0.0, 0.0),
        ("network", -1.0, 0.0),
        ("network", float("inf"), 0.0),
        ("network", float("nan"), 0.0),
        ("network", 1.0, 1.0),
        ("labels", 1.0, 1e-6),
    ],
)
def test_what_is_no_spending_cannot_be_made(mechanism, epsilon, delta):
    with pytest.raises(ParameterError):
        Spending(mechanism, "", epsilon, delta)


LABELS = {"labels": {"epsilon": 2.0}}
NETWORK = {"network": {"epsilon": 1.0, "delta": 1e-6, "sample_rate": 0.1, "lot_size": 10}}


def refused_without(privacy, spent=(), limited=(), allowed=()):
    contract = SimpleNamespace(privacy=Privacy.model_validate(privacy))
    try:
        verify_noise(contract, spent, limited, allowed, party="bank")
    except RefusedError as error:
        return error.code == "noise_missing"
    return False


@pytest.mark.parametrize(
    ("privacy", "protected", "refused"),
    [
        ({}, "labels", True),
        (LABELS, "labels", False),
        (NETWORK, "labels", False),
        ({}, "network", True),
        (LABELS, "network", True),
        (NETWORK, "network", False),
    ],
)
def test_what_is_protected_by_noise_is_not_used_without_it(privacy, protected, refused):
    taken = Spending(protected, "", 1.0, 0.0)
    assert refused_without(privacy, limited=[protected]) is refused
    assert refused_without(privacy, spent=[taken]) is refused
    assert not refused_without(privacy, spent=[taken], limited=[protected], allowed=[protected])
    assert not refused_without(privacy)
