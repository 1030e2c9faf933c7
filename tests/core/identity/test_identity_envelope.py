"""Envelopes on the wire, and sessions under load, long messages and peers that never end."""

from __future__ import annotations

import copy
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedshare.errors import ParameterError, ProtocolError
from fedshare.identity import dsse, session
from fedshare.identity.envelope import CHUNK_BYTES, MAX_CIPHERTEXT_BYTES, Envelope
from fedshare.identity.hello import HELLO_TYPE, Hello
from fedshare.identity.keys import IdentityKey
from fedshare.identity.session import PendingSession

KEYS = {name: IdentityKey.generate(os.urandom) for name in ("bank", "tax")}
PUBLIC = {name: key.public_bytes() for name, key in KEYS.items()}
word = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64)
party = st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True)
u64 = st.integers(0, 2**64 - 1)
envelopes = st.builds(
    Envelope, u64, word, word, party, party, u64, st.booleans(), st.binary(min_size=16, max_size=99)
)
EXAMPLE = Envelope(1, "align", "a", "bank", "tax", 0, last=True, ciphertext=bytes(16))


def pair(digest="ab" * 32, run_id=7):
    pending = {name: PendingSession.start(KEYS[name], digest, run_id, name, os.urandom) for name in KEYS}
    return {
        name: each.establish([other.hello for other in pending.values()], PUBLIC)
        for name, each in pending.items()
    }


@given(envelopes)
def test_the_wire_form_of_an_envelope_reads_back_as_the_same(envelope):
    data = envelope.to_wire().SerializeToString()
    assert Envelope.from_wire(type(envelope.to_wire()).FromString(data)) == envelope


@pytest.mark.parametrize(
    "change",
    [
        {"sender": ""},
        {"sender": "bank\n"},
        {"recipient": "Tax"},
        {"recipient": "x" * 33},
        {"phase": ""},
        {"step": "x" * 65},
        {"ciphertext": bytes(15)},
        {"ciphertext": bytes(MAX_CIPHERTEXT_BYTES + 1)},
    ],
    ids=str,
)
def test_an_envelope_that_cannot_be_right_is_refused(change):
    with pytest.raises(ProtocolError):
        Envelope.from_wire(replace(EXAMPLE, **change).to_wire())


def test_an_envelope_does_not_show_its_ciphertext():
    assert "ciphertext" not in repr(EXAMPLE)


@given(st.lists(st.binary(max_size=50), max_size=8))
@settings(max_examples=30)
def test_messages_open_in_the_order_in_which_they_were_sealed(payloads):
    parties = pair()
    sealed = [parties["bank"].seal("tax", "train", f"step/{at}", each) for at, each in enumerate(payloads)]
    assert [parties["tax"].open(each, "train", f"step/{at}") for at, (each,) in enumerate(sealed)] == payloads


@given(st.permutations(range(4)))
@settings(max_examples=24)
def test_any_order_but_the_right_one_is_refused(order):
    parties = pair()
    sealed = [parties["bank"].seal("tax", "train", "s", bytes([at]))[0] for at in range(4)]
    opened = []
    for at in order:
        try:
            opened.append(parties["tax"].open(sealed[at], "train", "s"))
        except ProtocolError:
            break
    assert opened == [bytes([at]) for at in range(len(opened))]


def test_threads_never_share_a_sequence_number():
    bank = pair()["bank"]
    with ThreadPoolExecutor(8) as pool:
        sealed = list(pool.map(lambda _: bank.seal("tax", "train", "s", b"x"), range(400)))
    assert sorted(envelope.sequence for (envelope,) in sealed) == list(range(400))


def test_both_directions_have_keys_of_their_own():
    parties = pair()
    (there,), (back,) = (
        parties["bank"].seal("tax", "p", "s", b"x"),
        parties["tax"].seal("bank", "p", "s", b"x"),
    )
    assert there.ciphertext != back.ciphertext
    with pytest.raises(ProtocolError):
        parties["bank"].open(replace(there, sender="tax", recipient="bank"), "p", "s")


def test_chunks_below_full_size_that_are_not_last_are_refused():
    parties = pair()
    # An honest session never seals this, a hostile peer may: an endless row of empty chunks.
    bank = parties["bank"]
    evil = bank._seal_chunk(bank._outgoing["tax"].cipher, "tax", "p", "s", 0, False, memoryview(b""))
    with pytest.raises(ProtocolError, match="short"):
        parties["tax"].open(evil, "p", "s")


