"""What is a contract and what is none; its canonical form and digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from contract_documents import KEYS, contract, document, party
from hypothesis import given
from hypothesis import strategies as st

from fedshare.contract.model import parse_contract
from fedshare.errors import ConfigError
from fedshare.identity.keys import encode_public_key

VECTOR = json.loads(
    (Path(__file__).parents[2] / "vectors/identity/contract.json").read_text(encoding="utf-8")
)


def test_the_canonical_form_and_the_digest_are_the_published_ones():
    agreed = parse_contract(VECTOR["document"])
    assert agreed.canonical().decode() == VECTOR["canonical"]
    assert agreed.digest() == hashlib.sha256(VECTOR["canonical"].encode()).hexdigest() == VECTOR["digest"]
    assert agreed.ring_seed().hex() == VECTOR["ring_seed"]


def test_the_canonical_form_is_a_contract_with_the_same_digest():
    agreed = contract()
    assert parse_contract(agreed.canonical()) == agreed
    assert parse_contract(agreed.canonical()).digest() == agreed.digest()


def test_the_order_of_fields_and_the_spelling_of_times_and_numbers_do_not_change_the_digest():
    spelled = document(
        valid_from="2026-01-01T08:00:00+08:00", holdout_share=0.30, model={"ridge": 1, "max_iterations": 30}
    )
    assert parse_contract(dict(reversed(spelled.items()))).digest() == contract().digest()


CHANGES = [
    {"name": "other"},
    {"purpose": "another"},
    {"model": {"ridge": 2.0}},
    {"model": {"max_iterations": 29}},
    {"alignment": {"quota": 5001}},
    {"holdout_share": 0.31},
    {"minimum_cohort": 29},
    {"outputs": {"coordinator_metrics": True}},
    {"valid_from": "2026-01-01T00:00:01Z"},
    {"valid_until": "2027-01-01T00:00:01Z"},
    {"retention_days": 364},
    {"max_runs": 4},
    {"code_digest": "c1" * 32},
    {"nonce": "12" * 32},
    {"parties": document()["parties"][1:]},
    {"parties": document()["parties"][::-1]},
]


def test_every_change_changes_the_digest_and_the_ring_seed():
    agreed = [contract(), *(contract(**change) for change in CHANGES)]
    assert (
        len({each.digest() for each in agreed}) == len({each.ring_seed() for each in agreed}) == len(agreed)
    )


def places(value, path=()):
    """Yield the path of every object in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, dict):
        yield path
    for key, each in items:
        yield from places(each, (*path, key))


@pytest.mark.parametrize("path", list(places(json.loads(contract().canonical()))), ids=str)
def test_an_unknown_field_is_refused_wherever_it_stands(path):
    changed = json.loads(contract().canonical())
    at = changed
    for key in path:
        at = at[key]
    at["surprise"] = 1
    with pytest.raises(ConfigError, match="surprise"):
        parse_contract(changed)


