"""Rows that a bank may have, and settings that read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from fedshare.credit.identifiers import check_digit
from fedshare_clients.node.config import NodeConfig, parse_config

if TYPE_CHECKING:
    from pathlib import Path

CODES = [each + check_digit(each) for each in ("91350100M000100Y4", "91110000600037341", "91310000607378243")]
WRONG_CODE = CODES[0][:-1] + ("1" if CODES[0][-1] == "0" else "0")


def good_rows() -> dict[str, list[Any]]:
    return {
        "code": ["a1", "a2", "a3", "a4"],
        "sales": [1.5, None, 2.5, -4.0],
        "grade": ["A", "B", None, "A"],
        "bad": [0, 1, 0, 1],
        "exposure": [1.0, 2.0, 1.0, 0.5],
    }


def settings(folder: Path, source: dict[str, Any], **changes: Any) -> NodeConfig:
    data = {
        "identifier": "code",
        "identifier_kind": "opaque",
        "label": "bad",
        "weight": "exposure",
        "columns": {"turnover": {"kind": "numeric", "column": "sales"}, "grade": {"kind": "categorical"}},
        **source,
        **changes,
    }
    document = {
        "party": "bank-a",
        "role": "label_holder",
        "coordinator": {"address": "localhost:1", "fleet": "localhost:2"},
        "data": data,
    }
    return parse_config(yaml.safe_dump(document), folder / "node.yaml")
