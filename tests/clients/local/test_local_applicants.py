"""Whom a bank of an experiment scores."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedshare_clients.local.applicants import applicants_of
from fedshare_clients.local.experiment import Source
from fedshare_clients.node.config import parse_config

NODE = """
party: bank
role: label_holder
coordinator: {address: "127.0.0.1:1", fleet: "127.0.0.1:1"}
data:
  source: parquet
  path: bank.parquet
  identifier: code
  identifier_kind: opaque
  label: bad
  columns: {usage: {kind: numeric, column: usage_rate}}
"""


@pytest.fixture
def config(tmp_path):
    rows = {"code": ["a", "b"], "usage_rate": [0.1, 0.2], "bad": [0, 1]}
    pq.write_table(pa.table(rows), tmp_path / "bank.parquet")
    return parse_config(NODE, tmp_path / "node.yaml")


def test_without_applicants_it_is_the_banks_own_rows_by_name_only(config):
    assert applicants_of(config, None).to_pydict() == {"code": ["a", "b"]}


def test_applicants_bring_the_banks_columns_and_nothing_else(config, tmp_path):
    rows = {"firm": ["x", "y"], "usage_rate": [0.5, None], "phone": ["1", "2"]}
    pq.write_table(pa.table(rows), tmp_path / "new.parquet")
    source = Source(kind="parquet", path=str(tmp_path / "new.parquet"), identifier="firm")
    assert applicants_of(config, source).to_pydict() == {"code": ["x", "y"], "usage_rate": [0.5, None]}


def test_applicants_may_come_from_a_query(config, tmp_path):
    query = f"select code from '{tmp_path}/bank.parquet' where bad = 0"  # noqa: S608
    source = Source(kind="query", query=query, identifier="code")
    assert applicants_of(config, source).to_pydict() == {"code": ["a"]}
