"""The leak ledger is complete, and its summary says what follows from a contract."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedshare.contract.model import parse_contract
from fedshare.identity.keys import IdentityKey, encode_public_key, fingerprint
from fedshare.privacy.leaks import LEDGER, MAX_POINTS, bins_at_most, columns_at_most, summarise, sums_at_most
from fedshare.wire.v1 import audit_pb2, envelope_pb2, exchange_pb2, payload_pb2
from fedshare_server.phases import PHASES, SERVING_PHASES, Reply

VECTOR = json.loads(
    (Path(__file__).parents[2] / "vectors/identity/contract.json").read_text(encoding="utf-8")
)
# What a party sends to the coordinator in the clear, besides its reply in a Flower message.
OPEN_MESSAGES = ("Open", "Ack", "ReportProgressRequest", "ReportFailureRequest")


def contract(**changes):
    return parse_contract({**VECTOR["document"], **changes})


def fields(descriptor):
    return tuple(field.name for field in descriptor.fields)


def entry(name):
    (found,) = (leak for leak in LEDGER if leak.message == name)
    return found


def test_every_payload_message_has_one_entry_and_no_other_entry_claims_to_be_one():
    defined = set(payload_pb2.DESCRIPTOR.message_types_by_name)
    sealed = [leak.message for leak in LEDGER if leak.sealed]
    assert sorted([*sealed, "Hello"]) == sorted(defined)


@pytest.mark.parametrize("name", sorted(payload_pb2.DESCRIPTOR.message_types_by_name))
def test_every_field_of_a_payload_message_is_in_the_ledger(name):
    assert entry(name).fields == fields(payload_pb2.DESCRIPTOR.message_types_by_name[name])


@pytest.mark.parametrize("name", OPEN_MESSAGES)
def test_every_field_that_the_coordinator_reads_is_in_the_ledger(name):
    assert entry(name).fields == fields(exchange_pb2.DESCRIPTOR.message_types_by_name[name])
    assert not entry(name).sealed


def test_every_request_of_the_exchange_is_in_the_ledger():
    requests = {name for name in exchange_pb2.DESCRIPTOR.message_types_by_name if name.endswith("Request")}
    frames = {field.message_type.name for field in exchange_pb2.ConnectRequest.DESCRIPTOR.fields}
    # Close has no fields, and an Envelope has an entry of its own.
    assert requests - {"ConnectRequest"} | frames - {"Close", "Envelope"} == set(OPEN_MESSAGES)


def test_every_message_to_the_audit_log_is_in_the_ledger():
    messages = audit_pb2.DESCRIPTOR.message_types_by_name
    sent = [name for name in messages if name.endswith("Request") or name == "WitnessAnswer"]
    assert sorted(sent) == ["GetOpeningRequest", "SubmitEntriesRequest", "WitnessAnswer"]
    for name in sent:
        assert entry(name).fields == fields(messages[name])
        assert not entry(name).sealed


def test_the_envelope_and_the_reply_of_a_node_are_in_the_ledger():
    assert entry("Envelope").fields == fields(envelope_pb2.Envelope.DESCRIPTOR)
    assert entry("Reply").fields == tuple(field.name for field in dataclasses.fields(Reply))


@pytest.mark.parametrize("leak", LEDGER, ids=[leak.message for leak in LEDGER])
def test_every_entry_says_something_for_every_role_and_names_a_phase_of_the_protocol(leak):
    assert all((leak.feature_holder, leak.label_holder, leak.coordinator, leak.auditor, leak.needed))
    assert set(leak.phase.split(", ")) <= {"", *PHASES, *SERVING_PHASES}


def test_the_number_of_sums_a_holder_sees_is_its_bins_times_the_queries_of_all_runs():
    agreed = contract()  # tax: 10 and 5 bins, each with one for missing values; 20 iterations and the counts
    assert bins_at_most(agreed.party("tax")) == 17
    assert sums_at_most(agreed, agreed.party("tax")) == 17 * 21 * 3 == 1071
    assert "17 bins x 21 queries x 3 runs = 1,071 sums" in summarise(agreed)


def test_the_summary_says_how_many_identifiers_a_bank_may_ask_for():
    assert "5,000 identifiers at each holder" in words(contract())


def words(agreed):
    """Return the summary without its line breaks."""
    return " ".join(summarise(agreed).split())


def test_with_one_holder_the_summary_says_that_the_bank_sees_its_scores():
    parties = [party for party in VECTOR["document"]["parties"] if party["id"] != "court"]
    text = words(contract(parties=parties))
    assert "the partial scores of tax itself" in text
    assert "there is no second holder" in text
    assert "the sum of the partial scores of 2 holders" in words(contract())


@pytest.mark.parametrize(
    ("shown", "said"), [(True, "the training loss after every iteration"), (False, "no loss, no AUC, no KS")]
)
def test_the_summary_says_what_the_coordinator_is_shown(shown, said):
    assert said in words(contract(outputs={"coordinator_metrics": shown}))


def listed(agreed):
    """Return the messages that the summary lists."""
    return {leak.message for leak in LEDGER if f"  {leak.message}  (" in summarise(agreed)}


SCORING = {"quota": 5}
PROFILE = {"consent_key": VECTOR["document"]["parties"][0]["identity_key"], "releases": ["band"]}
CONSENTS = {"Profile", "ProfileRequest", "ConsentWithdrawn"}
SERVED = {"ScoreColumn", "KeysRefused"}
COUNTED = {"CustomerElements", "CustomerAnswer", "SharedCustomers"}
DROPPED = {"DropOffer", "DropAnswer", "DropChoice", "DropProduct"}
BETWEEN_BANKS = {"SharedBins", "SharedPoint", "MaskedVector", "BankTotal"}
RECOVERED = {"SumKeys", "SumOutcome", "SumShares"}


def test_the_summary_lists_every_message_where_the_contract_agrees_to_everything():
    everything = with_banks(
        2,
        scoring={**SCORING, "profile": PROFILE},
        between_banks={"accept_two": True, "count_shared_customers": True, "drop_shared_customers": True},
    )
    assert listed(everything) == {leak.message for leak in LEDGER} - RECOVERED


def test_the_summary_leaves_out_the_messages_that_no_run_of_the_contract_holds():
    every = {leak.message for leak in LEDGER}
    assert every - listed(contract()) == CONSENTS | SERVED | COUNTED | DROPPED | BETWEEN_BANKS | RECOVERED
    assert (
        every - listed(contract(scoring=SCORING)) == CONSENTS | COUNTED | DROPPED | BETWEEN_BANKS | RECOVERED
    )
    assert every - listed(with_banks(3, scoring=SCORING)) == CONSENTS | COUNTED | DROPPED | RECOVERED


def banks_alone(count, **changes):
    document = with_banks(count).model_dump(mode="json")
    banks = [party for party in document["parties"] if party["role"] == "label_holder"]
    for bank in banks:
        bank["columns"][0]["monotone"] = "none"
    return parse_contract({**document, "parties": banks, "bank_model": {"kind": "mlp"}, **changes})


@pytest.mark.parametrize(("lost_bank", "not_sent"), [("repeat", RECOVERED), ("recover", set())])
def test_the_summary_of_banks_alone_lists_no_message_of_a_holder(lost_bank, not_sent):
    alone = banks_alone(4, between_banks={"lost_bank": lost_bank})
    holders = {leak.message for leak in LEDGER if "feature_holder" in {leak.sender, leak.recipient}}
    assert {leak.message for leak in LEDGER} - listed(
        alone
    ) == holders | COUNTED | DROPPED | SERVED | CONSENTS | not_sent


@pytest.mark.parametrize(
    ("lost_bank", "said"),
    [
        ("end", "only if all others help: 6 banks hide each other"),
        ("repeat", "if the first bank and the coordinator do not keep to the protocol: 6 banks, 3 at least"),
        ("recover", "only if 4 of 6 banks put together what they have, the first one among them"),
    ],
)
def test_who_together_sees_one_bank_alone_depends_on_what_a_lost_bank_does(lost_bank, said):
    page = words(banks_alone(6, between_banks={"lost_bank": lost_bank}))
    assert said in page
    assert ("of a bank that is lost: the weight of its customers" in page) == (lost_bank != "end")


def test_the_summary_lists_every_partys_fingerprint():
    agreed = contract()
    text = summarise(agreed)
    assert all(fingerprint(party.identity_key_bytes()) in text for party in agreed.parties)


def test_the_summary_is_printable_and_narrow():
    lines = summarise(contract()).splitlines()
    assert all(line.isprintable() and len(line) <= 100 for line in lines)


def test_the_ledger_needs_neither_numpy_nor_torch_nor_flower():
    heavy = ("numpy", "torch", "flwr", "grpc", "scipy", "pyarrow")
    code = f"import sys, fedshare.privacy.leaks; sys.exit(any(name in sys.modules for name in {heavy!r}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_summary_says_what_noise_leaves_of_an_outcome():
    private = contract(privacy={"labels": {"epsilon": 2.5}})
    assert "nothing of one outcome beyond label privacy of epsilon 2.5" in words(private)
    assert "label privacy" not in words(contract())


def with_banks(count, **changes):
    document = contract().model_dump(mode="json") | changes
    parties = [party for party in document["parties"] if party["role"] == "feature_holder"]
    bank = next(party for party in document["parties"] if party["role"] == "label_holder")
    for number in range(count):
        key = IdentityKey.from_raw(bytes([100 + number]) * 32).public_bytes()
        own = {"id": f"bank-{number}", "identity_key": encode_public_key(key)}
        parties.append({**bank, **own, "flower_key": bytes([100 + number] * 32).hex()})
    return parse_contract({**document, "parties": parties})


def test_what_banks_learn_of_one_another_is_said_where_there_are_several():
    assert "of the other banks" not in summarise(contract())
    several = " ".join(summarise(with_banks(3)).split())
    points = MAX_POINTS * (contract().model.max_iterations + 1)
    assert "bank-0 only, which leads" in several
    assert f"at {points:,} points at most" in several
    assert "only if all others help: 3 banks hide each other" in several
    assert "accept_two" not in several


def test_the_leak_between_two_banks_stands_in_the_summary():
    two = " ".join(summarise(with_banks(2, between_banks={"accept_two": True})).split())
    assert "all of this of the other bank alone: accepted by accept_two" in two


def test_what_dropping_shared_customers_shows_and_asks_for_stands_in_the_summary():
    agreed = {"accept_two": True, "drop_shared_customers": True}
    two = words(with_banks(2, between_banks=agreed))
    assert "bank-0 only: how many training customers of bank-1 it has too, exactly" in two
    assert "bank-1 only: from bins that bank-0 merged" in two
    asked = (
        "who of bank-1 may be dropped has to take part, with the same outcome and noise, in every later run"
    )
    assert asked in two
    assert "beside a run of bank-0 and bank-1 that drops nobody" in two
    assert "may be dropped" not in words(with_banks(2, between_banks={"accept_two": True}))


def test_what_scoring_shows_is_said_in_numbers_and_only_where_it_is_agreed():
    assert "in scoring" not in summarise(contract())
    reasons = [{"name": "sales", "party": "tax", "columns": ["turnover"]}]
    profile = {"consent_key": contract().parties[0].identity_key, "releases": ["coverage", "band"]}
    agreed = contract(
        scoring={"quota": 1234, "refresh_seconds": 86_400, "reasons": reasons, "profile": profile}
    )
    days = (agreed.valid_until - agreed.valid_from).days
    assert columns_at_most(agreed) == days + 1
    page = " ".join(summarise(agreed).split())
    assert "any 1,234 enterprises" in page
    assert f"over {days + 1:,} columns or fewer" in page
    assert "(reason group sales)" in page
    assert "from each holder alone: coverage, band" in page
    assert "which enterprises consented to which bank's seeing a profile" in page
    assert "how many identifiers each bank asks for and when, 1,234 or fewer each" in page


def test_groups_that_show_a_whole_holder_show_the_last_other_one_too():
    holders = {holder.id: [column.name for column in holder.columns] for holder in contract().holders()}
    assert set(holders) == {"tax", "court"}

    def shown(**columns):
        groups = [{"name": name, "party": name, "columns": list(own)} for name, own in columns.items()]
        page = " ".join(summarise(contract(scoring={"quota": 5, "reasons": groups})).split())
        start = page.find("the own score of ")
        return page[start:].removeprefix("the own score of ").split()[0] if start >= 0 else ""

    assert shown(tax=holders["tax"]) == "court"
    assert shown(court=holders["court"]) == "tax"
    assert shown(tax=holders["tax"], court=holders["court"]) == "every"
    assert shown(tax=holders["tax"][:1]) == ""
