"""Bins: every value falls into one, thin ones are merged by counts, and unusable columns are refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from credit_tables import Columns
from hypothesis import given
from hypothesis import strategies as st

from fedshare.credit.bins import ColumnBins, Design, fit_design, fit_usable_design
from fedshare.credit.column import cut_column, verify_usable
from fedshare.errors import DataError


def spec(name, kind="numeric", bins=10, monotone="none"):
    return SimpleNamespace(name=name, kind=kind, bins=bins, monotone=monotone)


def fit(values, kind="numeric", bins=10, minimum=1, monotone="none"):
    cut, distinct = cut_column(
        "turnover", np.asarray(values), kind=kind, bins=bins, minimum=minimum, monotone=monotone, party="tax"
    )
    verify_usable(cut, distinct, minimum, party="tax", source="")
    return cut


cells = st.one_of(st.just(float("nan")), st.integers(-5, 5).map(float), st.floats(-1e6, 1e6))
columns = st.lists(cells, min_size=12, max_size=60)


@given(columns, st.integers(2, 8), st.integers(1, 5), cells)
def test_every_bin_has_the_minimum_and_every_value_a_bin(values, bins, minimum, unseen):
    try:
        fitted = fit(values, bins=bins, minimum=minimum)
    except DataError:
        return
    counts = np.bincount(fitted.assign(np.array(values)), minlength=fitted.size)
    assert counts.min() >= minimum
    assert fitted.size <= bins + 1
    assert len(fitted.labels) == fitted.size
    assert 0 <= fitted.assign(np.array([unseen]))[0] < fitted.size


@given(columns, st.data())
def test_merging_keeps_every_customer_and_the_order_of_the_bins(values, data):
    try:
        fitted = fit(values, bins=6)
    except DataError:
        return
    counts = np.array(
        data.draw(st.lists(st.integers(0, 9), min_size=fitted.size, max_size=fitted.size)), float
    )
    merged, groups = fitted.merge(counts, 5)
    totals = np.bincount(groups, counts, merged.size)
    assert totals.sum() == counts.sum()
    assert merged.size == 1 or totals.min() >= 5
    assert (np.diff(groups[: fitted.ordered]) >= 0).all()
    assert (merged.assign(np.array(values)) == groups[fitted.assign(np.array(values))]).all()


@given(st.lists(st.sampled_from("abcdefg"), min_size=12, max_size=60), st.data())
def test_merged_categories_agree_with_assigning_afresh(values, data):
    try:
        fitted = fit(values, kind="categorical", bins=5)
    except DataError:
        return
    counts = np.array(
        data.draw(st.lists(st.integers(0, 9), min_size=fitted.size, max_size=fitted.size)), float
    )
    merged, groups = fitted.merge(counts, 4)
    totals = np.bincount(groups, counts, merged.size)
    assert totals.sum() == counts.sum()
    assert merged.size == 1 or totals.min() >= 4
    assert (merged.assign(np.array(values)) == groups[fitted.assign(np.array(values))]).all()
    assert merged.assign(np.array(["never seen"]))[0] == merged.fallback


def test_quantile_bins_have_nearly_equal_counts():
    fitted = fit(np.random.default_rng(1).normal(size=1000))
    assert fitted.size == 10
    assert np.ptp(np.bincount(fitted.assign(np.random.default_rng(1).normal(size=1000)))) <= 1


def test_a_frequent_value_has_a_bin_of_its_own():
    fitted = fit([0.0] * 60 + list(range(1, 41)), bins=5)
    assert fitted.edges[0] == 1.0
    assert fitted.size == 5


def test_missing_numbers_have_a_bin_of_their_own_if_there_are_enough():
    values = [float("nan")] * 10 + list(range(90))
    assert fit(values, minimum=5).labels[-1] == "missing"
    assert fit(values, minimum=11).labels[-1] != "missing"


def test_bins_survive_json():
    for fitted in (fit([1.0, 2, 3, np.nan]), fit(["a", "b", "", None], kind="categorical")):
        assert ColumnBins.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted


def test_a_description_that_contradicts_itself_is_refused():
    document = fit([1.0, 2, 3, 4]).to_dict()
    for change in ({"edges": [3.0, 2.0]}, {"fallback": 99}, {"kind": "dense"}, {"edges": None}):
        with pytest.raises(DataError):
            ColumnBins.from_dict(document | change)


@pytest.mark.parametrize(
    ("values", "message", "row"),
    [
        ([1.0, np.inf, 2.0], "infinite", 2),
        (np.array(["1", "2", "abc"], dtype=object), "found text", 3),
        ([5.0, 5.0, 5.0], "constant", None),
        ([np.nan, np.nan], "constant", None),
    ],
)
def test_an_unusable_numeric_column_is_refused_by_name(values, message, row):
    with pytest.raises(DataError, match=message) as caught:
        fit(values)
    assert (caught.value.field, caught.value.party, caught.value.row) == ("turnover", "tax", row)
    assert "abc" not in str(caught.value)


def test_text_that_spells_numbers_is_read_as_numbers():
    assert fit(np.array(["1", " 2 ", "", None, "3"], dtype=object)).labels[-1] == "missing"


def test_fewer_rows_than_the_minimum_per_bin_are_refused():
    with pytest.raises(DataError, match="no two bins have 50 rows"):
        fit([0.0] * 96 + [1.0] * 4, minimum=50)


def test_a_direction_for_categories_is_refused():
    with pytest.raises(DataError, match="no order"):
        fit(["a", "b"], kind="categorical", monotone="increasing")


def make_design():
    table = Columns(a=np.arange(40.0), b=np.array(["x", "y"] * 20), c=np.array([0.0] * 20 + [1.0] * 20))
    return fit_design(table, [spec("a", bins=4), spec("b", "categorical"), spec("c")], 5, party="tax")


def test_a_design_numbers_the_bins_of_all_columns():
    design = make_design()
    assert design.width == 8
    assert design.codes.dtype == np.int32
    assert (np.bincount(design.codes.ravel()) == [10, 10, 10, 10, 20, 20, 20, 20]).all()


def test_a_column_without_signal_is_dropped_with_a_notice():
    counts = np.array([30.0, 30, 30, 30, 60, 60, 119, 1])
    merged, groups = make_design().merged(counts, 5)
    assert merged.dropped == ("c",)
    assert list(groups) == [0, 1, 2, 3, 4, 5, -1, -1]
    assert merged.codes.shape == (40, 2)


def test_columns_that_say_nothing_can_be_left_out_with_a_notice():
    table = Columns(a=np.arange(40.0), constant=np.ones(40), thin=np.array([0.0] * 38 + [1.0] * 2))
    design = fit_usable_design(table, [spec("constant"), spec("a", bins=4), spec("thin")], 5, party="bank")
    assert design.dropped == ("constant", "thin")
    assert design.columns == fit_design(table, [spec("a", bins=4)], 5, party="bank").columns
    nothing = fit_usable_design(table, [spec("constant")], 5, party="bank")
    assert (nothing.width, nothing.codes.shape) == (0, (40, 0))


def test_a_cell_that_is_no_number_is_refused_also_where_columns_may_be_left_out():
    table = Columns(a=np.array(["1", "abc"], dtype=object))
    with pytest.raises(DataError, match="field a"):
        fit_usable_design(table, [spec("a")], 1, party="bank")


def test_a_design_without_any_signal_is_refused():
    with pytest.raises(DataError, match="minimum cohort of 500"):
        make_design().merged(np.full(8, 30.0), 500)


def test_joined_designs_keep_their_columns_apart():
    design = make_design()
    joined = Design.joined([design, design.take(np.arange(40))])
    assert joined.width == 16
    assert (joined.codes[:, 3:] == design.codes + 8).all()
