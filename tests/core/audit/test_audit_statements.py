import base64
import json

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from fedshare.audit.commitments import EnvelopeTally, commit, verify_commitment
from fedshare.audit.entries import PAYLOAD_TYPE, Entry, EntrySigner, EntryVerifier
from fedshare.audit.statements import (
    MAX_TOTALS,
    Approval,
    ContractPublished,
    Enrolment,
    Envelopes,
    EnvelopeTotal,
    ModelManifest,
    PrivacySpent,
    Refusal,
    RunClosed,
    Scoring,
    parse_statement,
)
from fedshare.errors import ParameterError, ProtocolError
from fedshare.identity import dsse
from fedshare.identity.keys import IdentityKey

DIGEST = "a" * 64
KEY, OTHER = (IdentityKey.generate(lambda n, b=b: bytes([b]) * n) for b in (1, 2))
RUN = {"issuer": "bank-a", "issued_at": 1, "run_id": "18446744073709551615", "contract_digest": DIGEST}
TOTAL = EnvelopeTotal(step="s", peer="tax", direction="sent", count=1, size_bytes=2, digest=DIGEST)
STATEMENTS = [
    Enrolment(
        issuer="bank-a",
        issued_at=1,
        role="label_holder",
        identity_key=base64.b64encode(KEY.public_bytes()).decode(),
    ),
    ContractPublished(
        issuer="coordinator", issued_at=2, contract_digest=DIGEST, document='{"purpose":"信用"}'
    ),
    Approval(issuer="bank-a", issued_at=3, contract_digest=DIGEST),
    Envelopes(**RUN, phase="train", totals=[TOTAL]),
    ModelManifest(**RUN, version=1, components={"tax": DIGEST}, metrics={"auc": "0.8125"}),
    PrivacySpent(**RUN, mechanism="labels", epsilon="0.5", delta="0.00001"),
    RunClosed(**RUN, outcome="failed", cause="peer_lost"),
    Refusal(issuer="bank-a", issued_at=4, code="contract_expired", reason='é\u2028\x01\\"'),
]


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda s: s.kind)
def test_a_statement_survives_a_round_trip_in_rfc_8785(statement):
    data = statement.to_bytes()
    assert parse_statement(data) == statement
    assert data == rfc8785.dumps(statement.model_dump(mode="json"))


@pytest.mark.parametrize(
    "change",
    [
        (b'"kind":"approval"', b'"kind":"other"'),
        (b',"kind":"approval"', b""),
        (b'"issued_at":3', b'"issued_at":"3"'),
        (b'"issued_at":3', b'"issued_at":3.0'),
        (b'"issued_at":3', b'"issued_at":-1'),
        (b'"issued_at":3', b'"issued_at":9007199254740992'),
        (b'"issued_at":3', b'"issued_at":NaN'),
        (b'"issued_at":3', b'"issued_at":true'),
        (b'"issued_at":3', b'"issued_at": 3'),
        (b'"issuer":"bank-a"', b'"issuer":"bank-a","more":1'),
        (b'"issuer":"bank-a"', b'"issuer":"bank-a","issuer":"bank-a"'),
        (b'"issuer":"bank-a"', b'"issuer":"Bank"'),
        (b'"issuer":"bank-a"', b'"issuer":"bank-a\\n"'),
        (b'"issuer":"bank-a"', b'"issuer":"\\u0062ank-a"'),
        (b'"issuer":"bank-a"', b'"issuer":"\\ud800"'),
        (b"a" * 64, b"A" * 64),
        (b"a" * 64, b"a" * 63),
        (b"}", b"}\n"),
        (b"{", b"\xef\xbb\xbf{"),
    ],
)
def test_another_spelling_or_a_wrong_field_is_refused(change):
    data = STATEMENTS[2].to_bytes()
    assert change[0] in data
    with pytest.raises(ProtocolError):
        parse_statement(data.replace(*change))


@settings(deadline=None)
@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(repr).map(str.encode)
)
def test_hostile_statements_only_ever_raise_our_error(data):
    for read in (parse_statement, Entry.parse):
        with pytest.raises(ProtocolError):
            read(data)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"9" * 60_000,
        b'{"batch":1}',
        b'{"payload":1}',
        b'"batch"',
        b"null",
        b'["batch"]',
    ],
)
def test_deep_and_long_json_only_ever_raises_our_error(data):
    for read in (parse_statement, Entry.parse):
        with pytest.raises(ProtocolError):
            read(data)


def test_an_error_does_not_repeat_the_value():
    with pytest.raises(ProtocolError) as caught:
        parse_statement(STATEMENTS[2].to_bytes().replace(b"bank-a", b"91310000MA1FL0000X"))
    assert "91310000" not in str(caught.value)


def test_an_entry_is_a_dsse_envelope():
    data = EntrySigner(KEY).sign(STATEMENTS[2])
    assert dsse.verify(data, PAYLOAD_TYPE, KEY.public_bytes()) == STATEMENTS[2].to_bytes()
    entry = Entry.parse(data)
    assert entry.statement == STATEMENTS[2]
    EntryVerifier().verify(entry, KEY.public_bytes())
    with pytest.raises(ProtocolError, match="bank-a is not signed"):
        EntryVerifier().verify(entry, OTHER.public_bytes())


