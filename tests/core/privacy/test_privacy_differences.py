"""A run differs from every earlier one by nobody, or by at least the minimum cohort."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare.errors import RefusedError
from fedshare.privacy.differences import TrainedOn, verify_apart

KEY = bytes(range(32))


def trained_on(customers, key=KEY):
    """Return the marks of a mapping from customer to outcome."""
    labels = np.array([float(label) for label in customers.values()])
    identifiers = [b"%06d" % number for number in customers]
    return TrainedOn.of(key, identifiers, labels, np.ones(len(customers)))


CUSTOMERS = st.dictionaries(st.integers(0, 60), st.integers(0, 1), min_size=1, max_size=40)


@given(CUSTOMERS, CUSTOMERS)
def test_the_difference_is_that_of_the_plain_sets(one, other):
    customers = max(len(one.keys() - other.keys()), len(other.keys() - one.keys()))
    outcomes = max(len(one.items() - other.items()), len(other.items() - one.items()))
    expected = min([each for each in (customers, outcomes) if each], default=0)
    assert trained_on(one).least_difference(trained_on(other)) == expected


BEFORE = dict.fromkeys(range(100), 0)
FLIPPED = {0: 1}


@pytest.mark.parametrize(
    "now",
    [
        BEFORE | {100: 0},
        dict.fromkeys(range(99), 0),
        BEFORE | FLIPPED,
        BEFORE | dict.fromkeys(range(100, 129), 0),
        # Many outcomes have changed, and one customer is new: the counts show that one alone.
        {number: int(number < 50) for number in range(101)},
    ],
    ids=["one new", "one gone", "one outcome", "29 new", "one new among many outcomes"],
)
def test_a_run_that_shows_few_customers_by_difference_is_refused(now):
    with pytest.raises(RefusedError) as caught:
        verify_apart(trained_on(now), trained_on(BEFORE), 30, "bank")
    assert caught.value.code == "few_customers_changed"
    assert caught.value.party == "bank"


@pytest.mark.parametrize(
    "now",
    [
        BEFORE,
        dict(reversed(BEFORE.items())),
        BEFORE | dict.fromkeys(range(100, 130), 0),
        {number: int(number < 30) for number in range(100)},
        dict.fromkeys(range(1000, 1050), 0),
    ],
    ids=["the same", "in another order", "30 new", "30 outcomes", "others"],
)
def test_the_same_customers_or_many_others_pass(now):
    verify_apart(trained_on(now), trained_on(BEFORE), 30, "bank")


def test_the_marks_say_nothing_without_the_key():
    ours, theirs = trained_on(BEFORE), trained_on(BEFORE, bytes(32))
    assert ours.least_difference(theirs) == len(BEFORE)
    assert b"000001" not in ours.customers + ours.outcomes
