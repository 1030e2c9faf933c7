"""Every experiment of deploy/examples is one, and its contract would be drafted."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fedshare.audit.notes import COSIGNATURE, NoteSigner
from fedshare.contract.model import parse_contract
from fedshare.identity.keys import IdentityKey, encode_public_key
from fedshare_clients.local.experiment import load_experiment

EXAMPLES = sorted((Path(__file__).parents[3] / "deploy" / "examples").glob("*.yaml"))
# A contract has a list of parties, and a comparison names an experiment.
EXPERIMENTS = [path for path in EXAMPLES if isinstance(yaml.safe_load(path.read_text()).get("parties"), dict)]


def drafted(draft):
    """Return the contract with what drafting adds."""
    keys = [IdentityKey.from_raw(bytes([number + 1]) * 32) for number in range(len(draft["parties"]))]
    for number, party in enumerate(draft["parties"]):
        party["identity_key"] = encode_public_key(keys[number].public_bytes())
        party["flower_key"] = f"{number:064x}"
    profile = (draft["scoring"] or {}).get("profile")
    if profile:
        (profile["consent_key"],) = (
            party["identity_key"] for party in draft["parties"] if party["id"] == profile["consent_key"]
        )
    witnesses = {
        party["id"]: NoteSigner(f"{party['id']}/witness", key.signing_key, COSIGNATURE).key.vkey
        for party, key in zip(draft["parties"], keys, strict=True)
    }
    log = {
        "key": NoteSigner("example.org/log", keys[0].signing_key).key.vkey,
        "coordinator_key": encode_public_key(IdentityKey.from_raw(bytes([99]) * 32).public_bytes()),
        "witnesses": witnesses,
        "quorum": len(witnesses),
    }
    completed = {
        "log": log,
        "valid_from": "2026-01-01T00:00:00Z",
        "valid_until": "2027-01-01T00:00:00Z",
        "code_digest": "c0" * 32,
        "nonce": "11" * 32,
    }
    return parse_contract({**draft, **completed})


@pytest.mark.parametrize("path", EXPERIMENTS, ids=[path.stem for path in EXPERIMENTS])
def test_the_example_is_an_experiment_with_a_contract(path, monkeypatch, tmp_path):
    monkeypatch.setenv("FEDSHARE_DATA", str(tmp_path))
    experiment = load_experiment(path)
    assert {party.id for party in drafted(experiment.contract_draft()).parties} == set(experiment.parties)
