"""A band shows no number more closely than the minimum cohort, nor that nearly all of a bank's customers are in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare.privacy.bands import Band, band_of, cap_of

NUMBERS = st.integers(0, 10_000)
COHORTS = st.integers(1, 200)


@given(NUMBERS, NUMBERS, NUMBERS, COHORTS)
def test_a_band_holds_the_number_and_never_says_that_fewer_than_the_cohort_are_left_out(
    count, one, other, minimum
):
    count = min(count, one, other)
    band = band_of(count, minimum, min(cap_of(one, minimum), cap_of(other, minimum)))
    assert band.at_least <= count
    assert not band.below or count < band.below
    assert band.at_least <= max(min(one, other) - minimum, 0)
    assert not band.below or band.below - band.at_least >= minimum


@given(NUMBERS, COHORTS)
def test_a_cap_says_no_more_of_a_bank_than_its_order_of_magnitude(customers, minimum):
    cap = cap_of(customers, minimum)
    if customers >= 2 * minimum:
        assert cap <= customers - minimum < 2 * cap + minimum
        assert (cap // minimum) & (cap // minimum - 1) == 0
    else:
        assert cap == 0


@pytest.mark.parametrize(
    ("count", "band"),
    [
        (0, Band(0, 30)),
        (29, Band(0, 30)),
        (30, Band(30, 60)),
        (89, Band(60, 90)),
        (240, Band(240, 0)),
        (500, Band(240, 0)),
    ],
)
def test_numbers_are_shown_in_steps_of_the_cohort(count, band):
    assert band_of(count, 30, 240) == band
