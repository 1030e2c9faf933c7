"""The sample of deploy/examples is a contract, and docs/contract.md explains every field and every refusal."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedshare.audit.notes import COSIGNATURE, NoteSigner
from fedshare.contract import enforcement, log, model, network, portfolio, privacy, scoring
from fedshare.errors import ConfigError
from fedshare.identity.keys import IdentityKey
from fedshare.privacy.leaks import summarise
from fedshare_server.drafting import complete
from fedshare_server.log_keys import LogKeys
from fedshare_server.storage import PartyRecord

ROOT = Path(__file__).parents[3]
SAMPLE = yaml.safe_load((ROOT / "deploy/examples/contract.yaml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/contract.md").read_text(encoding="utf-8")
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
MODELS = [
    network.NetworkModel,
    privacy.Privacy,
    privacy.NetworkPrivacy,
    model.Contract,
    model.Party,
    model.Column,
    model.ScorecardModel,
    model.Alignment,
    model.Outputs,
    model.Points,
    log.LogTerms,
    portfolio.Portfolio,
    scoring.Scoring,
    scoring.ReasonGroup,
    scoring.Profile,
]


LOG_KEYS = LogKeys(
    IdentityKey.from_raw(bytes([98]) * 32),
    NoteSigner("example.org/log", IdentityKey.from_raw(bytes([99]) * 32).signing_key),
)


def witness_key(name, fill):
    return NoteSigner(name, IdentityKey.from_raw(bytes([fill + 20]) * 32).signing_key, COSIGNATURE).key.vkey


def enrolled():
    records = {}
    for fill, party in enumerate(SAMPLE["parties"], 1):
        public = ec.derive_private_key(fill, ec.SECP256R1()).public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        key = IdentityKey.from_raw(bytes([fill]) * 32).public_bytes()
        records[party["id"]] = PartyRecord(
            party["id"], party["role"], key, pem, witness_key(party["id"], fill), "00" * 32, NOW
        )
    return records


def test_the_sample_is_drafted_as_it_stands():
    agreed = complete(SAMPLE, enrolled(), "c0" * 32, LOG_KEYS, {}, NOW, lambda size: b"\x11" * size)
    assert [party.id for party in agreed.parties] == ["tax-bureau", "court", "city-bank"]
    assert agreed.purpose == agreed.purpose.strip()
    assert "26 bins x 31 queries x 3 runs = 2,418 sums" in summarise(agreed)


def test_a_party_that_attests_consents_is_named_and_its_key_filled_in():
    profile = {"consent_key": "court", "releases": ["band"]}
    document = {**SAMPLE, "scoring": {"quota": 10, "profile": profile}}
    agreed = complete(document, enrolled(), "c0" * 32, LOG_KEYS, {}, NOW, lambda size: b"\x11" * size)
    assert agreed.scoring.profile.consent_key == agreed.party("court").identity_key
    with pytest.raises(ConfigError, match=r"consent_key: .* the id of one of its parties"):
        complete(
            {**document, "scoring": {"quota": 10, "profile": {**profile, "consent_key": "nobody"}}},
            enrolled(), "c0" * 32, LOG_KEYS, {}, NOW, lambda size: b"\x11" * size,
        )  # fmt: skip


@pytest.mark.parametrize("name", sorted({name for each in MODELS for name in each.model_fields}))
def test_every_field_is_explained(name):
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("code", sorted(set(re.findall(r"``([a-z_]+)``", enforcement.__doc__ or ""))))
def test_every_refusal_is_explained(code):
    assert f"`{code}`" in PAGE
