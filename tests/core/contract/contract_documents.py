"""A contract as a document for a test to change, and its parties' keys, which are of fixed seeds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fedshare.audit.notes import COSIGNATURE, NoteSigner
from fedshare.contract.model import Contract, parse_contract
from fedshare.contract.signing import Decision, sign_decision
from fedshare.identity.keys import IdentityKey, encode_public_key

PARTIES = ("bank", "court", "tax")
KEYS = {name: IdentityKey.from_raw(bytes([fill]) * 32) for fill, name in enumerate(PARTIES, 1)}
CODE = "c0" * 32
LOG = {
    "key": NoteSigner("example.org/log", IdentityKey.from_raw(bytes([8]) * 32).signing_key).key.vkey,
    "coordinator_key": encode_public_key(IdentityKey.from_raw(bytes([9]) * 32).public_bytes()),
    "witnesses": {
        name: NoteSigner(
            f"{name}/witness", IdentityKey.from_raw(bytes([fill]) * 32).signing_key, COSIGNATURE
        ).key.vkey
        for fill, name in enumerate(PARTIES, 10)
    },
    "quorum": 3,
}
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def party(name: str, role: str, *columns: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "role": role,
        "identity_key": encode_public_key(KEYS[name].public_bytes()),
        "flower_key": bytes([PARTIES.index(name)] * 32).hex(),
        "columns": list(columns),
    }


def document(**changes: Any) -> dict[str, Any]:
    """Return a contract between a bank, a court and a tax bureau."""
    return {
        "name": "joint-score",
        "purpose": "小微企业信用评分 Credit scores for small enterprises",
        "parties": [
            party(
                "tax",
                "feature_holder",
                {"name": "turnover", "monotone": "increasing"},
                {"name": "税负率", "bins": 5},
            ),
            party("court", "feature_holder", {"name": "judgments", "kind": "categorical", "bins": 4}),
            party("bank", "label_holder", {"name": "utilisation"}),
        ],
        "alignment": {"quota": 5000},
        "valid_from": "2026-01-01T00:00:00Z",
        "valid_until": "2027-01-01T00:00:00Z",
        "code_digest": CODE,
        "log": LOG,
        "nonce": "11" * 32,
        **changes,
    }


def contract(**changes: Any) -> Contract:
    return parse_contract(document(**changes))


def decisions(agreed: Contract, **verdicts: str) -> dict[str, bytes]:
    """Return every party's signed decision: an approval unless ``verdicts`` says otherwise."""
    return {
        name: sign_decision(
            Decision(
                contract_digest=agreed.digest(), party=name, verdict=verdicts.get(name, "approve"), time=NOW
            ),
            KEYS[name],
        )
        for name in PARTIES
    }
