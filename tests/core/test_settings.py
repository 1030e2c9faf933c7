"""YAML that people write."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedshare.errors import ConfigError
from fedshare.settings import parse_yaml

FILE = Path("contract.yaml")


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("quota: 10\nname: a\nquota: 10000\n", 3, "quota"),
        ("quota: 10\n'quota': 10000\n", 2, "quota"),
        ("alignment:\n  quota: 10\n  quota: 10\n", 3, "quota"),
        ("parties:\n  - {id: a,\n     id: b}\n", 3, "id"),
    ],
)
def test_a_key_that_is_there_twice_is_refused_by_its_line_and_name(text: str, line: int, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"contract\.yaml, line {line}: the key {key} is there twice"):
        parse_yaml(text, FILE)


def test_one_key_in_two_mappings_is_no_duplicate() -> None:
    assert parse_yaml("- {id: 1, in: {id: 2}}\n- {id: 3}\n", FILE) == [{"id": 1, "in": {"id": 2}}, {"id": 3}]


def test_a_mapping_may_say_otherwise_than_what_it_merges() -> None:
    text = "a: &a {bins: 5, kind: numeric}\nb: {<<: *a, bins: 10}\n"
    assert parse_yaml(text, FILE)["b"] == {"bins": 10, "kind": "numeric"}


@pytest.mark.parametrize("text", ["a: [\n}", "\x00", "2026-13-45", "!!python/object:os.system {}"])
def test_what_is_not_plain_yaml_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected YAML"):
        parse_yaml(text, FILE)


def test_an_empty_text_says_nothing() -> None:
    assert parse_yaml("", FILE) is None
