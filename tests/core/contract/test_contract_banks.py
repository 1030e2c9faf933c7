"""Several banks in one contract: they have the same columns, and two of them accept what two cannot hide."""

from __future__ import annotations

from typing import Any

import pytest
from contract_documents import document

from fedshare.contract.model import parse_contract
from fedshare.errors import ConfigError
from fedshare.identity.keys import IdentityKey, encode_public_key

UTILISATION = {"name": "utilisation", "bins": 8}
SECTOR = {"name": "sector", "kind": "categorical", "categories": ["retail", "food"]}


def with_banks(*columns: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Return a contract with one bank for each list of columns."""
    banks = [
        {
            "id": f"bank-{number}",
            "role": "label_holder",
            "identity_key": encode_public_key(
                IdentityKey.from_raw(bytes([100 + number]) * 32).public_bytes()
            ),
            "flower_key": bytes([100 + number] * 32).hex(),
            "columns": each,
        }
        for number, each in enumerate(columns, 1)
    ]
    holders = [each for each in document()["parties"] if each["role"] == "feature_holder"]
    return document(parties=[*holders, *banks], **changes)


def test_three_banks_with_the_same_columns_are_a_contract() -> None:
    agreed = parse_contract(with_banks(*[[UTILISATION, SECTOR]] * 3))
    assert [bank.id for bank in agreed.banks()] == ["bank-1", "bank-2", "bank-3"]


def test_two_banks_are_refused_unless_they_accept_what_follows() -> None:
    with pytest.raises(ConfigError, match="accept_two"):
        parse_contract(with_banks([UTILISATION], [UTILISATION]))
    assert parse_contract(with_banks([UTILISATION], [UTILISATION], between_banks={"accept_two": True}))


@pytest.mark.parametrize(
    ("banks", "changes", "cause"),
    [
        (3, {}, "exactly two label_holders, found 3"),
        (2, {"bank_model": {"kind": "mlp"}}, "does not go with bank_model"),
        (2, {"between_banks": {"personal_intercepts": True}}, "personal_intercepts"),
    ],
)
def test_shared_customers_are_dropped_only_from_what_is_a_sum_over_two_banks(
    banks: int, changes: dict[str, Any], cause: str
) -> None:
    agreed = {"accept_two": True, "drop_shared_customers": True}
    document = with_banks(*[[UTILISATION]] * banks)
    assert parse_contract({**with_banks([UTILISATION], [UTILISATION]), "between_banks": agreed})
    between = {**agreed, **changes.get("between_banks", {})}
    with pytest.raises(ConfigError, match=cause):
        parse_contract({**document, **changes, "between_banks": between})


def test_a_contract_without_a_bank_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one label_holder"):
        parse_contract(with_banks())


@pytest.mark.parametrize(
    ("second", "cause"),
    [
        ([], "bank-1 has utilisation, bank-2 has not"),
        ([UTILISATION, {"name": "limit"}], "bank-2 has limit, bank-1 has not"),
        ([{**UTILISATION, "bins": 9}], "utilisation has bins 8 at bank-1 and 9 at bank-2"),
        (
            [{**UTILISATION, "monotone": "increasing"}],
            "utilisation has monotone none at bank-1 and increasing at bank-2",
        ),
        (
            [{"name": "utilisation", "kind": "categorical", "bins": 8}],
            "utilisation has kind numeric at bank-1 and categorical at bank-2",
        ),
    ],
)
def test_columns_that_differ_are_named(second: list[dict[str, Any]], cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        parse_contract(with_banks([UTILISATION], second, [UTILISATION]))


def test_categories_that_differ_are_shown_with_their_column() -> None:
    other = {**SECTOR, "categories": ["retail"]}
    with pytest.raises(ConfigError, match=r"sector has categories \(retail, food\) at bank-1 and \(retail\)"):
        parse_contract(with_banks([SECTOR], [other], [SECTOR]))


def test_another_order_of_columns_is_refused() -> None:
    with pytest.raises(ConfigError, match="another order"):
        parse_contract(with_banks([UTILISATION, SECTOR], [SECTOR, UTILISATION], [UTILISATION, SECTOR]))


def test_another_classification_is_each_banks_own_affair() -> None:
    parse_contract(with_banks([UTILISATION], [{**UTILISATION, "classification": "secret"}], [UTILISATION]))


def test_a_categorical_column_of_several_banks_needs_its_categories() -> None:
    bare = {"name": "sector", "kind": "categorical"}
    parse_contract(with_banks([bare]))
    with pytest.raises(ConfigError, match="column sector of several label_holders needs categories"):
        parse_contract(with_banks([bare], [bare], [bare]))


@pytest.mark.parametrize(
    ("column", "cause"),
    [
        ({"name": "x", "categories": ["a"]}, "numeric column has no categories"),
        ({"name": "x", "kind": "categorical", "categories": ["a", "a"]}, "listed twice"),
        ({"name": "x", "kind": "categorical", "categories": [""]}, "at least 1 item"),
    ],
)
def test_categories_that_make_no_sense_are_refused(column: dict[str, Any], cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        parse_contract(with_banks([column]))


def test_sums_are_repeated_without_feature_holders_only() -> None:
    with pytest.raises(ConfigError, match="without feature holders"):
        parse_contract(with_banks(*[[UTILISATION]] * 3, between_banks={"lost_bank": "repeat"}))


PORTFOLIO = {"industries": ["food"], "regions": ["north"]}
NOISE = {
    "epsilon": 4.0,
    "delta": 1e-5,
    "sample_rate": 0.2,
    "lot_size": 100,
    "ranges": {"utilisation": [0, 1]},
}


def banks_alone(count: int, lost_bank: str, **changes: Any) -> dict[str, Any]:
    found = with_banks(
        *[[UTILISATION]] * count,
        bank_model={"kind": "logistic"},
        between_banks={"lost_bank": lost_bank},
        **changes,
    )
    return {**found, "parties": [each for each in found["parties"] if each["role"] == "label_holder"]}


@pytest.mark.parametrize("lost_bank", ["repeat", "recover"])
def test_a_run_goes_on_without_any_bank_but_the_first(lost_bank: str) -> None:
    assert parse_contract(banks_alone(4, lost_bank)).expendable() == {"bank-2", "bank-3", "bank-4"}
    assert not parse_contract(banks_alone(4, "end")).expendable()


def test_a_serving_run_goes_on_without_a_bank_unless_it_is_the_only_one() -> None:
    several = parse_contract(banks_alone(4, "end"))
    assert several.expendable_in_serving() == {bank.id for bank in several.banks()}
    assert not parse_contract(document()).expendable_in_serving()


@pytest.mark.parametrize(
    ("count", "lost_bank", "changes", "cause"),
    [
        (3, "recover", {}, "needs 4 label_holders, found 3"),
        (4, "repeat", {"privacy": {"network": NOISE}}, "the same noise; choose recover"),
        (4, "repeat", {"portfolio": PORTFOLIO}, "without a portfolio"),
        (4, "recover", {"portfolio": PORTFOLIO}, "without a portfolio"),
    ],
)
def test_what_sums_without_a_lost_bank_would_not_keep_is_refused(
    count: int, lost_bank: str, changes: dict[str, Any], cause: str
) -> None:
    with pytest.raises(ConfigError, match=cause):
        parse_contract(banks_alone(count, lost_bank, **changes))


@pytest.mark.parametrize(
    ("lost_bank", "privacy", "fewest"),
    [("end", {}, 6), ("repeat", {}, 3), ("recover", {}, 3), ("recover", {"network": NOISE}, 5)],
)
def test_noise_is_made_for_one_lost_bank(lost_bank: str, privacy: dict[str, Any], fewest: int) -> None:
    assert parse_contract(banks_alone(6, lost_bank, privacy=privacy)).fewest_banks() == fewest
