"""Every source refuses the same bad rows with the same words, and never says what is in a cell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from node_rows import CODES, WRONG_CODE, good_rows

from fedshare.errors import DataError
from fedshare_clients.node.data import inspect, load
from fedshare_clients.node.data.table import Table


def refused(config, *, field, row=None):
    with pytest.raises(DataError) as caught:
        load(config)
    error = caught.value
    assert (error.party, error.field, error.row) == ("bank-a", field, row), str(error)
    assert error.source
    assert "expected" in str(error) or "identifier" in str(error) or "code" in str(error)
    return str(error)


def changed(name, values):
    return {**good_rows(), name: values}


def test_good_rows_load_with_missing_cells_as_nan_and_none(write):
    table = load(write(good_rows()))
    assert table.identifiers == [b"a1", b"a2", b"a3", b"a4"]
    np.testing.assert_array_equal(table.column("turnover"), [1.5, np.nan, 2.5, -4.0])
    assert table.column("grade").tolist() == ["A", "B", None, "A"]
    assert table.label.tolist() == [0, 1, 0, 1]
    assert table.weight.tolist() == [1, 2, 1, 0.5]


def test_rows_without_a_weight_column_weigh_one(write):
    assert load(write(good_rows(), weight=None)).weight.tolist() == [1.0] * 4


def test_a_missing_identifier_is_refused(write):
    refused(write(changed("code", ["a1", "a2", None, "a4"])), field="code", row=3)


def test_a_duplicate_identifier_is_refused(write):
    assert "a2" not in refused(write(changed("code", ["a1", "a2", "a2", "a4"])), field="code", row=3)


def test_a_wrong_check_digit_is_refused(write):
    codes = [*CODES, WRONG_CODE]
    message = refused(write(changed("code", codes), identifier_kind="uscc"), field="code", row=4)
    assert "check digit" in message


def test_wrong_check_digits_are_kept_if_the_configuration_says_so(write):
    codes = [*CODES, WRONG_CODE]
    config = write(changed("code", codes), identifier_kind="uscc", check_digits=False)
    assert len(load(config)) == 4


def test_text_in_a_numeric_column_is_refused_without_being_shown(write):
    message = refused(write(changed("sales", ["1", "2", "secret", "4"])), field="sales", row=3)
    assert "found text" in message
    assert "secret" not in message


def test_text_that_spells_numbers_is_read_as_numbers(write):
    table = load(write(changed("sales", ["1", " 2 ", "NA", "4e3"])))
    np.testing.assert_array_equal(table.column("turnover"), [1, 2, np.nan, 4000])


def test_an_infinite_value_is_refused(write):
    refused(write(changed("sales", [1.0, 2.0, 3.0, math.inf])), field="sales", row=4)


def test_a_constant_column_is_refused(write):
    refused(write(changed("sales", [7.0] * 4)), field="sales")


def test_an_all_missing_column_is_refused(write):
    refused(write(changed("grade", ["", "", "NA", "NULL"])), field="grade")


def test_a_label_that_is_neither_0_nor_1_is_refused(write):
    assert "0 or 1" in refused(write(changed("bad", [0, 1, 2, 1])), field="bad", row=3)


def test_a_missing_label_is_refused(write):
    assert "0 or 1" in refused(write(changed("bad", [0, 1, None, 1])), field="bad", row=3)


def test_a_label_of_one_kind_only_is_refused(write):
    refused(write(changed("bad", [0, 0, 0, 0])), field="bad")


def test_a_boolean_label_is_read_as_0_and_1(write):
    labels = [False, True, False, True]
    config = write(changed("bad", labels))
    if config.data.source == "csv":
        refused(config, field="bad", row=1)  # a CSV file has text only
    else:
        assert load(config).label.tolist() == [0, 1, 0, 1]


def test_a_weight_that_is_not_positive_is_refused(write):
    refused(write(changed("exposure", [1.0, 0.0, 1.0, 1.0])), field="exposure", row=2)


def test_a_declared_column_that_is_not_there_is_refused_with_what_is_there(write):
    rows = good_rows()
    del rows["sales"]
    message = refused(write(rows), field="sales")
    assert "bad, code, exposure, grade" in message


def test_an_empty_source_is_refused(write):
    rows = {"code": ["a1"], "sales": [1.0], "grade": ["A"], "bad": [0], "exposure": [1.0]}
    config = write(rows)
    if config.data.source == "postgresql":
        empty = {"table": None, "query": f"SELECT * FROM {config.data.table} WHERE false;"}  # noqa: S608 - our own table
        config = config.model_copy(update={"data": config.data.model_copy(update=empty)})
    else:
        config = write({name: values[:0] for name, values in rows.items()})
    assert "found none" in refused(config, field="")


def test_more_rows_than_the_limit_are_refused(write):
    config = write(good_rows())
    limited = config.model_copy(update={"limits": config.limits.model_copy(update={"rows": 3})})
    assert "limits.rows" in refused(limited, field="")


def test_all_problems_are_found_at_once(write):
    rows = {
        **good_rows(),
        "code": ["a1", "a1", "a3", "a4"],
        "sales": ["x", "2", "3", "4"],
        "grade": ["A"] * 4,
        "bad": [0, 1, 5, 1],
    }
    del rows["exposure"]
    inspection = inspect(write(rows))
    assert {problem.field for problem in inspection.problems} == {"code", "sales", "grade", "bad", "exposure"}
    assert inspection.table is None
    assert inspection.rows == 4


def test_the_digest_of_a_table_changes_with_any_cell_and_with_nothing_else():
    def table(**changes):
        parts = {
            "identifiers": [b"a", b"bc"],
            "columns": {"n": np.array([1.0, np.nan])},
            "label": np.array([0.0, 1.0]),
        }
        parts["columns"]["c"] = np.array(["x", None], dtype=object)
        return Table("source", **{**parts, **changes}).digest()

    assert table() == table()
    changed = [
        table(identifiers=[b"ab", b"c"]),
        table(label=np.array([1.0, 1.0])),
        table(columns={"n": np.array([1.0, np.nan])}),
        table(columns={"n": np.array([1.0, 2.0]), "c": np.array(["x", None], dtype=object)}),
        table(columns={"n": np.array([1.0, np.nan]), "c": np.array(["x", ""], dtype=object)}),
        table(weight=np.array([0.5, 1.0])),
    ]
    assert len({table(), *changed}) == 7
