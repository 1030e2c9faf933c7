"""Identifiers: one spelling, check digits, and errors that name the row and never the identifier."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare.credit.identifiers import check_digit, normalise_identifiers
from fedshare.errors import DataError

# The example commonly given for GB 32100-2015, and the public codes of three large companies.
KNOWN = ["91350100M000100Y43", "91330100799655058B", "914403001922038216", "9144030071526726XG"]
ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"


def normalise(values, kind="uscc", *, check_digits=True):
    return normalise_identifiers(values, kind, check_digits=check_digits, party="bank", source="loans.csv")


@pytest.mark.parametrize("code", KNOWN)
def test_a_published_code_has_the_check_digit_of_the_standard(code):
    assert check_digit(code[:17]) == code[17]


def test_spelling_variants_become_the_same_bytes():
    full_width = "".join(chr(ord(character) + 0xFEE0) for character in KNOWN[0])
    assert normalise([full_width]) == [KNOWN[0].encode()]
    assert normalise([" 91350100m000100y43\n"]) == normalise(["91350100M000100Y43"]) == [KNOWN[0].encode()]


@given(st.text(ALPHABET, min_size=17, max_size=17), st.integers(0, 16), st.sampled_from(ALPHABET))
def test_a_single_wrong_character_is_refused(body, place, other):
    code = body + check_digit(body)
    if code[place] != other:
        with pytest.raises(DataError, match="check digit"):
            normalise([code[:place] + other + code[place + 1 :]])


def test_a_wrong_check_digit_can_be_kept():
    assert normalise(["91350100M000100Y44"], check_digits=False) == [b"91350100M000100Y44"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("91350100M000100Y44", "check digit"),
        ("91350100I000100Y43", "letters I, O, S, V or Z"),
        ("91350100M000100Y4", "18 characters"),
        (None, "missing"),
        (float("nan"), "missing"),
        ("  ", "missing"),
        (KNOWN[0], "already stands at row 1"),
    ],
)
def test_a_bad_identifier_is_refused_by_row_and_never_shown(bad, message):
    with pytest.raises(DataError, match=message) as caught:
        normalise([KNOWN[0], KNOWN[1], bad])
    assert (caught.value.row, caught.value.party, caught.value.source) == (3, "bank", "loans.csv")
    assert KNOWN[0] not in str(caught.value)
    assert str(bad).strip() == "" or len(str(bad)) < 5 or str(bad) not in str(caught.value)


def test_opaque_identifiers_keep_their_case_and_accept_whole_numbers():
    assert normalise(["He1", "he1", 17], "opaque") == [b"He1", b"he1", b"17"]


def test_a_duplicate_opaque_identifier_is_refused():
    with pytest.raises(DataError, match=r"row 2.*already stands at row 1"):
        normalise(["a", "a "], "opaque")
