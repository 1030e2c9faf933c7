"""Bins over several banks' customers: the same at every bank, and those of one bank with all customers."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
from credit_tables import Columns
from hypothesis import given, settings
from hypothesis import strategies as st

from fedshare.credit.bins import fit_design
from fedshare.credit.pooled_bins import _BOUNDS, fit_pooled_design
from fedshare.errors import DataError


def spec(name, kind="numeric", bins=10, monotone="none", categories=()):
    return SimpleNamespace(name=name, kind=kind, bins=bins, monotone=monotone, categories=categories)


class Sums:
    """Sums over banks that run in threads; remembers every total."""

    def __init__(self, count):
        self.barrier = Barrier(count, timeout=20)
        self.vectors = []
        self.totals = {}

    def __call__(self, name, vector):
        self.vectors.append(vector)
        self.barrier.wait()
        total = sum(self.vectors)
        if self.barrier.wait() == 0:
            self.totals[name] = total
            self.vectors.clear()
        self.barrier.wait()
        return total


def fit_all(tables, columns, minimum=1):
    sums = Sums(len(tables))

    def fit(number):
        try:
            return fit_pooled_design(tables[number], columns, minimum, sums, party=f"bank-{number}")
        except DataError as error:
            return error

    with ThreadPoolExecutor(len(tables)) as pool:
        return list(pool.map(fit, range(len(tables)))), sums


def cut(values, parts):
    return [Columns(x=each) for each in np.array_split(np.asarray(values), parts)]


small = st.lists(st.one_of(st.just(float("nan")), st.integers(64, 120).map(float)), min_size=30, max_size=90)


@given(small, st.integers(1, 4), st.integers(2, 8), st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_whole_numbers_get_the_bins_of_one_bank_with_all_customers(values, parts, bins, minimum):
    # 64 to 120 lie in one coarse cell, and their fine cells are 1/2 wide.
    column = spec("x", bins=bins)
    designs, _ = fit_all(cut(values, parts), [column], minimum)
    try:
        pooled = fit_design(Columns(x=np.array(values)), [column], minimum, party="all")
    except DataError:
        pooled = None
    if pooled is None:
        assert all(isinstance(each, DataError) for each in designs)
        return
    assert all(design.columns == pooled.columns for design in designs)
    assert np.array_equal(np.concatenate([design.codes for design in designs]), pooled.codes)


@pytest.mark.parametrize("parts", [1, 3])
def test_bins_of_any_numbers_are_nearly_as_full_as_they_would_be(parts):
    rng = np.random.default_rng(0)
    values = rng.permutation(np.concatenate([rng.lognormal(8, 3, 4000), -rng.lognormal(0, 2, 800)]))
    designs, _ = fit_all(cut(values, parts), [spec("x", bins=8)], 30)
    counts = np.bincount(np.concatenate([design.codes[:, 0] for design in designs]))
    assert len(counts) == 8
    assert np.abs(counts - len(values) / 8).max() < len(values) / 8 / 4


def test_edges_are_cell_bounds_and_a_value_falls_where_its_cell_does():
    rng = np.random.default_rng(1)
    values = rng.normal(size=3000) * 1000
    (design,), _ = fit_all([Columns(x=values)], [spec("x")], 10)
    edges = np.array(design.columns[0].edges)
    assert np.isin(edges, _BOUNDS).all()
    assert len(np.unique(edges)) == 9


def test_where_few_customers_are_only_the_coarse_cell_is_counted():
    values = np.concatenate([np.full(1000, 5.0), np.linspace(1.25, 2.75, 1000), [12345.678, 3e20, -7.5]])
    _, sums = fit_all([Columns(x=values)], [spec("x", bins=4)])
    coarse = sums.totals["customers per coarse cell"]
    fine = sums.totals["customers per fine cell"]
    assert coarse.sum() == len(values)
    assert fine.sum() == 2000


def test_listed_categories_are_counted_over_all_banks_and_no_other_is_told_apart():
    tables = [
        Columns(x=np.array(["retail"] * 30 + ["food"] * 5 + ["secret"] * 40 + [None] * 20, dtype=object)),
        Columns(x=np.array(["food"] * 25 + ["retail"] * 2 + ["transport"] * 3, dtype=object)),
    ]
    columns = [spec("x", "categorical", categories=("food", "retail", "transport"))]
    designs, sums = fit_all(tables, columns, 10)
    assert designs[0].columns == designs[1].columns
    assert designs[0].columns[0].categories == ("retail", "food", "")
    assert len(sums.totals["customers per coarse cell"]) == 5
    assert designs[0].columns[0].labels == ("retail", "food", "missing", "other")
    assert np.bincount(designs[0].codes[:, 0]).tolist() == [30, 5, 20, 40]
    assert np.bincount(designs[1].codes[:, 0], minlength=4).tolist() == [2, 25, 0, 3]


def test_a_column_that_no_bank_could_use_alone_is_usable_together():
    tables = [Columns(x=np.full(50, 1.0)), Columns(x=np.full(50, 2.0))]
    designs, _ = fit_all(tables, [spec("x")], 40)
    assert designs[0].columns[0].edges == (2.0,)


def test_a_column_that_is_constant_over_all_banks_is_refused_at_every_bank():
    tables = [Columns(x=np.full(50, 1.0)), Columns(x=np.full(50, 1.0))]
    designs, _ = fit_all(tables, [spec("x")], 10)
    assert all("bank-" in str(each) and "constant" in str(each) for each in designs)


def test_text_in_a_numeric_column_is_refused_before_anything_is_counted():
    sums = Sums(1)
    with pytest.raises(DataError, match=r"party bank-a, source bank\.csv, row 2, field x"):
        fit_pooled_design(
            Columns("bank.csv", x=np.array(["1", "many"], dtype=object)), [spec("x")], 1, sums, party="bank-a"
        )
    assert not sums.totals


@pytest.mark.parametrize("value", [1.7e308, -1.7e308, 5e-324, -5e-324, 0.0, -0.0])
def test_every_number_has_a_cell(value):
    values = np.concatenate([np.full(50, value), np.linspace(1, 2, 50)])
    (design,), _ = fit_all([Columns(x=values)], [spec("x", bins=3)], 5)
    assert len(np.unique(design.codes[:50])) == 1
