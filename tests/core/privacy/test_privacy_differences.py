"""Customers are held back so that no combination of the sums of any runs is about few of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedshare.errors import RefusedError
from fedshare.privacy.differences import Marks, _outside, _products, hold_back

KEY = bytes(range(32))


def marks(customers, weight=1.0):
    """Return the marks of a mapping from customer to outcome."""
    labels = np.array([float(label) for label in customers.values()])
    return Marks.of(KEY, [b"%06d" % number for number in customers], labels, np.full(len(customers), weight))


def admitted(customers, earlier, minimum, weight=1.0):
    """Return who of ``customers``, all of one sum, may enter a run."""
    held = hold_back(
        marks(customers, weight), np.zeros(len(customers), dtype=np.int64), earlier, minimum, party="bank"
    )
    return {
        number: label
        for (number, label), out in zip(customers.items(), held.tolist(), strict=True)
        if not out
    }


def entered(customers):
    return marks(customers).take(np.ones(len(customers), dtype=np.bool_))


def fewest_shown(runs):
    """Return over how few customers a combination of sums with coefficients -2 to 2 can be; the slow oracle."""
    everyone = sorted(set().union(*runs))
    memberships = np.array([[each in run for run in runs] for each in everyone], dtype=np.int64)
    shown = [
        int(np.count_nonzero(memberships @ np.array(weights)))
        for weights in itertools.product(range(-2, 3), repeat=len(runs))
    ]
    return min(count for count in shown if count)


BEFORE = dict.fromkeys(range(100), 0)


def test_a_first_run_and_one_over_the_same_customers_hold_nobody_back():
    assert admitted(BEFORE, [], 30) == BEFORE
    assert admitted(dict(reversed(BEFORE.items())), [entered(BEFORE)], 30) == BEFORE


@pytest.mark.parametrize("new", [1, 29])
def test_few_new_customers_are_held_back(new):
    now = BEFORE | dict.fromkeys(range(100, 100 + new), 0)
    assert admitted(now, [entered(BEFORE)], 30) == BEFORE


def test_new_customers_of_the_minimum_cohort_enter():
    now = BEFORE | dict.fromkeys(range(100, 130), 1)
    assert admitted(now, [entered(BEFORE)], 30) == now


def test_with_a_customer_that_left_others_are_held_back_and_stay_out():
    now = dict.fromkeys(range(1, 100), 0)
    kept = admitted(now, [entered(BEFORE)], 30)
    assert len(kept) == 70
    assert admitted(now, [entered(BEFORE), entered(kept)], 30) == kept


def test_a_customer_may_leave_beside_many_new_ones():
    now = dict.fromkeys(range(1, 140), 0)
    assert admitted(now, [entered(BEFORE)], 30) == now


def test_a_changed_outcome_is_held_back_in_company():
    kept = admitted(BEFORE | {7: 1}, [entered(BEFORE)], 30)
    assert 7 not in kept
    assert len(kept) == 70


def test_a_changed_outcome_does_not_hide_behind_another_unit_of_all_weights():
    assert admitted(BEFORE, [entered(BEFORE)], 30, weight=1000.0) == BEFORE
    kept = admitted(BEFORE | {7: 1}, [entered(BEFORE)], 30, weight=1000.0)
    assert 7 not in kept
    assert len(kept) == 70


def test_one_new_customer_does_not_hide_among_many_changed_outcomes():
    now = {number: int(number < 50) for number in range(101)}
    assert set(admitted(now, [entered(BEFORE)], 30)) == set(range(100))


def test_four_runs_that_differ_enough_two_by_two_show_nobody_together():
    # The first and fourth less the second and third would be customer 200 alone.
    first = dict.fromkeys(range(100), 0)
    second, third = (
        first | dict.fromkeys(range(100, 140), 0),
        first | dict.fromkeys(range(140, 180), 0),
    )
    fourth = first | second | third
    earlier = [entered(each) for each in (first, second, third)]
    assert admitted(fourth | {200: 0}, earlier, 30) == fourth


def test_too_small_a_company_ends_the_run():
    now = dict.fromkeys(range(1, 50), 0)
    with pytest.raises(RefusedError) as caught:
        admitted(now, [entered(dict.fromkeys(range(50), 0))], 30)
    assert caught.value.code == "few_customers_changed"
    assert caught.value.party == "bank"


def test_what_a_smaller_cohort_has_shown_ends_no_later_run():
    second = BEFORE | dict.fromkeys(range(100, 110), 0)
    earlier = [entered(BEFORE), entered(second)]
    assert admitted(second, earlier, 30) == second
    assert admitted(second | {110: 0}, earlier, 30) == second


def test_training_and_held_out_customers_are_sums_of_their_own():
    now = BEFORE | dict.fromkeys(range(100, 150), 0)
    groups = np.array([0] * 60 + [1] * 40 + [0] * 40 + [1] * 10)
    everyone = marks(BEFORE)
    earlier = [everyone.take(groups[:100] == group) for group in (0, 1)]
    held = hold_back(marks(now), groups, earlier, 30, party="bank")
    assert np.flatnonzero(held).tolist() == list(range(140, 150))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 11), max_size=12), min_size=2, max_size=4),
    st.integers(2, 4),
)
def test_no_combination_of_any_runs_is_about_fewer_than_the_minimum_cohort(changes, minimum):
    present, runs = set(range(12)), []
    for change in changes:
        blocks = {3 * each + part for each in change for part in range(each % 3 + 1)}
        present = present ^ blocks
        try:
            kept = set(
                admitted(
                    dict.fromkeys(sorted(present), 0), [entered(dict.fromkeys(r, 0)) for r in runs], minimum
                )
            )
        except RefusedError:
            continue
        if len(kept) >= minimum:
            runs.append(kept)
    if runs:
        assert fewest_shown(runs) >= minimum


def test_the_marks_say_nothing_without_the_key():
    labels, names = np.zeros(2), [b"000000", b"000001"]
    ours = Marks.of(KEY, names, labels, np.ones(2))
    theirs = Marks.of(bytes(32), names, labels, np.ones(2))
    assert not set(ours.customers.tolist()) & set(theirs.customers.tolist())
    assert not set(ours.outcomes.tolist()) & set(theirs.outcomes.tolist())


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=12), st.data())
def test_rows_are_combinations_of_others_just_if_they_add_no_rank(rows, data):
    memberships = np.array(rows)
    is_large = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    large = memberships[is_large].astype(float)
    rank = np.linalg.matrix_rank(large) if len(large) else 0
    ranks = [np.linalg.matrix_rank(np.vstack([large, each])) for each in memberships.astype(float)]
    expected = [more > rank and not own for more, own in zip(ranks, is_large, strict=True)]
    assert _outside(memberships, is_large).tolist() == expected


def test_products_beyond_64_bits_are_exact():
    assert _products(np.array([[1, 1], [1, 0]]), [[2**63, 1]]).tolist() == [[2**63 + 1], [2**63]]
