"""What a node refuses: one test per code."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from contract_documents import CODE, KEYS, LOG, NOW, PARTIES, contract, decisions

from fedshare.contract import enforcement
from fedshare.contract.enforcement import (
    verify_columns,
    verify_log,
    verify_model,
    verify_not_revoked,
    verify_party,
    verify_quota,
    verify_ready,
    verify_runs,
    verify_scoring,
    verify_setting,
    verify_signed,
)
from fedshare.contract.model import Column
from fedshare.contract.signing import Decision, sign_decision
from fedshare.errors import RefusedError

AGREED = contract()
TAX = KEYS["tax"].public_bytes()


def ready(signed=None, **changes):
    arguments = {"party": "tax", "identity_key": TAX, "code_digest": CODE, "now": NOW, **changes}
    verify_ready(AGREED, decisions(AGREED) if signed is None else signed, **arguments)


def refused(code, call, *arguments, **named):
    with pytest.raises(RefusedError) as caught:
        call(*arguments, **named)
    assert caught.value.code == code
    assert caught.value.party == "tax"


def test_a_party_of_an_approved_valid_contract_is_ready():
    ready()


def test_a_missing_approval_is_refused():
    for name in PARTIES:
        refused(
            "contract_unsigned", ready, {key: each for key, each in decisions(AGREED).items() if key != name}
        )


def test_an_approval_of_another_contract_is_refused():
    other = decisions(contract(minimum_cohort=1))
    refused("contract_unsigned", ready, {**decisions(AGREED), "bank": other["bank"]})


def test_an_approval_signed_by_another_party_is_refused():
    signed = decisions(AGREED)
    refused("contract_unsigned", ready, {**signed, "bank": signed["court"]})


def test_an_approval_in_another_partys_name_is_refused():
    word = Decision(contract_digest=AGREED.digest(), party="bank", verdict="approve", time=NOW)
    refused("contract_unsigned", ready, {**decisions(AGREED), "bank": sign_decision(word, KEYS["court"])})


def test_bytes_that_are_no_decision_are_refused():
    for data in (b"", b"{}", b"\xff", b"[" * 10_000):
        refused("contract_unsigned", ready, {**decisions(AGREED), "bank": data})


def test_the_decision_of_a_stranger_changes_nothing():
    ready({**decisions(AGREED), "stranger": b"anything"})


def test_a_rejected_contract_is_refused():
    refused("contract_rejected", ready, decisions(AGREED, bank="reject"))


def test_a_contract_is_refused_before_its_first_second():
    refused("contract_not_yet_valid", ready, now=AGREED.valid_from - timedelta(microseconds=1))
    ready(now=AGREED.valid_from)


def test_a_contract_is_refused_from_its_last_second_on():
    refused("contract_expired", ready, now=AGREED.valid_until)
    ready(now=AGREED.valid_until - timedelta(microseconds=1))


def test_validity_is_an_instant_whatever_the_zone_of_the_clock():
    refused("contract_expired", ready, now=datetime(2027, 1, 1, tzinfo=UTC).astimezone())


def test_an_unknown_party_is_refused():
    with pytest.raises(RefusedError) as caught:
        ready(party="stranger")
    assert caught.value.code == "party_unknown"


def test_another_identity_key_is_refused():
    refused("party_key_differs", ready, identity_key=KEYS["court"].public_bytes())


def test_another_role_is_refused():
    refused("role_differs", verify_party, AGREED, "tax", TAX, "label_holder")


def test_other_code_is_refused():
    refused("code_digest_differs", ready, code_digest="c1" * 32)


@pytest.mark.parametrize(
    "columns",
    [
        (),
        AGREED.party("tax").columns[:1],
        (Column(name="turnover", monotone="increasing", bins=9), *AGREED.party("tax").columns[1:]),
        (Column(name="turnover"), *AGREED.party("tax").columns[1:]),
        (Column(name="turnover", kind="categorical"), *AGREED.party("tax").columns[1:]),
    ],
)
def test_columns_other_than_the_contracts_are_refused(columns):
    refused("columns_differ", verify_columns, AGREED, "tax", columns)


def test_columns_that_the_contract_does_not_use_are_not_asked_about():
    verify_columns(AGREED, "tax", [*AGREED.party("tax").columns, Column(name="unused")])


def test_a_setting_that_contradicts_the_contract_is_refused():
    verify_setting("tax", "check_digits", agreed=True, configured=True)
    refused("configuration_differs", verify_setting, "tax", "check_digits", agreed=True, configured=False)


def test_more_identifiers_than_the_quota_are_refused_whether_at_once_or_over_several_runs():
    quota = AGREED.alignment.quota
    verify_quota(AGREED, "tax", "bank", quota, 0)
    verify_quota(AGREED, "tax", "bank", 1, quota - 1)
    refused("quota_exceeded", verify_quota, AGREED, "tax", "bank", quota + 1, 0)
    refused("quota_exceeded", verify_quota, AGREED, "tax", "bank", 1, quota)


def test_more_runs_than_agreed_are_refused():
    verify_runs(AGREED, "tax", AGREED.max_runs - 1)
    refused("runs_exhausted", verify_runs, AGREED, "tax", AGREED.max_runs)


def test_every_approval_counts_on_its_own():
    verify_signed(AGREED, decisions(AGREED), "tax")


def test_a_contract_that_does_not_speak_of_scoring_serves_nothing():
    with pytest.raises(RefusedError) as caught:
        verify_scoring(AGREED, "tax")
    assert caught.value.code == "scoring_not_agreed"
    agreed = contract(scoring={"quota": 5})
    assert verify_scoring(agreed, "tax").quota == 5


@pytest.mark.parametrize(
    "saved", [None, {}, {"contract_digest": "00" * 32, "weights": []}, {"contract_digest": AGREED.digest()}]
)
def test_a_model_of_no_run_or_of_another_contract_is_unknown(saved):
    with pytest.raises(RefusedError) as caught:
        verify_model(AGREED, "tax", 7, saved)
    assert caught.value.code == "model_unknown"
    kept = {"contract_digest": AGREED.digest(), "weights": []}
    assert verify_model(AGREED, "tax", 7, kept) == kept


OWN_LOG = {
    "log_key": LOG["key"],
    "coordinator_key": LOG["coordinator_key"],
    "witness_key": LOG["witnesses"]["tax"],
}


def test_the_log_of_enrolment_with_the_own_witness_is_accepted():
    verify_log(AGREED, "tax", **OWN_LOG)


@pytest.mark.parametrize("what", OWN_LOG)
def test_another_log_or_another_witness_key_is_refused(what):
    refused("log_differs", verify_log, AGREED, "tax", **{**OWN_LOG, what: "another"})


def test_a_revocation_of_any_party_is_refused():
    verify_not_revoked(AGREED, "tax", [])
    refused("contract_revoked", verify_not_revoked, AGREED, "tax", ["court"])


def test_every_code_of_the_table_is_raised_and_tested_here():
    listed = set(re.findall(r"``([a-z_]+)``", enforcement.__doc__ or ""))
    source = Path(enforcement.__file__).read_text(encoding="utf-8")
    tested = Path(__file__).read_text(encoding="utf-8")
    assert listed == set(re.findall(r'RefusedError\(\s*"([a-z_]+)"', source))
    assert all(f'"{code}"' in tested for code in listed)