REFUSED = [
    ({"version": 2}, "version"),
    ({"purpose": ""}, "purpose"),
    ({"purpose": " \n "}, "purpose"),
    ({"purpose": "score\x1b[2Jnothing to see"}, "printable"),
    ({"purpose": "score \u202enoitavonni"}, "printable"),
    ({"name": "joint-score\n"}, "name"),
    ({"parties": document()["parties"][:1]}, "parties"),
    ({"parties": document()["parties"][:2]}, "label_holder"),
    ({"parties": document()["parties"][2:] * 2}, "same id"),
    (
        {"parties": [*document()["parties"], {**party("bank", "label_holder"), "id": "b"}]},
        "same identity_key",
    ),
    ({"parties": [{**party("tax", "feature_holder"), "id": "coordinator"}]}, "coordinator"),
    ({"parties": [party("tax", "feature_holder")]}, "at least one column"),
    ({"parties": [party("tax", "feature_holder", {"name": "a"}, {"name": "a"})]}, "same name"),
    ({"parties": [party("tax", "feature_holder", {"name": "a\tb"})]}, "printable"),
    ({"parties": [party("tax", "feature_holder", {"name": "a "})]}, "printable"),
    ({"parties": [party("tax", "feature_holder", {"name": "a", "classification": "x\ny"})]}, "printable"),
    ({"parties": [party("tax", "feature_holder", {"name": "a", "bins": 101})]}, "bins"),
    (
        {
            "parties": [
                party("tax", "feature_holder", {"name": "a", "kind": "categorical", "monotone": "increasing"})
            ]
        },
        "no order",
    ),
    ({"model": {"ridge": 0}}, "ridge"),
    ({"model": {"ridge": float("nan")}}, "ridge"),
    ({"model": {"smoothness": float("inf")}}, "smoothness"),
    ({"model": {"max_iterations": 201}}, "max_iterations"),
    ({"alignment": {}}, "quota"),
    ({"alignment": {"quota": 0}}, "quota"),
    ({"alignment": {"quota": 2**60}}, "quota"),
    ({"alignment": {"quota": 1, "missing_enterprises": "impute"}}, "roster_digest"),
    ({"alignment": {"quota": 1, "roster_digest": "00" * 32}}, "roster_digest"),
    ({"holdout_share": 0.0}, "holdout_share"),
    ({"holdout_share": float("nan")}, "holdout_share"),
    ({"minimum_cohort": 0}, "minimum_cohort"),
    ({"max_runs": 0}, "max_runs"),
    ({"max_runs": 1001}, "max_runs"),
    ({"minimum_cohort": 2**60}, "minimum_cohort"),
    ({"valid_from": "2026-01-01T00:00:00"}, "time zone"),
    ({"valid_from": "2026-01-01T00:00:00.5Z"}, "whole seconds"),
    ({"valid_from": "0001-01-01T00:00:00+14:00"}, "years"),
    ({"valid_until": "2026-01-01T00:00:00Z"}, "after valid_from"),
    ({"code_digest": "C0" * 32}, "code_digest"),
    ({"nonce": "11" * 31}, "nonce"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_contract_is_refused_with_the_field_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        parse_contract(document(**changes))


@pytest.mark.parametrize("name", ["Tax", "", "tax bureau", "tax|bank", "tax\n", "x" * 33])
def test_a_party_id_that_is_no_plain_word_is_refused(name):
    with pytest.raises(ConfigError, match="id"):
        parse_contract(document(parties=[{**party("tax", "feature_holder", {"name": "a"}), "id": name}]))


def test_a_second_spelling_of_a_key_is_refused():
    text = encode_public_key(KEYS["tax"].public_bytes())
    respelled = text[:-2] + chr(ord(text[-2]) + 1) + "="
    for key in (respelled, text + "\n", "", "AAAA"):
        parties = [{**party("tax", "feature_holder", {"name": "a"}), "identity_key": key}]
        with pytest.raises(ConfigError, match="identity_key"):
            parse_contract(document(parties=parties))


def test_line_ends_in_a_purpose_become_spaces():
    assert contract(purpose="One\n  line.\n").purpose == "One line."


def test_the_message_about_a_hostile_field_is_printable_and_short():
    with pytest.raises(ConfigError) as caught:
        parse_contract(document(**{"\x1b[2J" + "x" * 5000: 1}, **{f"f{n}": 1 for n in range(100)}))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 5000


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_arbitrary_bytes_are_refused(data):
    with pytest.raises(ConfigError):
        parse_contract(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(sorted(document())),
)
def test_an_arbitrary_value_of_a_field_is_refused_or_gives_a_digest(value, field):
    try:
        agreed = parse_contract(document(**{field: value}))
    except ConfigError:
        return
    assert parse_contract(agreed.canonical()).digest() == agreed.digest()


def reasons(*groups):
    return {"quota": 5, "reasons": list(groups)}


@pytest.mark.parametrize(
    ("scoring", "said"),
    [
        ({"quota": 0}, "quota"),
        ({"quota": 5, "refresh_seconds": 10, "max_age_seconds": 9}, "max_age_seconds"),
        (reasons({"name": "a", "party": "bank", "columns": ["turnover"]}), "reason group a"),
        (reasons({"name": "a", "party": "tax", "columns": ["judgments"]}), "reason group a"),
        (
            reasons(*[{"name": "a", "party": "tax", "columns": [each]} for each in ("turnover", "税负率")]),
            "same name",
        ),
        (
            reasons(*[{"name": each, "party": "tax", "columns": ["turnover"]} for each in "ab"]),
            "two reason groups",
        ),
    ],
)
def test_a_contract_says_nothing_impossible_about_scoring(scoring, said):
    with pytest.raises(ConfigError, match=said):
        contract(scoring=scoring)