@pytest.mark.parametrize("count", [1, 2, 3, 8, 100])
def test_every_entry_of_a_batch_stands_alone(count):
    statements = [
        Scoring(issuer="bank-a", issued_at=i, contract_digest=DIGEST, count=i) for i in range(count)
    ]
    verifier = EntryVerifier()
    for statement, data in zip(statements, EntrySigner(KEY).sign_batch(statements), strict=True):
        entry = Entry.parse(data)
        assert entry.statement == statement
        EntryVerifier().verify(entry, KEY.public_bytes())
        verifier.verify(entry, KEY.public_bytes())
        for _ in range(2):
            with pytest.raises(ProtocolError):
                verifier.verify(entry, OTHER.public_bytes())


def change(data, **fields):
    return json.dumps({**json.loads(data), **fields}).encode()


def test_a_statement_smuggled_into_a_batch_is_refused():
    statements = [Scoring(issuer="bank-a", issued_at=i, contract_digest=DIGEST, count=i) for i in range(4)]
    first, second, *_ = EntrySigner(KEY).sign_batch(statements)
    forged = base64.b64encode(STATEMENTS[2].to_bytes()).decode()
    verifier = EntryVerifier()
    verifier.verify(Entry.parse(first), KEY.public_bytes())
    for bad in (
        change(first, payload=forged),
        change(first, index=1),
        change(first, payload=json.loads(second)["payload"]),
        change(first, proof=json.loads(second)["proof"]),
        change(first, batch={**json.loads(first)["batch"], "size": 3}),
    ):
        with pytest.raises(ProtocolError):
            verifier.verify(Entry.parse(bad), KEY.public_bytes())


@pytest.mark.parametrize(
    "fields",
    [
        {"index": -1},
        {"index": 4},
        {"index": True},
        {"index": 2**70},
        {"proof": "AAAA"},
        {"proof": "A" * 4000},
        {"proof": 1},
        {"payload": None},
        {"more": 1},
        {"batch": {"keyid": "", "sig": "", "size": 2**17}},
        {"batch": {"keyid": "", "sig": ""}},
        {"batch": []},
    ],
)
def test_malformed_batch_entries_are_refused(fields):
    statements = [Scoring(issuer="bank-a", issued_at=i, contract_digest=DIGEST, count=i) for i in range(4)]
    with pytest.raises(ProtocolError):
        Entry.parse(change(EntrySigner(KEY).sign_batch(statements)[0], **fields))


def test_a_signature_over_something_else_is_no_entry():
    data = dsse.sign(STATEMENTS[2].to_bytes(), "application/other", KEY)
    with pytest.raises(ProtocolError):
        Entry.parse(data)


def test_a_statement_too_long_for_the_log_is_not_signed():
    statement = ContractPublished(
        issuer="coordinator", issued_at=1, contract_digest=DIGEST, document='"' * 40_000
    )
    with pytest.raises(ParameterError):
        EntrySigner(KEY).sign(statement)


def test_the_longest_account_of_a_phase_fits_an_entry():
    word, peer = "s" * 64, "p" * 32
    total = EnvelopeTotal(
        step=word, peer=peer, direction="received", count=2**53 - 1, size_bytes=2**53 - 1, digest=DIGEST
    )
    statement = Envelopes(**{**RUN, "issuer": peer}, phase=word, totals=[total] * MAX_TOTALS)
    assert len(EntrySigner(KEY).sign(statement)) < 65_535


def test_both_ends_of_an_exchange_count_the_same():
    sender, recipient = EnvelopeTally(), EnvelopeTally()
    for wire in (b"one", b"two", b""):
        sender.add("s", "bank-a", "sent", wire)
        recipient.add("s", "tax", "received", wire)
    (sent,), (received,) = sender.totals(), recipient.totals()
    assert (sent.count, sent.size_bytes, sent.digest) == (
        received.count,
        received.size_bytes,
        received.digest,
    )
    assert (sent.count, sent.size_bytes) == (3, 6)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=5)), st.lists(st.binary(max_size=5)))
def test_other_envelopes_have_another_digest(one, two):
    digests = []
    for wires in (one, two):
        tally = EnvelopeTally()
        for wire in [b"x", *wires]:
            tally.add("s", "tax", "sent", wire)
        digests.append(tally.totals()[0].digest)
    assert (digests[0] == digests[1]) == (one == two)


def test_a_long_account_is_told_in_several_statements():
    tally = EnvelopeTally()
    for step in range(MAX_TOTALS + 1):
        tally.add(f"s{step}", "tax", "sent", b"x")
    statements = tally.statements("bank-a", 1, "7", DIGEST, "train")
    assert [len(statement.totals) for statement in statements] == [MAX_TOTALS, 1]
    assert EnvelopeTally().statements("bank-a", 1, "7", DIGEST, "train") == []


def test_a_commitment_opens_to_its_data_only_and_hides_it():
    one, nonce = commit(b"91310000", bytes)
    two, _ = commit(b"91310000", lambda n: b"\x01" * n)
    assert one != two
    verify_commitment(one, b"91310000", nonce)
    for data, opening in ((b"91310001", nonce), (b"91310000", b"\x01" * 32)):
        with pytest.raises(ProtocolError):
            verify_commitment(one, data, opening)
    with pytest.raises(ParameterError):
        verify_commitment(one, b"91310000", b"")
