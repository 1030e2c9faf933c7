"""The drift of columns against a sample whose change is known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from credit_tables import Columns

from fedshare.credit.bins import fit_design
from fedshare.credit.drift import column_drifts, row_reference
from fedshare.credit.stability import stability_index


def spec(name, kind="numeric"):
    return SimpleNamespace(name=name, kind=kind, bins=5, monotone="none")


def rows(count, seed, *, moved=0.0, words=("a", "b")):
    rng = np.random.default_rng(seed)
    word = np.array(words, dtype=object)[rng.integers(0, len(words), count)]
    return Columns(kept=rng.normal(size=count), moved=rng.normal(moved, size=count), word=word)


def kept(table):
    columns = [spec("kept"), spec("moved"), spec("word", "categorical")]
    return json.loads(json.dumps(row_reference(fit_design(table, columns, 20, party="tax"))))


def test_only_the_column_that_moved_has_shifted_and_stands_first():
    first, *others = column_drifts(kept(rows(5000, 1)), rows(3000, 2, moved=1.0), party="tax")
    assert (first.name, first.stability.verdict) == ("moved", "shifted")
    assert [each.stability.verdict for each in others] == ["stable", "stable"]


def test_shares_are_those_of_the_rows_in_the_bins_of_training():
    then, today = rows(1000, 1), rows(400, 2, moved=0.7)
    drifts = {each.name: each for each in column_drifts(kept(then), today, party="tax")}
    found, edges = drifts["moved"], np.quantile(then.column("moved"), [0.2, 0.4, 0.6, 0.8])
    before, now = (
        np.bincount(np.searchsorted(edges, table.column("moved")), minlength=5) for table in (then, today)
    )
    np.testing.assert_allclose(found.before, before / 1000, atol=0.002)
    np.testing.assert_allclose(found.now, now / 400, atol=0.01)
    assert found.stability.index == pytest.approx(stability_index(before, now).index, rel=0.02)
    assert len(found.labels) == 5


def test_a_word_that_training_did_not_know_counts_as_one_of_the_others():
    found = column_drifts(kept(rows(1000, 1)), rows(1000, 2, words=("a", "c")), party="tax")
    assert (found[0].name, found[0].stability.verdict) == ("word", "shifted")


def test_few_rows_that_differ_by_chance_are_stable_however_many_columns_there_are():
    # 200 draws of 60 rows from 5,000, 20 columns each, seed 3: without the thresholds most indices above 0.1 would alarm.
    rng = np.random.default_rng(3)
    names = [f"c{number}" for number in range(20)]
    then = Columns(**{name: rng.normal(size=5000) for name in names})
    reference = row_reference(fit_design(then, [spec(name) for name in names], 20, party="tax"))
    large, alarms = 0, 0
    for _ in range(200):
        picked = rng.integers(0, 5000, 60)
        today = Columns(**{name: then.column(name)[picked] for name in names})
        drifts = column_drifts(reference, today, party="tax")
        large += any(each.stability.index > 0.1 for each in drifts)
        alarms += any(each.stability.verdict != "stable" for each in drifts)
    # At most 10 alarms are expected; more than 20 have a probability below 0.002.
    assert large > 150
    assert alarms <= 20
