"""A saved model applied to rows that training never saw."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare.credit.column import ColumnBins
from fedshare.errors import ConfigError, DataError
from fedshare.scoring.saved import SavedModel

AGE = ColumnBins("age", "numeric", (2.0, 5.0), (), 3)  # below 2, 2 to 5, above, missing
TRADE = ColumnBins("trade", "categorical", (), ("retail", "food"), 2)  # and others
RESULT = {
    "bins": {"columns": [AGE.to_dict(), TRADE.to_dict()]},
    "weights": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0],
    "neutral": [2.0, 20.0],
    "intercept": 0.5,
    "own_model": {"weights": [0.0] * 7, "neutral": [0.0, 0.0], "intercept": -3.0},
}


class Rows:
    source = "rows"

    def __init__(self, **columns):
        self.columns = {name: np.array(cells, dtype=object) for name, cells in columns.items()}

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def column(self, name):
        if name not in self.columns:
            raise DataError("there is no such column", field=name)
        return self.columns[name]


ROWS = Rows(age=[1.9, 2.0, 1e300, None], trade=["retail", "food", "mining", None])


def test_every_value_falls_into_the_bin_of_training_and_an_unseen_one_into_the_bin_for_it():
    model = SavedModel.from_result(json.loads(json.dumps(RESULT)))
    expected = [0.5 + 1 + 16, 0.5 + 2 + 32, 0.5 + 4 + 64, 0.5 + 8 + 64]
    np.testing.assert_array_equal(model.scores(model.assign(ROWS)), expected)


def test_the_banks_own_model_is_another_part_of_the_same_result():
    model = SavedModel.from_result(RESULT, "own_model")
    np.testing.assert_array_equal(model.scores(model.assign(ROWS)), [-3.0] * 4)


def test_a_holder_has_no_intercept():
    holder = {name: RESULT[name] for name in ("bins", "weights", "neutral")}
    assert SavedModel.from_result(holder).intercept == 0.0


def test_contributions_are_measured_from_the_mean_training_customer():
    model = SavedModel.from_result(RESULT)
    above = model.contributions(model.assign(ROWS))
    np.testing.assert_array_equal(above, [[-1.0, -4.0], [0.0, 12.0], [2.0, 44.0], [6.0, 44.0]])
    np.testing.assert_array_equal(model.group(above, {"age"}), [-1.0, 0.0, 2.0, 6.0])
    np.testing.assert_array_equal(model.group(above, {"age", "trade"}), [-5.0, 12.0, 46.0, 50.0])
    np.testing.assert_array_equal(model.group(above, {"left-out"}), [0.0] * 4)


@given(st.lists(st.one_of(st.none(), st.floats(allow_infinity=False)), min_size=1, max_size=20))
def test_a_score_is_the_sum_of_one_weight_per_column(ages):
    rows = Rows(age=ages, trade=[None] * len(ages))
    model = SavedModel.from_result(RESULT)
    scores = model.scores(model.assign(rows))
    for age, score in zip(ages, scores, strict=True):
        weight = 8.0 if age is None or np.isnan(age) else 1.0 if age < 2 else 2.0 if age < 5 else 4.0
        assert score == 0.5 + weight + 64.0


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match="trade"):
        SavedModel.from_result(RESULT).assign(Rows(age=[1.0]))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("bins",), None),
        (("bins", "columns"), [1]),
        (("weights",), [1.0]),
        (("weights",), "text"),
        (("weights",), [float("nan")] * 7),
        (("neutral",), [0.0]),
        (("intercept",), float("inf")),
        (("intercept",), None),
    ],
)
def test_a_damaged_result_is_refused(path, value):
    damaged = copy.deepcopy(RESULT)
    place = damaged
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(ConfigError, match="saved model"):
        SavedModel.from_result(damaged)


@pytest.mark.parametrize("name", ["bins", "weights", "neutral"])
def test_an_incomplete_result_is_refused(name):
    with pytest.raises(ConfigError, match="damaged"):
        SavedModel.from_result({key: value for key, value in RESULT.items() if key != name})


def test_the_banks_own_model_may_have_bins_of_its_own():
    own = {
        "bins": {"columns": [AGE.to_dict()]},
        "weights": [1.0, 2.0, 3.0, 4.0],
        "neutral": [0.0],
        "intercept": 0.0,
    }
    model = SavedModel.from_result({**RESULT, "own_model": own}, "own_model")
    np.testing.assert_array_equal(model.scores(model.assign(ROWS)), [1.0, 2.0, 3.0, 4.0])
