"""What may be shown never isolates few customers: by subtraction from a total, or from an earlier answer."""

from itertools import chain, combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedshare.credit.release import Earlier, plan_release
from fedshare.errors import ParameterError

MINIMUM = 10
tables = st.lists(st.integers(0, 25), min_size=1, max_size=7).map(np.array)


def known_sets(plan):
    """Return every set of cells whose sum an outsider can work out from one answer, as frozensets."""
    if plan.withheld:
        return set()
    blocks = [frozenset([cell]) for cell in np.flatnonzero(plan.shown).tolist()]
    if plan.has_rest:
        blocks.append(frozenset(np.flatnonzero(~plan.shown).tolist()))
    chosen = chain.from_iterable(combinations(blocks, size) for size in range(1, len(blocks) + 1))
    return {frozenset().union(*each) for each in chosen}


@given(tables)
def test_every_sum_that_can_be_worked_out_is_about_the_minimum_cohort_or_nobody(customers):
    for cells in known_sets(plan_release(customers, minimum=MINIMUM)):
        assert customers[list(cells)].sum() >= MINIMUM or customers[list(cells)].sum() == 0


@given(tables, st.data())
def test_what_a_bank_could_subtract_is_protected_by_the_same_rule(others, data):
    own = np.array(data.draw(st.lists(st.integers(0, 25), min_size=len(others), max_size=len(others))))
    agreed = plan_release(others + own, minimum=MINIMUM)
    plan = plan_release(others, minimum=MINIMUM, within=agreed.shown)
    assert not (plan.shown & ~agreed.shown).any()
    for cells in known_sets(plan):
        assert others[list(cells)].sum() >= MINIMUM or others[list(cells)].sum() == 0


@given(tables)
def test_large_cells_are_all_shown(customers):
    assert plan_release(customers + MINIMUM, minimum=MINIMUM).shown.all()


@given(tables, st.data())
def test_no_difference_of_two_answers_is_about_fewer_than_the_minimum_cohort(customers, data):
    history, current = [], customers
    for _ in range(3):
        plan = plan_release(current, minimum=MINIMUM, earlier=history)
        for answer in history:
            for cells in known_sets(plan) & known_sets(answer.plan):
                changed = int(answer.changed[list(cells)].sum())
                assert changed == 0 or changed >= MINIMUM
        # Customers come; all earlier answers see them as changes.
        change = np.array(
            data.draw(st.lists(st.integers(0, 14), min_size=len(current), max_size=len(current)))
        )
        history = [
            Earlier(each.plan, each.changed + change) for each in [*history, Earlier(plan, 0 * change)]
        ]
        current = current + change


def test_a_thin_cell_takes_the_next_smallest_with_it():
    plan = plan_release(np.array([50, 3, 40, 12]), minimum=MINIMUM)
    assert plan.shown.tolist() == [True, False, True, False]
    assert plan.groups().tolist() == [0, 2, 1, 2]


def test_empty_cells_are_shown_and_hide_nobody():
    assert plan_release(np.array([50, 3, 0, 12]), minimum=MINIMUM).shown.tolist() == [
        True,
        False,
        True,
        False,
    ]


def test_a_rest_of_too_few_grows_until_it_is_large_enough():
    assert plan_release(np.array([2, 3, 11, 90]), minimum=MINIMUM).shown.tolist() == [
        False,
        False,
        False,
        True,
    ]


def test_a_cell_that_was_left_out_stays_in_the_rest():
    # Shown in the second answer, the third cell less the fourth of the first one would leave few customers.
    first = plan_release(np.array([100, 41, 40, 1]), minimum=30)
    second = plan_release(
        np.array([100, 41, 80, 1]), minimum=30, earlier=[Earlier(first, np.array([0, 0, 40, 0]))]
    )
    assert first.shown.tolist() == second.shown.tolist() == [True, True, False, False]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(1, 6), st.sampled_from(["stayed", "came", "left", "owes other"])
        ),
        min_size=1,
        max_size=10,
    )
)
def test_no_combination_of_two_answers_is_about_fewer_than_the_minimum_cohort(blocks):
    """The slow oracle adds and subtracts the sums of both in every way, and counts whose amounts do not cancel."""
    minimum, counts = 5, np.zeros((2, 4), dtype=np.int64)
    changed = np.zeros(4, dtype=np.int64)
    for cell, size, what in blocks:
        counts[0, cell] += size * (what != "came")
        counts[1, cell] += size * (what != "left")
        changed[cell] += size * (what != "stayed")
    first = plan_release(counts[0], minimum=minimum)
    second = plan_release(counts[1], minimum=minimum, earlier=[Earlier(first, changed)])
    sums = [
        (answer, group)
        for answer, plan in enumerate((first, second))
        if not plan.withheld
        for group in np.unique(plan.groups()).tolist()
    ]
    groups = [plan.groups() for plan in (first, second)]
    for signs in product((-1, 0, 1), repeat=len(sums)):
        weight = dict(zip(sums, signs, strict=True))
        about = 0
        for cell, size, what in blocks:
            now, then = (weight.get((answer, int(groups[answer][cell])), 0) for answer in (1, 0))
            shown = {"stayed": now + then, "came": now, "left": then, "owes other": abs(now) + abs(then)}
            about += size * (shown[what] != 0)
        assert about == 0 or about >= minimum


def test_one_new_customer_hides_the_cell_that_showed_it():
    before = plan_release(np.array([50, 40, 60]), minimum=MINIMUM)
    now = plan_release(
        np.array([51, 55, 72]), minimum=MINIMUM, earlier=[Earlier(before, np.array([1, 15, 12]))]
    )
    assert now.shown.tolist() == [False, False, True]


def test_one_new_customer_in_a_table_without_other_changes_withholds_everything():
    before = plan_release(np.array([50, 40]), minimum=MINIMUM)
    assert plan_release(
        np.array([51, 40]), minimum=MINIMUM, earlier=[Earlier(before, np.array([1, 0]))]
    ).withheld


def test_fewer_customers_than_the_minimum_are_withheld():
    assert plan_release(np.array([3, 2]), minimum=MINIMUM).withheld


@pytest.mark.parametrize(
    ("customers", "minimum", "earlier"),
    [
        ([1, -1], 1, []),
        ([1, 2], 0, []),
        ([1, 2], 1, [Earlier(plan_release(np.array([5]), minimum=1), np.array([0]))]),
    ],
)
def test_impossible_counts_are_refused(customers, minimum, earlier):
    with pytest.raises(ParameterError):
        plan_release(np.array(customers), minimum=minimum, earlier=earlier)
