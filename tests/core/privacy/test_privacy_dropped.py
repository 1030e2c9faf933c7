"""Who may be dropped, and what that asks of later runs."""

import numpy as np
import pytest

from fedshare.errors import RefusedError
from fedshare.privacy.differences import Marks
from fedshare.privacy.dropped import droppable, may_drop, verify_whole

KEY = bytes(32)


def marks(customers, outcome=0.0):
    names = [b"%d" % each for each in customers]
    return Marks.of(KEY, names, np.full(len(names), outcome), np.ones(len(names)))


def test_everybody_may_be_dropped_in_a_first_run():
    assert droppable(marks(range(5)), [], []).all()


def test_those_who_were_in_the_same_sums_as_most_may_be_dropped():
    earlier = [marks(range(7)), marks(range(2))]
    assert droppable(marks(range(10)), earlier, []).tolist() == [False] * 2 + [True] * 5 + [False] * 3


def test_whoever_has_another_outcome_than_the_rest_of_an_earlier_sum_is_not_one_of_them():
    earlier = [marks(range(6)), marks([0], outcome=1.0)]
    assert droppable(marks(range(6)), earlier, []).tolist() == [False] + [True] * 5


def test_nobody_may_be_dropped_for_two_banks():
    assert droppable(marks(range(6)), [], [marks(range(4))]).tolist() == [False] * 4 + [True] * 2
    assert not droppable(marks(range(4)), [], [marks(range(4))]).any()


@pytest.mark.parametrize(
    ("shared", "others", "own", "allowed"),
    [
        (4, 100, 100, False),
        (5, 100, 100, True),
        (95, 100, 200, True),
        (96, 100, 200, False),
        (96, 200, 100, False),
        (0, 0, 100, False),
    ],
)
def test_as_many_as_the_minimum_cohort_are_dropped_and_left(shared, others, own, allowed):
    assert may_drop(shared, others, own, 5) is allowed


def test_whole_groups_may_take_part_with_others():
    verify_whole([marks(range(4))], marks(range(9)), party="bank")
    verify_whole([], marks([]), party="bank")


def test_a_group_whose_outcomes_have_all_changed_is_refused_for_one_may_have_changed_otherwise():
    with pytest.raises(RefusedError, match="all of them must take part"):
        verify_whole([marks(range(4))], marks(range(9), outcome=0.5), party="bank")


def test_a_group_of_which_one_is_gone_or_changed_is_refused():
    changed = [marks(range(3)), marks([3], outcome=1.0)]
    present = Marks(*(np.concatenate(kind) for kind in zip(*(each.kinds() for each in changed), strict=True)))
    for now in (marks(range(1, 9)), present):
        with pytest.raises(RefusedError, match="all of them must take part") as refusal:
            verify_whole([marks(range(4))], now, party="bank")
        assert refusal.value.code == "few_customers_changed"
