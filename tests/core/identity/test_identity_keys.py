"""Identity keys: one spelling each, and nothing of the private half in a repr or a copy."""

from __future__ import annotations

import copy
import os
import pickle

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from fedshare.errors import ConfigError, ParameterError, ProtocolError
from fedshare.identity.keys import (
    IdentityKey,
    decode_public_key,
    encode_public_key,
    fingerprint,
    verify_signature,
)

KEY = IdentityKey.from_raw(b"\x01" * 32)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100))
def test_a_key_read_back_signs_the_same(seed, message):
    key = IdentityKey.from_raw(seed)
    again = IdentityKey.from_pem(key.to_pem())
    assert (again.to_raw(), again.sign(message)) == (seed, key.sign(message))
    verify_signature(key.public_bytes(), again.sign(message), message)


@given(st.binary(max_size=40), st.binary(max_size=80), st.binary(max_size=20))
def test_arbitrary_signatures_and_keys_are_refused(public_key, signature, message):
    with pytest.raises(ProtocolError):
        verify_signature(public_key, signature, message)


def test_a_signature_of_other_bytes_is_refused():
    with pytest.raises(ProtocolError):
        verify_signature(KEY.public_bytes(), KEY.sign(b"one"), b"two")


def test_a_signature_with_a_scalar_beyond_the_order_is_refused():
    # RFC 8032 section 5.1.7: otherwise every signature has a second spelling.
    order = 2**252 + 27742317777372353535851937790883648493
    signature = KEY.sign(b"message")
    scalar = int.from_bytes(signature[32:], "little") + order
    with pytest.raises(ProtocolError):
        verify_signature(KEY.public_bytes(), signature[:32] + scalar.to_bytes(32, "little"), b"message")


@given(st.binary(min_size=32, max_size=32))
def test_the_text_of_a_public_key_decodes_to_it(public_key):
    assert decode_public_key(encode_public_key(public_key)) == public_key


TEXT = encode_public_key(KEY.public_bytes())


@pytest.mark.parametrize(
    "text",
    ["", "A", TEXT[:-1], TEXT + "\n", " " + TEXT, TEXT[:-2] + "1=", TEXT + TEXT, TEXT.replace(TEXT[5], "-")],
)
def test_text_that_is_no_public_key_or_a_second_spelling_is_refused(text):
    with pytest.raises(ProtocolError):
        decode_public_key(text)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_bytes_of_another_length_are_no_key(size):
    with pytest.raises(ParameterError):
        IdentityKey.from_raw(bytes(size))
    with pytest.raises(ParameterError):
        encode_public_key(bytes(size))


def pem(private, encryption=None):
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(ed25519.Ed25519PrivateKey.generate(), BestAvailableEncryption(b"password")),
    ],
    ids=["empty", "garbage", "another kind", "encrypted"],
)
def test_a_file_that_is_no_plain_ed25519_key_is_refused(data):
    with pytest.raises(ConfigError):
        IdentityKey.from_pem(data)


def test_a_key_shows_its_fingerprint_and_is_not_copied():
    key = IdentityKey.generate(os.urandom)
    assert key.to_raw().hex() not in repr(key)
    assert fingerprint(key.public_bytes())[:16] in repr(key)
    for copying in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(ParameterError):
            copying(key)
