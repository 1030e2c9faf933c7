"""Labels are flipped once, as often as epsilon says, and debiased without bias."""

from __future__ import annotations

import hashlib
import hmac
import math

import numpy as np
import pytest
from dp_accounting import NeighboringRelation, RandomizedResponseDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given
from hypothesis import strategies as st

from fedshare.errors import ParameterError
from fedshare.privacy.randomised_response import debias, flip_probability, label_bound, randomise

KEY = bytes(range(32))
NAMES = [f"enterprise {number}".encode() for number in range(40_000)]
LABELS = np.arange(len(NAMES)) % 3 == 0


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0, 8.0])
def test_dp_accounting_finds_the_stated_epsilon_at_delta_zero(epsilon):
    # Its noise parameter is the chance to answer at random, which is wrong half of the time.
    event = RandomizedResponseDpEvent(2.0 * flip_probability(epsilon), 2)
    accountant = PLDAccountant(NeighboringRelation.REPLACE_ONE)
    accountant.compose(event)
    assert accountant.get_epsilon(0.0) == pytest.approx(epsilon, abs=2e-4)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_labels_are_flipped_as_often_as_epsilon_says(epsilon):
    labels = LABELS.astype(float)
    flipped = randomise(labels, NAMES, KEY, "2026", epsilon) != labels
    # 40,000 independent flips: five standard deviations, a false alarm in 1.7 million.
    chance = flip_probability(epsilon)
    assert abs(flipped.mean() - chance) < 5 * math.sqrt(chance * (1 - chance) / len(NAMES))


def test_a_label_gets_the_same_flip_wherever_it_stands():
    labels, order = LABELS[:500].astype(float), np.random.default_rng(1).permutation(500)
    noisy = randomise(labels, NAMES[:500], KEY, "2026", 1.0)
    again = randomise(labels[order], [NAMES[row] for row in order], KEY, "2026", 1.0)
    assert np.array_equal(noisy[order], again)


def test_another_epoch_epsilon_or_key_draws_flips_that_are_independent():
    zeros = np.zeros(len(NAMES))
    first = randomise(zeros, NAMES, KEY, "2026", 1.0)
    for other in (
        randomise(zeros, NAMES, KEY, "2027", 1.0),
        randomise(zeros, NAMES, KEY, "2026", 1.5),
        randomise(zeros, NAMES, bytes(32), "2026", 1.0),
    ):
        # A correlation of 40,000 independent pairs beyond 5 / sqrt(n) is a false alarm in 1.7 million.
        assert abs(np.corrcoef(first, other)[0, 1]) < 5 / math.sqrt(len(NAMES))


def test_a_flip_is_the_hmac_of_its_context_below_the_threshold():
    digest = hmac.new(KEY, b"fedshare label noise v1|1.0|4|2026|" + NAMES[7], hashlib.sha256).digest()
    flip = int.from_bytes(digest[:8], "big") / 2**64 < 1 / (1 + math.e)
    assert randomise(np.zeros(1), [NAMES[7]], KEY, "2026", 1.0)[0] == float(flip)


@given(st.floats(0.01, 20.0))
def test_the_mean_of_a_debiased_label_over_its_flips_is_the_label(epsilon):
    flip = flip_probability(epsilon)
    zero, one = debias(np.array([0.0, 1.0]), epsilon)
    assert (1 - flip) * zero + flip * one == pytest.approx(0.0, abs=1e-9 * label_bound(epsilon))
    assert (1 - flip) * one + flip * zero == pytest.approx(1.0, abs=1e-9 * label_bound(epsilon))


@given(st.floats(0.01, 20.0), st.floats(0.0, 1.0))
def test_no_residual_exceeds_the_bound(epsilon, chance):
    residuals = np.abs(chance - debias(np.array([0.0, 1.0]), epsilon))
    assert residuals.max() <= label_bound(epsilon) * (1 + 1e-12)


def test_without_label_privacy_the_bound_is_one():
    assert label_bound(None) == 1.0


@pytest.mark.parametrize("epsilon", [0.0, -1.0, 20.5, math.nan, math.inf])
def test_an_epsilon_outside_its_range_is_refused(epsilon):
    with pytest.raises(ParameterError):
        flip_probability(epsilon)


def test_a_short_key_is_refused():
    with pytest.raises(ParameterError):
        randomise(np.zeros(1), NAMES[:1], b"short", "2026", 1.0)
