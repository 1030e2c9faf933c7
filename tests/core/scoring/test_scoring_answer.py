"""Answers, their receipts and decision bands."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare.errors import ConfigError, ProtocolError
from fedshare.identity.keys import IdentityKey
from fedshare.scoring.answer import (
    Answer,
    Band,
    band_of,
    probability_of,
    signed,
    verify_bands,
    verify_receipt,
)

KEY, OTHER = (IdentityKey.from_raw(bytes([fill]) * 32) for fill in (1, 2))
ANSWER = signed(
    Answer(
        enterprise="91350100M000100Y43",
        status="scored",
        reason="",
        probability=0.25,
        points=520,
        band="review",
        reasons=("销售",),
        coverage={"tax": True},
        own_columns="table",
        model="ab/1/cd",
        age_seconds=1.5,
        scored_at="2026-06-01T00:00:00+00:00",
    ),
    KEY,
)
OTHERS = {
    "enterprise": "91350100M000100Y44",
    "status": "fallback",
    "reason": "stale_scores",
    "probability": 0.2500001,
    "points": 521,
    "band": "approve",
    "reasons": (),
    "coverage": {"tax": False},
    "own_columns": "given",
    "model": "ab/2/cd",
    "age_seconds": 1.6,
    "scored_at": "2026-06-01T00:00:01+00:00",
}


def test_a_receipt_verifies_under_the_key_that_signed_it():
    verify_receipt(ANSWER, KEY.public_bytes())
    with pytest.raises(ProtocolError):
        verify_receipt(ANSWER, OTHER.public_bytes())


@pytest.mark.parametrize("name", [field.name for field in fields(Answer) if field.name != "receipt"])
def test_a_receipt_covers_every_field(name):
    with pytest.raises(ProtocolError):
        verify_receipt(replace(ANSWER, **{name: OTHERS[name]}), KEY.public_bytes())


@pytest.mark.parametrize("receipt", ["", "!", "AAAA"])
def test_what_is_no_receipt_is_refused(receipt):
    with pytest.raises(ProtocolError):
        verify_receipt(replace(ANSWER, receipt=receipt), KEY.public_bytes())


@given(st.floats(-700, 700))
def test_a_probability_is_the_inverse_of_its_log_odds(log_odds):
    probability = probability_of(log_odds)
    assert 0 <= probability <= 1
    if abs(log_odds) < 30:
        assert math.log(probability / (1 - probability)) == pytest.approx(log_odds, abs=1e-2)


BANDS = [Band("approve", 0.05), Band("review", 0.2), Band("decline", 1.0)]


@given(st.floats(0, 1))
def test_every_probability_is_in_exactly_the_first_band_that_reaches_it(probability):
    verify_bands(BANDS)
    expected = "approve" if probability <= 0.05 else "review" if probability <= 0.2 else "decline"
    assert band_of(BANDS, probability) == expected


def test_a_bank_without_bands_names_none():
    verify_bands([])
    assert band_of([], 0.5) == ""


@pytest.mark.parametrize(
    "bands",
    [
        [Band("a", 0.5)],
        [Band("a", 0.5), Band("b", 0.5), Band("c", 1.0)],
        [Band("a", 0.0), Band("b", 1.0)],
        [Band("a", 0.5), Band("a", 1.0)],
        [Band("a", 0.7), Band("b", 0.5), Band("c", 1.0)],
    ],
)
def test_bands_that_leave_a_gap_or_overlap_are_refused(bands):
    with pytest.raises(ConfigError):
        verify_bands(bands)
