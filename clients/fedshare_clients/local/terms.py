"""The contract of an experiment, judged before any process is started for it.

The keys of a contract come from enrolment. Here others stand in their place: whether terms may be agreed to does not
depend on which keys they are.
"""

from __future__ import annotations

import hashlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedshare.audit.notes import COSIGNATURE, NoteSigner
from fedshare.contract.log import least_quorum
from fedshare.contract.model import parse_contract
from fedshare.identity.keys import encode_public_key

__all__ = ["verify_terms"]


def verify_terms(draft: dict[str, Any]) -> None:
    """Check that a draft without keys will be a contract once it has them.

    Raises:
        ConfigError: it will not; the message names the field or the rule.
    """
    parties = [
        {
            **party,
            "identity_key": _identity(party["id"]),
            "flower_key": hashlib.sha256(party["id"].encode()).hexdigest(),
        }
        for party in draft["parties"]
    ]
    witnesses = {
        party["id"]: NoteSigner(party["id"], _key(f"witness {party['id']}"), COSIGNATURE).key.vkey
        for party in parties
    }
    contract = {
        **draft,
        "parties": parties,
        "log": {
            "key": NoteSigner("log", _key("log")).key.vkey,
            "coordinator_key": _identity("coordinator"),
            "witnesses": witnesses,
            "quorum": least_quorum(len(witnesses)),
        },
        "valid_from": "2000-01-01T00:00:00Z",
        "valid_until": "2001-01-01T00:00:00Z",
        "code_digest": "00" * 32,
        "nonce": "00" * 32,
    }
    profile = (draft["scoring"] or {}).get("profile")
    if profile and profile["consent_key"] in witnesses:
        named = {**profile, "consent_key": _identity(profile["consent_key"])}
        contract["scoring"] = {**draft["scoring"], "profile": named}
    parse_contract(contract)


def _identity(name: str) -> str:
    return encode_public_key(_key(name).public_key().public_bytes_raw())


def _key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
