"""DSSE v1 envelopes with one Ed25519 signature: what contracts' decisions and hellos travel in.

Source: github.com/secure-systems-lab/dsse, protocol.md and envelope.md, v1.0.2. securesystemslib reads what this
module writes and the reverse; it is not used here because its parser changes its input, raises errors of many
kinds on hostile bytes and accepts several spellings of one envelope. The specification lets verifiers ignore
unknown fields and asks them to accept two alphabets of base64; this reader is stricter, since only this writer's
envelopes ever reach it.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedshare.errors import ProtocolError
from fedshare.identity.keys import fingerprint, verify_signature

if TYPE_CHECKING:
    from fedshare.identity.keys import IdentityKey

__all__ = ["MAX_ENVELOPE_BYTES", "SignedPayload", "parse", "pre_authentication_encoding", "sign", "verify"]

MAX_ENVELOPE_BYTES = 1 << 20
_SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class SignedPayload:
    """An envelope whose form is checked and whose signature is not: `verify` does that."""

    payload_type: str
    unverified_payload: bytes
    key_id: str
    signature: bytes


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return PAE(type, payload), the bytes that are signed (protocol.md, "Signature Definition")."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, payload_type: str, key: IdentityKey) -> bytes:
    """Return the JSON envelope of ``payload`` signed by ``key``."""
    signature = key.sign(pre_authentication_encoding(payload_type, payload))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [
            {"keyid": fingerprint(key.public_bytes()), "sig": base64.b64encode(signature).decode()}
        ],
    }
    return json.dumps(envelope, separators=(",", ":"), sort_keys=True).encode()


def parse(data: bytes) -> SignedPayload:
    """Return what an envelope says, unverified.

    Raises:
        ProtocolError: it is not JSON with exactly the fields of DSSE and one signature of 64 bytes, in
            canonical base64.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise ProtocolError(
            f"expected a signed envelope of at most {MAX_ENVELOPE_BYTES} bytes, found {len(data)}"
        )
    try:
        value = json.loads(bytes(data).decode("utf-8"), object_pairs_hook=_unique)
        _expect_fields(value, {"payload", "payloadType", "signatures"})
        (signature,) = value["signatures"]
        _expect_fields(signature, {"keyid", "sig"})
        parsed = SignedPayload(
            _text(value["payloadType"]),
            _decode(value["payload"]),
            _text(signature["keyid"]),
            _decode(signature["sig"]),
        )
        parsed.payload_type.encode()
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
        raise ProtocolError(
            "expected a DSSE envelope in JSON with one signature, found something else"
        ) from error
    if len(parsed.signature) != _SIGNATURE_BYTES:
        raise ProtocolError(
            f"expected a signature of {_SIGNATURE_BYTES} bytes, found {len(parsed.signature)}"
        )
    return parsed


def verify(data: bytes, payload_type: str, public_key: bytes) -> bytes:
    """Return the payload of an envelope signed by ``public_key``.

    The key id is a hint (protocol.md): it must be the key's, but what counts is the signature.

    Raises:
        ProtocolError: the envelope does not parse, has another payload type, or another key signed it.
    """
    parsed = parse(data)
    # Prevent a signature made for one purpose from counting for another.
    if parsed.payload_type != payload_type:
        raise ProtocolError(f"expected a signed payload of type {payload_type}, found another type")
    if parsed.key_id != fingerprint(public_key):
        raise ProtocolError("the envelope names another key than the one that the contract names")
    message = pre_authentication_encoding(payload_type, parsed.unverified_payload)
    verify_signature(public_key, parsed.signature, message)
    return parsed.unverified_payload


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is given twice")
    return fields


def _expect_fields(value: object, fields: set[str]) -> None:
    if not isinstance(value, dict) or set(value) != fields:
        raise ValueError("other fields than expected")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("expected text")
    return value


def _decode(value: object) -> bytes:
    text = _text(value)
    decoded = base64.b64decode(text, validate=True)
    if base64.b64encode(decoded).decode() != text:
        raise ValueError("not canonical base64")
    return decoded
