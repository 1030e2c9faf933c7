"""Signed statements: DSSE v1 envelopes with one Ed25519 signature.

Source: secure-systems-lab/dsse, protocol.md and envelope.md. The signature covers the pre-authentication encoding, so the type of
a statement is signed with it and a statement can never be taken for one of another kind:

    PAE(type, body) = "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING

from fedshare.errors import ProtocolError

from .keys import verify_signature

if TYPE_CHECKING:
    from .keys import IdentityKey

__all__ = ["MAX_ENVELOPE_BYTES", "key_id", "pre_authentication_encoding", "sign", "verify"]

#: Larger envelopes are refused before they are parsed.
MAX_ENVELOPE_BYTES = 1 << 20


def key_id(public_key: bytes) -> str:
    """Return the hint by which an envelope names its signer: SHA-256 of the public key, hexadecimal."""
    return hashlib.sha256(public_key).hexdigest()


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed: DSSE protocol.md, "Signature Definition"."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload_type: str, payload: bytes, key: IdentityKey) -> bytes:
    """Return the JSON envelope of ``payload`` signed by ``key``."""
    signature = key.sign(pre_authentication_encoding(payload_type, payload))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [
            {"keyid": key_id(key.public_bytes()), "sig": base64.b64encode(signature).decode()},
        ],
    }
    return json.dumps(envelope, separators=(",", ":"), sort_keys=True).encode()


def verify(envelope: bytes, payload_type: str, public_key: bytes) -> bytes:
    """Return the payload of an envelope after checking its type and its signature.

    Args:
        envelope: untrusted bytes.
        payload_type: the only type accepted.
        public_key: the only signer accepted, 32 bytes.

    Raises:
        ProtocolError: it is not an envelope, of another type, not signed by the key, or altered.
    """
    payload, found_type, signatures = _parse(envelope)
    if found_type != payload_type:
        raise ProtocolError(f"expected a signed statement of type {payload_type}, found another type")
    own = key_id(public_key)
    for name, signature in signatures:
        if name == own:
            verify_signature(public_key, signature, pre_authentication_encoding(payload_type, payload))
            return payload
    raise ProtocolError("the statement is not signed by the expected key")


def _parse(envelope: bytes) -> tuple[bytes, str, list[tuple[str, bytes]]]:
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise ProtocolError(f"expected at most {MAX_ENVELOPE_BYTES} bytes of signed statement, got {len(envelope)}")
    try:
        document = json.loads(envelope)
        payload = base64.b64decode(document["payload"], validate=True)
        signatures = [
            (str(each["keyid"]), base64.b64decode(each["sig"], validate=True)) for each in document["signatures"]
        ]
        payload_type = document["payloadType"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolError("expected a DSSE envelope as JSON, found something else") from error
    if not isinstance(payload_type, str) or not 1 <= len(signatures) <= 16:  # noqa: PLR2004 - more are not a statement
        raise ProtocolError("expected a DSSE envelope with a type and 1 to 16 signatures")
    return payload, payload_type, signatures
