"""What a network sees of a column follows from bins that all banks share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare.contract.model import Column
from fedshare.credit.bins import ColumnBins
from fedshare.errors import ConfigError, DataError
from fedshare.training.network.inputs import Schema, encode, public_bins
from fedshare_clients.node.data import Table

EDGES = (10.0, 20.0, 40.0)
AMOUNT = ColumnBins("amount", "numeric", EDGES, (), 4)
TRADE = ColumnBins("trade", "categorical", (), ("food", "retail"), 2)


def table(amount, trade=None):
    columns = {"amount": np.array(amount, dtype=float)}
    if trade is not None:
        columns["trade"] = np.array(trade, dtype=object)
    return Table("rows", [b"%d" % row for row in range(len(amount))], columns)


def numbers(values):
    return encode([AMOUNT], table(values), party="bank").numeric[:, 0]


def test_edges_stand_evenly_and_the_middle_one_at_zero():
    assert np.allclose(numbers([10.0, 20.0, 40.0]), np.sqrt(3.0) * np.array([-0.5, 0.0, 0.5]))


@given(st.lists(st.floats(-1e12, 1e12), min_size=2, max_size=30))
def test_a_larger_value_never_stands_lower_and_none_stands_further_out_than_three(values):
    placed = numbers(sorted(values))
    assert (np.diff(placed) >= 0).all()
    assert np.abs(placed).max() <= 3.0


def test_a_missing_number_is_zero_with_a_flag():
    inputs = encode([AMOUNT], table([np.nan, 20.0, 50.0]), party="bank")
    assert inputs.numeric[0].tolist() == [0.0, 1.0]
    assert inputs.numeric[1:, 1].tolist() == [0.0, 0.0]


def test_categories_are_the_codes_of_their_bins_and_unknown_ones_share_the_last():
    inputs = encode([AMOUNT, TRADE], table([1.0] * 4, ["food", "retail", "space travel", None]), party="bank")
    assert inputs.categories[:, 0].tolist() == [0, 1, 2, 2]
    assert inputs.schema == Schema(2, (3,))


def test_one_edge_alone_still_tells_both_sides():
    single = ColumnBins("amount", "numeric", (0.0,), (), 2)
    low, high = encode([single], table([-1.0, 1.0]), party="bank").numeric[:, 0]
    assert low < 0.0 < high


def test_public_bins_need_no_data():
    columns = [
        Column(name="amount", bins=4),
        Column(name="age", bins=2),
        Column(name="trade", kind="categorical", categories=("food", "retail")),
    ]
    found = public_bins(columns, {"amount": (0.0, 30.0), "age": (18.0, 80.0)})
    assert found[0].edges == (0.0, 15.0, 30.0)
    assert found[1].edges == (18.0, 80.0)
    assert (found[2].categories, found[2].size) == (("food", "retail"), 3)


def test_public_bins_without_a_range_are_refused():
    with pytest.raises(ConfigError, match="amount has no range"):
        public_bins([Column(name="amount")], {})


def test_text_in_a_numeric_column_is_refused():
    rows = Table("rows", [b"1"], {"amount": np.array(["many"], dtype=object)})
    with pytest.raises(DataError, match="amount"):
        encode([AMOUNT], rows, party="bank")
