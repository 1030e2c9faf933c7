"""The handshake and the envelopes between parties, with a coordinator that misbehaves."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from fedshare.errors import ParameterError, ProtocolError
from fedshare.identity import dsse
from fedshare.identity.hello import HELLO_TYPE, Hello
from fedshare.identity.keys import IdentityKey
from fedshare.identity.session import PendingSession

PARTIES = ("bank", "court", "tax")
KEYS = {party: IdentityKey.generate(os.urandom) for party in PARTIES}
PUBLIC = {party: key.public_bytes() for party, key in KEYS.items()}


def pend(party, digest="ab" * 32, run_id=7, randomness=os.urandom, key=None, model=b""):
    return PendingSession.start(key or KEYS[party], digest, run_id, party, randomness, model)


def sessions():
    pending = {party: pend(party) for party in PARTIES}
    hellos = [each.hello for each in pending.values()]
    return {party: each.establish(hellos, PUBLIC) for party, each in pending.items()}


@pytest.mark.parametrize("model", [b"", b"\x02" * 32])
def test_parties_that_would_use_different_models_share_no_session(model):
    parties = {party: pend(party, model=b"\x01" * 32) for party in PARTIES} | {
        "tax": pend("tax", model=model)
    }
    hellos = [each.hello for each in parties.values()]
    for party in parties.values():
        with pytest.raises(ProtocolError, match="another model"):
            party.establish(hellos, PUBLIC)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_sealed_message_opens_at_its_recipient(size):
    parties = sessions()
    payload = os.urandom(size)
    envelopes = parties["bank"].seal("tax", "align", "RowTags/0", payload)
    opened = [parties["tax"].open(each, "align", "RowTags/0") for each in envelopes]
    assert opened == [None] * (len(envelopes) - 1) + [payload]


def test_a_pair_shares_one_secret_per_purpose_and_nobody_else_has_it():
    parties = sessions()
    secret = parties["bank"].shared_secret("tax", "masks")
    assert secret == parties["tax"].shared_secret("bank", "masks")
    others = (parties["bank"].shared_secret("tax", "rows"), parties["bank"].shared_secret("court", "masks"))
    assert secret not in others


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": 8},
        {"phase": "train"},
        {"step": "b"},
        {"sender": "court"},
        {"recipient": "court"},
        {"sender": "tax"},
        {"sequence": 1},
        {"last": False},
        {"ciphertext": b"x" * 20},
        {"ciphertext": b""},
    ],
)
def test_an_altered_envelope_is_refused_and_changes_nothing(change):
    parties = sessions()
    (envelope,) = parties["bank"].seal("tax", "align", "a", b"payload")
    with pytest.raises(ProtocolError):
        parties["tax"].open(replace(envelope, **change), "align", "a")
    assert parties["tax"].open(envelope, "align", "a") == b"payload"


def test_a_replayed_envelope_is_refused():
    parties = sessions()
    (envelope,) = parties["bank"].seal("tax", "align", "a", b"payload")
    parties["tax"].open(envelope, "align", "a")
    with pytest.raises(ProtocolError, match="replayed"):
        parties["tax"].open(envelope, "align", "a")


def test_a_reflected_envelope_is_refused():
    parties = sessions()
    (envelope,) = parties["bank"].seal("tax", "align", "a", b"payload")
    with pytest.raises(ProtocolError):
        parties["bank"].open(replace(envelope, sender="tax", recipient="bank"), "align", "a")


def test_an_envelope_of_another_session_of_the_same_run_is_refused():
    (envelope,) = sessions()["bank"].seal("tax", "align", "a", b"payload")
    with pytest.raises(ProtocolError, match="authenticate"):
        sessions()["tax"].open(envelope, "align", "a")


def test_a_party_does_not_seal_for_itself():
    with pytest.raises(ParameterError):
        sessions()["bank"].seal("bank", "align", "a", b"")


def refused(hellos, own, keys=PUBLIC):
    with pytest.raises(ProtocolError):
        own.establish(hellos, keys)


@pytest.mark.parametrize("other", [{"digest": "cd" * 32}, {"run_id": 8}, {"key": KEYS["court"]}])
def test_a_hello_for_another_contract_or_run_or_by_another_key_is_refused(other):
    own, court, tax = pend("bank"), pend("court"), pend("tax", **other)
    refused([own.hello, court.hello, tax.hello], own)


def test_a_dropped_doubled_or_reflected_hello_is_refused():
    court, tax = pend("court"), pend("tax")
    for choose in (
        lambda own: [own.hello, court.hello],
        lambda own: [own.hello, court.hello, tax.hello, tax.hello],
        lambda own: [own.hello, court.hello, own.hello],
        lambda _: [pend("bank").hello, court.hello, tax.hello],
        lambda own: [own.hello, court.hello, b"\xff{"],
    ):
        own = pend("bank")
        refused(choose(own), own)


def test_two_parties_with_one_identity_key_are_refused():
    own, court = pend("bank"), pend("court")
    tax = pend("tax", key=KEYS["court"])
    refused([own.hello, court.hello, tax.hello], own, {**PUBLIC, "tax": PUBLIC["court"]})


def test_a_copied_ephemeral_key_is_refused():
    own, court = pend("bank"), pend("court", randomness=lambda n: b"\x05" * n)
    tax = pend("tax", randomness=lambda n: b"\x05" * n)
    refused([own.hello, court.hello, tax.hello], own)


def test_parties_that_were_given_different_hellos_share_no_key():
    bank, court, tax = (pend(party) for party in PARTIES)
    other_court = pend("court")
    at_bank = bank.establish([bank.hello, court.hello, tax.hello], PUBLIC)
    at_tax = tax.establish([bank.hello, other_court.hello, tax.hello], PUBLIC)
    (envelope,) = at_bank.seal("tax", "align", "a", b"payload")
    with pytest.raises(ProtocolError, match="different hellos"):
        at_tax.open(envelope, "align", "a")


def test_a_pending_session_is_used_once():
    bank, court, tax = (pend(party) for party in PARTIES)
    hellos = [bank.hello, court.hello, tax.hello]
    bank.establish(hellos, PUBLIC)
    with pytest.raises(ParameterError):
        bank.establish(hellos, PUBLIC)


def test_a_small_order_ephemeral_key_is_refused():
    own, court = pend("bank"), pend("court")
    evil = Hello("tax", "ab" * 32, 7, bytes(32), os.urandom(32))
    with pytest.raises(ProtocolError, match="small order"):
        own.establish([own.hello, court.hello, dsse.sign(evil.to_wire(), HELLO_TYPE, KEYS["tax"])], PUBLIC)
