"""Candidates: what a change does to the base, what is refused, and figures that tell how many were tried."""

from __future__ import annotations

import json

import html5lib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedshare.errors import ConfigError, DataError
from fedshare_clients.local import compare
from fedshare_clients.local.compare import load_comparison, run_comparison

BASE = {
    "name": "base",
    "alignment": {"identifier": "opaque", "quota": 100},
    "parties": {
        "tax": {
            "role": "feature_holder",
            "source": {"path": "t"},
            "columns": ["a", {"name": "b", "monotone": "increasing"}],
        },
        "court": {"role": "feature_holder", "source": {"path": "c"}, "columns": ["d"]},
        "bank": {"role": "label_holder", "source": {"path": "b", "label": "bad"}, "columns": ["e"]},
    },
}


@pytest.fixture
def loaded(tmp_path):
    def load(**candidates):
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
        path = tmp_path / "candidates.yaml"
        path.write_text(yaml.safe_dump({"base": "base.yaml", "candidates": candidates}))
        return load_comparison(path)

    return load


def test_a_candidate_changes_what_it_names_and_nothing_else(loaded):
    comparison = loaded(base={}, ridge={"model": {"ridge": 7}})
    base, ridge = comparison.candidates.values()
    assert ridge.model.ridge == 7
    assert ridge.model_copy(update={"model": base.model}) == base


def test_null_takes_a_party_out(loaded):
    candidates = loaded(base={}, fewer={"parties": {"court": None}}).candidates
    assert set(candidates["fewer"].parties) == {"tax", "bank"}
    assert set(candidates["base"].parties) == {"tax", "court", "bank"}


def test_bins_are_set_for_every_column_and_keep_the_rest_of_it(loaded):
    candidate = loaded(base={}, fine={"bins": 33}).candidates["fine"]
    assert {column.bins for party in candidate.parties.values() for column in party.columns} == {33}
    assert candidate.parties["tax"].columns[1].monotone == "increasing"
    assert {
        column.bins for column in loaded(base={}, fine={"bins": 33}).candidates["base"].parties["tax"].columns
    } == {10}


@pytest.mark.parametrize(
    ("candidates", "said"),
    [
        ({"one": {}}, "at least 2"),
        ({"one": {}, "two": {"model": {"rigde": 1}}}, "candidate two.*rigde"),
        ({"one": {}, "two": {"parties": {"bank": None}}}, "candidate two.*at least one"),
        ({"one": {}, "Two words": {}}, "candidates"),
    ],
)
def test_what_is_no_candidate_is_refused_by_name(loaded, candidates, said):
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        loaded(**candidates)


def harness(monkeypatch, scores):
    """Let runs leave what a federation leaves: the file of scored customers at the bank, without a federation."""

    def run(experiment, folder, *, check, say, score):
        name = folder.name
        if name not in scores:
            raise DataError("expected a column, found none", party="tax", field="a")
        labels, values = scores[name]
        kept = folder / "bank" / "state" / "runs" / "1"
        kept.mkdir(parents=True)
        count = len(labels)
        columns = {
            "identifier": [f"e{row}" for row in range(count)], "holdout": np.arange(count) % 2 == 0,
            "label": labels, "weight": np.ones(count), "score": values,
        }  # fmt: skip
        pq.write_table(pa.table(columns), kept / "customers.parquet")
        return {
            "run_id": 1,
            "banks": {"bank": {}},
            "bins": {"tax": 4},
            "iterations": 3,
            "seconds": {"total": 2.0},
            "bytes": {"tax": {"sent": 10**6}},
        }

    monkeypatch.setattr(compare, "run_experiment", run)


def sample(noise, seed=0):
    draw = np.random.default_rng(4)
    truth = draw.normal(size=900)
    labels = (draw.random(900) < 1 / (1 + np.exp(-truth))).astype(float)
    return labels, truth + noise * np.random.default_rng(seed).normal(size=900)


def test_candidates_are_compared_on_the_same_customers_and_the_trials_are_told(loaded, monkeypatch, tmp_path):
    harness(monkeypatch, {"good": sample(0.1), "poor": sample(5.0, 1), "same": sample(0.1)})
    document, failures = run_comparison(
        loaded(good={}, poor={}, same={}, broken={}), tmp_path / "out", say=lambda line: None
    )
    assert document["trials"] == 4
    assert document["customers"] == 450
    assert document["differences"]["poor"]["adjusted_p_value"] < 0.0001
    assert document["differences"]["same"] == {
        "difference": 0,
        "low": 0,
        "high": 0,
        "p_value": 1,
        "adjusted_p_value": 1,
    }
    assert list(failures) == ["broken"]
    page = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(page)
    assert "<strong>4 models were tried</strong>" in page
    assert "expected a column, found none" in page
    assert "<td>&lt; 0.0001</td>" in page
    assert "<td>0.0000</td>" not in page
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == document


def test_if_every_candidate_fails_the_first_cause_is_the_answer(loaded, monkeypatch, tmp_path):
    harness(monkeypatch, {})
    with pytest.raises(DataError, match="expected a column"):
        run_comparison(loaded(one={}, two={}), tmp_path / "out", say=lambda line: None)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_adjusted_p_values_are_not_smaller_and_keep_their_order(values):
    raw = {str(place): value for place, value in enumerate(values)}
    adjusted = compare._holm(raw)
    assert all(raw[name] <= adjusted[name] <= 1 for name in raw)
    assert min(adjusted.values()) == pytest.approx(min(1.0, len(values) * min(values)))
    ordered = sorted(raw, key=raw.get)
    assert [adjusted[name] for name in ordered] == sorted(adjusted.values())