def test_an_endless_message_is_refused_at_the_limit(monkeypatch):
    parties = pair()
    chunks = parties["bank"].seal("tax", "p", "s", bytes(4 * CHUNK_BYTES))
    monkeypatch.setattr(session, "MAX_MESSAGE_BYTES", 2 * CHUNK_BYTES)
    assert [parties["tax"].open(chunk, "p", "s") for chunk in chunks[:2]] == [None, None]
    with pytest.raises(ProtocolError, match="exceeds"):
        parties["tax"].open(chunks[2], "p", "s")
    with pytest.raises(ParameterError):
        parties["bank"].seal("tax", "p", "s", bytes(2 * CHUNK_BYTES + 1))


def test_a_message_does_not_change_its_step_before_its_end():
    parties = pair()
    first, _ = parties["bank"].seal("tax", "p", "s", bytes(CHUNK_BYTES + 1))
    parties["tax"].open(first, "p", "s")
    bank = parties["bank"]
    other = bank._seal_chunk(bank._outgoing["tax"].cipher, "tax", "p", "other", 1, True, memoryview(b"x"))
    with pytest.raises(ProtocolError, match="changes its step"):
        parties["tax"].open(other, "p", "other")


def test_a_cut_message_never_opens():
    parties = pair()
    first, _, last = parties["bank"].seal("tax", "p", "s", bytes(2 * CHUNK_BYTES + 1))
    parties["tax"].open(first, "p", "s")
    with pytest.raises(ProtocolError):
        parties["tax"].open(last, "p", "s")
    with pytest.raises(ProtocolError):
        parties["tax"].open(replace(last, sequence=1), "p", "s")


@pytest.mark.parametrize("words", [("ab", "c"), ("a", "bc"), ("abc", "")])
def test_words_that_join_to_the_same_text_are_not_the_same_place(words):
    parties = pair()
    (envelope,) = parties["bank"].seal("tax", "a", "bc" if words != ("a", "bc") else "bcd", b"x")
    phase, step = words
    with pytest.raises(ProtocolError):
        parties["tax"].open(replace(envelope, phase=phase, step=step), phase, step)


@given(st.lists(st.text(max_size=9), max_size=4), st.lists(st.text(max_size=9), max_size=4))
def test_the_encoding_under_keys_and_tags_is_injective(one, other):
    joined = [session._join(*(each.encode() for each in parts)) for parts in (one, other)]
    assert (joined[0] == joined[1]) == (one == other)


def test_sessions_of_other_runs_or_contracts_share_nothing():
    secrets = {
        pair(digest, run_id)["bank"].shared_secret("tax", "m")
        for digest in ("ab" * 32, "cd" * 32)
        for run_id in (7, 8)
    }
    assert len(secrets) == 4


def test_a_session_is_neither_copied_nor_shown():
    parties = pair()
    secret = parties["bank"].shared_secret("tax", "m")
    assert secret.hex() not in repr(parties["bank"])
    for copying in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(ParameterError):
            copying(parties["bank"])


def test_a_stranger_has_no_part_in_a_session():
    bank = pair()["bank"]
    with pytest.raises(ParameterError):
        bank.shared_secret("court", "m")
    with pytest.raises(ParameterError):
        bank.seal("court", "p", "s", b"")
    with pytest.raises(ProtocolError):
        bank.open(replace(EXAMPLE, sender="court", recipient="bank"), "align", "a")


def test_the_signer_of_a_hello_is_read_from_its_statement_and_not_from_other_text_in_it():
    # A hello whose other fields mention the bank's key id is still the tax bureau's.
    pending = {name: PendingSession.start(KEYS[name], "ab" * 32, 7, name, os.urandom) for name in KEYS}
    document = pending["tax"].hello.replace(
        b'{"payload"', b'{"note":"%s","payload"' % PUBLIC["bank"].hex().encode()
    )
    with pytest.raises(ProtocolError, match="DSSE"):
        pending["bank"].establish([pending["bank"].hello, document], PUBLIC)


@given(st.binary(max_size=120))
def test_arbitrary_bytes_are_no_hello(data):
    with pytest.raises(ProtocolError):
        Hello.verify(data, PUBLIC["tax"])
    with pytest.raises(ProtocolError):
        Hello.verify(dsse.sign(data, HELLO_TYPE, KEYS["tax"]), PUBLIC["tax"])


digests = st.binary(min_size=32, max_size=32)


@given(party, u64, digests, digests, st.just(b"") | digests)
def test_the_wire_form_of_a_hello_reads_back_as_the_same(name, run_id, key, nonce, model):
    hello = Hello(name, "ab" * 32, run_id, key, nonce, model)
    assert Hello.from_wire(hello.to_wire()) == hello


@pytest.mark.parametrize("extra", [b"\x3a\x01x", b"\x0a\x04bank"], ids=["unknown field", "party twice"])
def test_a_hello_with_more_than_its_fields_is_refused(extra):
    hello = Hello("bank", "ab" * 32, 7, b"\x09" * 32, bytes(32))
    with pytest.raises(ProtocolError, match="other fields"):
        Hello.from_wire(hello.to_wire() + extra)
