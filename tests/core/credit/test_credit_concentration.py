"""Concentration from sums over banks is that of all customers, and hides what the plan hides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare.credit.concentration import (
    changed_customers,
    concentration,
    group_amounts,
    names_over_limit,
    verify_amounts,
)
from fedshare.credit.release import plan_release
from fedshare.errors import DataError, ParameterError

NAMES = ("food", "retail", "mining", "software", "transport")


def bank(seed, n):
    draw = np.random.default_rng(seed)
    return draw.integers(0, len(NAMES), n), draw.lognormal(12, 1, n).round(2), draw.random(n) * 0.1


def over_all(banks, minimum):
    customers = sum(np.bincount(cells, minlength=len(NAMES)) for cells, _, _ in banks)
    plan = plan_release(customers, minimum=minimum)
    amounts = sum(group_amounts(cells, exposure, exposure * pd * 0.6, plan) for cells, exposure, pd in banks)
    return concentration(NAMES, customers, amounts, plan), plan


@given(st.integers(0, 9999), st.integers(1, 4))
def test_sums_over_banks_are_those_of_all_customers(seed, count):
    banks = [bank(seed + each, 60) for each in range(count)]
    cells, exposure, pd = (np.concatenate(part) for part in zip(*banks, strict=True))
    found, _ = over_all(banks, minimum=1)
    shares = np.bincount(cells, exposure, len(NAMES)) / exposure.sum()
    assert found.exposure == pytest.approx(exposure.sum())
    assert found.expected_loss == pytest.approx((exposure * pd * 0.6).sum())
    assert found.hhi_low == pytest.approx((shares**2).sum())
    assert found.hhi_high == pytest.approx(found.hhi_low)
    assert [cell.share for cell in found.cells] == pytest.approx(sorted(shares, reverse=True))


@given(st.integers(0, 9999), st.integers(5, 60))
def test_the_index_lies_between_its_bounds_and_the_rest_is_one_sum(seed, minimum):
    sample = bank(seed, 120)
    found, plan = over_all([sample], minimum)
    shares = np.bincount(sample[0], sample[1], len(NAMES)) / sample[1].sum()
    assert found.hhi_low - 1e-12 <= (shares**2).sum() <= found.hhi_high + 1e-12
    assert {cell.name for cell in found.cells} == {NAMES[cell] for cell in np.flatnonzero(plan.shown)}
    assert sum(cell.share for cell in found.cells) + (found.rest.share if found.rest else 0) == pytest.approx(
        1
    )


def test_cells_come_largest_first():
    found, _ = over_all([bank(1, 500)], minimum=1)
    exposures = [cell.exposure for cell in found.cells]
    assert exposures == sorted(exposures, reverse=True)


def test_who_came_left_moved_or_owes_another_amount_has_changed():
    before = {"a": (0, 1.0), "b": (0, 1.0), "c": (1, 5.0), "d": (2, 2.0)}
    now = {"a": (0, 1.0), "b": (1, 1.0), "c": (1, 4.0), "e": (2, 2.0)}
    assert changed_customers(now, before, 3).tolist() == [1, 2, 2]
    assert changed_customers(now, {}, 3).tolist() == [1, 2, 1]


def test_a_withheld_table_has_no_figures():
    with pytest.raises(ParameterError):
        over_all([bank(1, 5)], minimum=30)


def test_names_over_the_limit_come_largest_first():
    assert names_over_limit(np.array([5.0, 30.0, 10.0, 12.0]), 100.0, 0.1).tolist() == [1, 3]


@pytest.mark.parametrize("impossible", [-1.0, np.nan, np.inf, 2e12])
def test_an_impossible_amount_is_refused_with_its_row_and_not_shown(impossible):
    with pytest.raises(
        DataError, match=r"bank-a, source loans.csv, row 2, field amount: expected exposures"
    ) as caught:
        verify_amounts(
            np.array([1.0, impossible]),
            np.array([0.1, 0.1]),
            party="bank-a",
            source="loans.csv",
            field="amount",
        )
    assert caught.value.row == 2
    assert str(impossible) not in str(caught.value)


def test_a_portfolio_without_exposure_is_refused():
    with pytest.raises(DataError, match="found none"):
        verify_amounts(np.zeros(3), np.full(3, 0.1), party="", source="", field="")


def test_a_default_probability_above_one_is_refused():
    with pytest.raises(DataError, match="probability"):
        verify_amounts(np.ones(1), np.array([1.5]), party="", source="", field="")
