"""Published answers, and our own recomputed from the RFCs without the code under test."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256

from fedshare.errors import ProtocolError
from fedshare.identity import dsse
from fedshare.identity.hello import HELLO_TYPE, Hello
from fedshare.identity.keys import IdentityKey, verify_signature
from fedshare.identity.session import PendingSession

FOLDER = Path(__file__).parents[2] / "vectors/identity"


def vector(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


SESSION = vector("session")


def test_the_signed_bytes_are_those_of_the_dsse_specification():
    known = vector("dsse")
    message = dsse.pre_authentication_encoding(known["payload_type"], known["payload"].encode())
    assert message == known["pae"].encode()
    key = ec.EllipticCurvePublicNumbers(
        int(known["public_x"]), int(known["public_y"]), ec.SECP256R1()
    ).public_key()
    signature = base64.b64decode(known["signature"])
    r, s = (int.from_bytes(part, "big") for part in (signature[:32], signature[32:]))
    key.verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))


@pytest.mark.parametrize("known", vector("rfc8032_ed25519"), ids=lambda known: known["name"])
def test_identity_keys_sign_as_rfc_8032_says(known):
    key, message = IdentityKey.from_raw(bytes.fromhex(known["secret"])), bytes.fromhex(known["message"])
    assert key.public_bytes().hex() == known["public"]
    assert key.sign(message).hex() == known["signature"]
    verify_signature(key.public_bytes(), bytes.fromhex(known["signature"]), message)


def test_ephemeral_keys_are_those_of_rfc_7748():
    known = vector("rfc7748_x25519")
    pending = PendingSession.start(
        IdentityKey.from_raw(bytes(32)), "ab" * 32, 1, "a", lambda _: bytes.fromhex(known["private_a"])
    )
    assert (
        Hello.from_wire(dsse.parse(pending.hello).unverified_payload).ephemeral_key.hex() == known["public_a"]
    )


@pytest.mark.parametrize("high_bit", [0, 0x80])
@pytest.mark.parametrize("point", vector("x25519_bad_points"))
def test_a_point_of_small_order_is_refused(point, high_bit):
    data = bytearray.fromhex(point)
    data[31] |= high_bit  # RFC 7748 section 5: ignored when it is read
    keys = {name: IdentityKey.from_raw(bytes([fill]) * 32) for fill, name in enumerate(("bank", "tax"))}
    own = PendingSession.start(keys["bank"], "ab" * 32, 7, "bank", lambda size: b"\x09" * size)
    evil = dsse.sign(Hello("tax", "ab" * 32, 7, bytes(data), bytes(32)).to_wire(), HELLO_TYPE, keys["tax"])
    with pytest.raises(ProtocolError, match="small order"):
        own.establish([own.hello, evil], {name: key.public_bytes() for name, key in keys.items()})


def hkdf(ikm, salt, info, length):
    """HKDF-SHA256 in the words of RFC 5869 section 2."""
    prk = hmac.digest(salt, ikm, "sha256")
    okm, block, counter = b"", b"", 1
    while len(okm) < length:
        block = hmac.digest(prk, block + info + bytes([counter]), "sha256")
        okm, counter = okm + block, counter + 1
    return okm[:length]


def join(*parts):
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def agreed_secret():
    private = X25519PrivateKey.from_private_bytes(
        bytes.fromhex(SESSION["parties"]["bank"]["ephemeral_private"])
    )
    peer = X25519PrivateKey.from_private_bytes(bytes.fromhex(SESSION["parties"]["tax"]["ephemeral_private"]))
    return private.exchange(X25519PublicKey.from_public_bytes(peer.public_key().public_bytes_raw()))


def test_the_oracle_agrees_with_rfc_5869():
    known = vector("rfc5869_hkdf_sha256")
    arguments = (bytes.fromhex(known[name]) for name in ("ikm", "salt", "info"))
    assert hkdf(*arguments, known["length"]).hex() == known["okm"]


def test_the_session_id_is_the_hash_of_every_hello():
    transcript = [
        part
        for name, party in sorted(SESSION["parties"].items())
        for part in (name.encode(), party["hello"].encode())
    ]
    head = (b"fedshare session v1", SESSION["contract_digest"].encode(), SESSION["run_id"].to_bytes(8, "big"))
    assert hashlib.sha256(join(*head, *transcript)).hexdigest() == SESSION["session_id"]


@pytest.mark.parametrize("message", SESSION["messages"], ids=lambda message: message["step"])
def test_the_published_ciphertexts_open_under_keys_derived_by_the_rfcs(message):
    sender, recipient = SESSION["sender"].encode(), SESSION["recipient"].encode()
    salt = bytes.fromhex(SESSION["session_id"])
    key = hkdf(agreed_secret(), salt, join(b"fedshare envelope v1", sender, recipient), 32)
    numbers = SESSION["run_id"].to_bytes(8, "big") + message["sequence"].to_bytes(8, "big")
    words = (SESSION["contract_digest"], message["phase"], message["step"])
    data = numbers + bytes([message["last"]]) + join(*(word.encode() for word in words), sender, recipient)
    opened = AESGCM(key).decrypt(
        message["sequence"].to_bytes(12, "big"), bytes.fromhex(message["ciphertext"]), data
    )
    assert opened.hex() == message["payload"]


def test_the_published_pair_secret_is_derived_by_the_rfcs():
    known = SESSION["shared_secret"]
    info = join(
        b"fedshare pair secret v1", *(name.encode() for name in known["between"]), known["purpose"].encode()
    )
    assert hkdf(agreed_secret(), bytes.fromhex(SESSION["session_id"]), info, 32).hex() == known["value"]


def test_the_session_makes_the_published_vectors_again():
    keys = {name: bytes.fromhex(party["identity_key"]) for name, party in SESSION["parties"].items()}
    draws = iter([bytes.fromhex(SESSION["parties"]["tax"]["ephemeral_private"]), b"\x32" * 32])
    own = PendingSession.start(
        IdentityKey.from_raw(bytes.fromhex(SESSION["parties"]["tax"]["identity_seed"])),
        SESSION["contract_digest"],
        SESSION["run_id"],
        "tax",
        lambda _: next(draws),
    )
    session = own.establish([party["hello"].encode() for party in SESSION["parties"].values()], keys)
    assert session.id.hex() == SESSION["session_id"]
    for message in SESSION["messages"]:
        (envelope,) = session.seal(
            "bank", message["phase"], message["step"], bytes.fromhex(message["payload"])
        )
        assert envelope.ciphertext.hex() == message["ciphertext"]
        assert (envelope.sequence, envelope.last) == (message["sequence"], message["last"])
