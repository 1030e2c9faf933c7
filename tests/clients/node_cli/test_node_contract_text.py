"""The page to read before signing leaves out no term of the contract, and no term can rearrange it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedshare.contract.model import parse_contract
from fedshare_clients.node.contract_text import all_terms, contract_text
from fedshare_clients.node.contracts import FetchedContract

VECTOR = json.loads(
    (Path(__file__).parents[2] / "vectors/identity/contract.json").read_text(encoding="utf-8")
)["document"]
BANK, COURT, TAX = VECTOR["parties"]
CATEGORIES = [f"category number {number}" for number in range(40)]
COLUMNS = [
    {"name": "utilisation"},
    {"name": "kind of firm", "kind": "categorical", "categories": CATEGORIES},
]


def with_scoring():
    """Return a contract with every section that goes with feature holders."""
    return parse_contract(
        {
            **VECTOR,
            "parties": [{**BANK, "columns": COLUMNS}, COURT, TAX],
            "bank_model": {
                "kind": "own-kind",
                "settings": {"width": 7, "form": "deep"},
                "code_digest": "ab" * 32,
            },
            "scoring": {
                "quota": 77,
                "fallback": "own_model",
                "reasons": [{"name": "turnover", "party": "tax", "columns": ["turnover"]}],
                "profile": {"consent_key": TAX["identity_key"], "releases": ["band", "coverage"]},
            },
            "portfolio": {"industries": ["mining", "trade"], "regions": ["north"]},
            "privacy": {"labels": {"epsilon": 3}},
        }
    )


def with_private_network():
    """Return a contract between banks alone, with noise on their network."""
    banks = [{**party, "role": "label_holder", "columns": COLUMNS} for party in (BANK, COURT, TAX)]
    network = {
        "epsilon": 2,
        "delta": 1e-6,
        "sample_rate": 0.25,
        "lot_size": 64,
        "ranges": {"utilisation": [0, 9]},
    }
    return parse_contract(
        {**VECTOR, "parties": banks, "alignment": {"quota": 5}, "bank_model": {"kind": "mlp"}}
        | {"privacy": {"network": network}}
    )


CONTRACTS = {"scoring": with_scoring(), "private network": with_private_network()}


def places(value, where=()):
    """Yield the keys that lead to every value in a document that holds no others."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not inner:
        yield where
    for key, each in inner:
        yield from places(each, (*where, key))


def unwrapped(lines):
    return "\n".join(lines).replace("\n      ", "")


def page(contract):
    return contract_text(FetchedContract(contract, "proposed", {}), SimpleNamespace(party="bank"))


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
def test_every_term_that_is_changed_shows_on_the_page(contract):
    signed = json.loads(contract.canonical())
    for *way, last in places(signed):
        changed = copy.deepcopy(signed)
        holder = changed
        for key in way:
            holder = holder[key]
        holder[last] = "another value"
        shown = unwrapped(all_terms(changed))
        assert shown.count('"another value"') == 1, (way, last)
        named = [key for key in (*way, last) if isinstance(key, str)]
        (line,) = (line for line in shown.splitlines() if '"another value"' in line)
        assert all(name in line for name in named)


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
def test_the_page_to_sign_holds_all_terms(contract):
    assert "\n".join(all_terms(json.loads(contract.canonical()))) in page(contract)


def test_terms_are_shown_by_path_and_value_and_long_lists_are_wrapped():
    lines = all_terms(json.loads(with_scoring().canonical()))
    assert '  scoring.fallback = "own_model"' in lines
    assert f'  scoring.profile.consent_key = "{TAX["identity_key"]}"' in lines
    assert "  alignment.check_digits = true" in lines
    assert "  scoring.refresh_seconds = 86400" in lines
    assert '  portfolio.industries = ["mining", "trade"]' in lines
    assert max(map(len, lines)) <= 120
    assert f"  parties[0].columns[1].categories = {json.dumps(CATEGORIES)}" in unwrapped(lines)


def test_no_term_rearranges_the_page():
    signed = with_scoring().model_dump(mode="json")
    for mark in ("\n", "\x1b[2K", "\x7f", "\u202e"):
        signed["bank_model"]["settings"]["form"] = f"deep{mark}"
        hostile = parse_contract(signed)
        assert all(line.isprintable() for line in page(hostile).splitlines())
        assert page(hostile).count("deep\\") == 2
