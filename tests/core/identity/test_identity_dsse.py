"""Signed statements: agreement with securesystemslib, and what is refused."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from fedshare.errors import ProtocolError
from fedshare.identity import dsse
from fedshare.identity.keys import IdentityKey, fingerprint

KEY = IdentityKey.from_raw(b"\x01" * 32)
OTHER = IdentityKey.from_raw(b"\x02" * 32)
TYPE = "application/vnd.example+json"
SIGNED = json.loads(dsse.sign(b"payload", TYPE, KEY))


def peer_key():
    public = KEY.public_bytes()
    return SSlibKey(fingerprint(public), "ed25519", "ed25519", {"public": public.hex()})


@given(st.binary(max_size=300), st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_securesystemslib_signs_the_same_bytes(payload, payload_type):
    assert Envelope(payload, payload_type, {}).pae() == dsse.pre_authentication_encoding(
        payload_type, payload
    )


@given(st.binary(max_size=300))
def test_securesystemslib_verifies_what_this_writes(payload):
    envelope = Envelope.from_dict(json.loads(dsse.sign(payload, TYPE, KEY)))
    assert envelope.payload == payload
    envelope.verify([peer_key()], 1)


@given(st.binary(max_size=300))
def test_this_verifies_what_securesystemslib_writes(payload):
    envelope = Envelope(payload, TYPE, {})
    envelope.sign(CryptoSigner(KEY.signing_key, peer_key()))
    assert dsse.verify(json.dumps(envelope.to_dict()).encode(), TYPE, KEY.public_bytes()) == payload


@given(st.binary(max_size=300), st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_verifying_inverts_signing(payload, payload_type):
    assert dsse.verify(dsse.sign(payload, payload_type, KEY), payload_type, KEY.public_bytes()) == payload


def refused(data, payload_type=TYPE, key=KEY):
    with pytest.raises(ProtocolError):
        dsse.verify(data, payload_type, key.public_bytes())


def test_another_signer_is_refused():
    refused(dsse.sign(b"payload", TYPE, OTHER))


def test_another_signer_under_the_expected_key_id_is_refused():
    forged = json.loads(dsse.sign(b"payload", TYPE, OTHER))
    forged["signatures"][0]["keyid"] = fingerprint(KEY.public_bytes())
    refused(json.dumps(forged).encode())


def test_a_statement_of_another_type_is_refused():
    refused(dsse.sign(b"payload", TYPE, KEY), "application/other")


def test_a_statement_whose_type_was_relabelled_is_refused():
    refused(json.dumps({**SIGNED, "payloadType": "application/other"}).encode(), "application/other")


(SIGNATURE,) = SIGNED["signatures"]
ALTERED = [
    {**SIGNED, "payload": base64.b64encode(b"Payload").decode()},
    {**SIGNED, "payload": SIGNED["payload"] + "\n"},
    {**SIGNED, "payload": "cGF5bG9hZB=="},
    {**SIGNED, "payload": 1},
    {**SIGNED, "payload": None},
    {**SIGNED, "payloadType": 1},
    {**SIGNED, "payloadType": "\ud800"},
    {**SIGNED, "surprise": 1},
    {**SIGNED, "signatures": []},
    {**SIGNED, "signatures": [SIGNATURE, SIGNATURE]},
    {**SIGNED, "signatures": {"a": 1}},
    {**SIGNED, "signatures": [{"sig": SIGNATURE["sig"]}]},
    {**SIGNED, "signatures": [{**SIGNATURE, "sig": ""}]},
    {**SIGNED, "signatures": [{**SIGNATURE, "sig": SIGNATURE["sig"].replace("=", "")}]},
    {**SIGNED, "signatures": [{**SIGNATURE, "keyid": 5}]},
    {**SIGNED, "signatures": [{**SIGNATURE, "cert": "x"}]},
    {key: value for key, value in SIGNED.items() if key != "payload"},
    [SIGNED],
    None,
]


@pytest.mark.parametrize("document", ALTERED, ids=range(len(ALTERED)))
def test_an_altered_envelope_is_refused(document):
    refused(json.dumps(document).encode())


def test_a_field_given_twice_is_refused():
    refused(json.dumps(SIGNED).encode().replace(b'{"payload"', b'{"payload": "", "payload"', 1))


def test_an_endless_envelope_is_refused_before_it_is_parsed():
    refused(b"[" * (dsse.MAX_ENVELOPE_BYTES + 1))
    refused(b"[" * dsse.MAX_ENVELOPE_BYTES)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data):
    refused(data)


@given(st.integers(0, 8 * len(json.dumps(SIGNED)) - 1))
def test_no_flipped_bit_of_an_envelope_changes_what_it_says(bit):
    data = bytearray(json.dumps(SIGNED).encode())
    data[bit // 8] ^= 1 << bit % 8
    try:
        assert dsse.verify(bytes(data), TYPE, KEY.public_bytes()) == b"payload"
    except ProtocolError:
        return
