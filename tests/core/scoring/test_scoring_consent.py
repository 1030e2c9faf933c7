"""Consents: who signs them, what they let a bank see, and how they end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare.errors import ProtocolError, RefusedError
from fedshare.identity import dsse
from fedshare.identity.keys import IdentityKey
from fedshare.scoring.consent import (
    Consent,
    Withdrawal,
    consent_digest,
    sign_consent,
    sign_withdrawal,
    verify_consent,
    verify_in_force,
    verify_withdrawal,
)

KEY, OTHER = (IdentityKey.from_raw(bytes([fill]) * 32) for fill in (1, 2))
NOW = datetime(2026, 6, 1, tzinfo=UTC)
CONTRACT = "ab" * 32
CONSENT = Consent(
    contract_digest=CONTRACT,
    bank="bank",
    enterprise="91350100M000100Y43",
    evidence="cd" * 32,
    given_at=NOW,
    expires_at=NOW + timedelta(days=30),
    nonce="11" * 32,
)
WITHDRAWAL = Withdrawal(
    contract_digest=CONTRACT, consent=consent_digest(CONSENT), enterprise=CONSENT.enterprise, withdrawn_at=NOW
)


def test_a_consent_and_a_withdrawal_are_what_was_signed():
    assert verify_consent(sign_consent(CONSENT, KEY), KEY.public_bytes()) == CONSENT
    assert verify_withdrawal(sign_withdrawal(WITHDRAWAL, KEY), KEY.public_bytes()) == WITHDRAWAL


def test_another_key_cannot_attest_either():
    with pytest.raises(ProtocolError):
        verify_consent(sign_consent(CONSENT, OTHER), KEY.public_bytes())
    with pytest.raises(ProtocolError):
        verify_withdrawal(sign_withdrawal(WITHDRAWAL, OTHER), KEY.public_bytes())


def test_neither_passes_for_the_other():
    with pytest.raises(ProtocolError):
        verify_withdrawal(sign_consent(CONSENT, KEY), KEY.public_bytes())
    with pytest.raises(ProtocolError):
        verify_consent(sign_withdrawal(WITHDRAWAL, KEY), KEY.public_bytes())


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b'{"scope": "everything"}'])
def test_a_signed_something_else_is_no_consent(payload):
    envelope = dsse.sign(payload, "application/vnd.fedshare.consent.v1+json", KEY)
    with pytest.raises(ProtocolError, match="consent"):
        verify_consent(envelope, KEY.public_bytes())


def test_the_digest_is_that_of_the_instant_not_of_its_spelling_and_covers_the_nonce():
    east = NOW.astimezone(timezone(timedelta(hours=8)))
    assert consent_digest(CONSENT.model_copy(update={"given_at": east})) == consent_digest(CONSENT)
    assert consent_digest(CONSENT.model_copy(update={"nonce": "22" * 32})) != consent_digest(CONSENT)


@given(st.integers(-40 * 86_400, 40 * 86_400))
def test_a_consent_is_in_force_from_its_beginning_until_its_end(seconds):
    now = NOW + timedelta(seconds=seconds)
    if 0 <= seconds < 30 * 86_400:
        verify_in_force(CONSENT, CONTRACT, "bank", now, withdrawn=False)
        return
    with pytest.raises(RefusedError) as caught:
        verify_in_force(CONSENT, CONTRACT, "bank", now, withdrawn=False)
    assert caught.value.code == "consent_expired"


@pytest.mark.parametrize(
    ("contract", "bank", "withdrawn", "code"),
    [
        ("00" * 32, "bank", False, "consent_differs"),
        (CONTRACT, "other-bank", False, "consent_differs"),
        (CONTRACT, "bank", True, "consent_withdrawn"),
    ],
)
def test_a_consent_counts_for_its_bank_and_contract_until_it_is_withdrawn(contract, bank, withdrawn, code):
    with pytest.raises(RefusedError) as caught:
        verify_in_force(CONSENT, contract, bank, NOW, withdrawn=withdrawn)
    assert caught.value.code == code
