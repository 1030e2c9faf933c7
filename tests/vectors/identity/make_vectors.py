"""Write the vectors of this folder that are ours: ``contract.json`` and ``session.json``.

Run from anywhere: ``python tests/vectors/identity/make_vectors.py``. A change in them is a change of the contract's
canonical form or of the handshake: every party has to change with it.
"""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedshare.audit.notes import COSIGNATURE, NoteSigner
from fedshare.contract.model import parse_contract
from fedshare.identity.keys import IdentityKey, encode_public_key
from fedshare.identity.session import PendingSession

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).parent
PARTIES = ("bank", "court", "tax")
SEEDS = {party: bytes([number]) * 32 for number, party in enumerate(PARTIES, 1)}


def contract() -> dict[str, Any]:
    """Return a contract with every field set, its canonical form, its digest and its ring seed."""
    columns = {
        "bank": [{"name": "utilisation", "kind": "numeric", "bins": 8, "monotone": "increasing"}],
        "court": [{"name": "judgments", "kind": "categorical", "bins": 4, "classification": "public"}],
        "tax": [{"name": "turnover"}, {"name": "税负率", "bins": 5, "monotone": "decreasing"}],
    }
    document = {
        "version": 1,
        "name": "joint-score",
        "purpose": "小微企业信用评分 Credit scores for small enterprises",
        "parties": [
            {
                "id": party,
                "role": "label_holder" if party == "bank" else "feature_holder",
                "identity_key": encode_public_key(IdentityKey.from_raw(SEEDS[party]).public_bytes()),
                "flower_key": f"{number:02x}" * 32,
                "columns": columns[party],
            }
            for number, party in enumerate(PARTIES, 1)
        ],
        "model": {
            "kind": "scorecard",
            "ridge": 1,
            "smoothness": 0.5,
            "max_iterations": 20,
            "tolerance": 1e-6,
        },
        "alignment": {
            "identifier": "uscc",
            "check_digits": True,
            "quota": 5000,
            "missing_enterprises": "impute",
            "roster_digest": "dd" * 32,
        },
        "holdout_share": 0.3,
        "minimum_cohort": 30,
        "outputs": {"coordinator_metrics": False},
        "valid_from": "2026-01-01T08:00:00+08:00",
        "valid_until": "2027-01-01T00:00:00Z",
        "retention_days": 365,
        "code_digest": "c0" * 32,
        "log": log_terms(),
        "nonce": "11" * 32,
    }
    agreed = parse_contract(document)
    return {
        "document": document,
        "canonical": agreed.canonical().decode(),
        "digest": agreed.digest(),
        "ring_seed": agreed.ring_seed().hex(),
    }


def log_terms() -> dict[str, Any]:
    """Return the keys of an audit log whose witnesses are the parties."""
    keys = {party: IdentityKey.from_raw(bytes([number]) * 32) for number, party in enumerate(PARTIES, 10)}
    log, coordinator = (IdentityKey.from_raw(bytes([number]) * 32) for number in (8, 9))
    return {
        "key": NoteSigner("coordinator.example/log", log.signing_key).key.vkey,
        "coordinator_key": encode_public_key(coordinator.public_bytes()),
        "witnesses": {
            party: NoteSigner(f"{party}/witness", key.signing_key, COSIGNATURE).key.vkey
            for party, key in keys.items()
        },
        "quorum": 3,
    }


def randomness(party: str) -> Callable[[int], bytes]:
    """Return a source of bytes that are different for every party and call, and easy to write down."""
    calls = count(1)
    return lambda size: bytes([16 * (PARTIES.index(party) + 1) + next(calls)]) * size


def session() -> dict[str, Any]:
    """Return the handshake of three parties and what one of them seals for another."""
    digest, run_id = "ab" * 32, 2**63 + 5
    pending = {
        party: PendingSession.start(
            IdentityKey.from_raw(SEEDS[party]), digest, run_id, party, randomness(party)
        )
        for party in PARTIES
    }
    keys = {party: IdentityKey.from_raw(SEEDS[party]).public_bytes() for party in PARTIES}
    sessions = {
        party: each.establish([other.hello for other in pending.values()], keys)
        for party, each in pending.items()
    }
    messages = []
    for step, payload in (("RowTags/0", b""), ("SealedColumn/0", b"one"), ("SealedColumn/1", b"another")):
        (envelope,) = sessions["tax"].seal("bank", "align", step, payload)
        messages.append(
            {
                "phase": envelope.phase,
                "step": envelope.step,
                "sequence": envelope.sequence,
                "last": envelope.last,
                "payload": payload.hex(),
                "ciphertext": envelope.ciphertext.hex(),
            }
        )
    return {
        "contract_digest": digest,
        "run_id": run_id,
        "parties": {
            party: {
                "identity_seed": SEEDS[party].hex(),
                "identity_key": keys[party].hex(),
                "ephemeral_private": randomness(party)(32).hex(),
                "hello": pending[party].hello.decode(),
            }
            for party in PARTIES
        },
        "session_id": sessions["bank"].id.hex(),
        "sender": "tax",
        "recipient": "bank",
        "messages": messages,
        "shared_secret": {
            "between": ["bank", "tax"],
            "purpose": "row masks",
            "value": sessions["bank"].shared_secret("tax", "row masks").hex(),
        },
    }


def main() -> None:
    """Write both files."""
    for name, vector in (("contract", contract()), ("session", session())):
        text = json.dumps(vector, indent=2, ensure_ascii=False) + "\n"
        (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
