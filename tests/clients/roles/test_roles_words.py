"""Words of Z_2^64 on the wire and as fixed-point numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare.errors import ParameterError, ProtocolError
from fedshare_clients.node.words import decode_fixed, encode_fixed, pack_words, unpack_words

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(INT64, max_size=50))
def test_unpacking_inverts_packing(values: list[int]) -> None:
    words = np.array(values, dtype=np.int64)
    data = pack_words(words)
    assert data == b"".join(value.to_bytes(8, "little", signed=True) for value in values)
    assert np.array_equal(unpack_words(data, len(values), "test"), words)


@given(st.binary(max_size=100), st.integers(0, 12))
def test_another_length_is_refused_whatever_the_bytes(data: bytes, count: int) -> None:
    if len(data) == 8 * count:
        assert len(unpack_words(data, count, "test")) == count
    else:
        with pytest.raises(ProtocolError, match=f"test: expected {count} words"):
            unpack_words(data, count, "test")


@given(st.lists(st.floats(-1000, 1000), max_size=20), st.integers(1, 44))
def test_decoding_inverts_encoding_up_to_half_a_step(values: list[float], bits: int) -> None:
    numbers = np.array(values)
    error = decode_fixed(encode_fixed(numbers, bits, "test"), bits) - numbers
    assert np.all(np.abs(error) <= 2.0 ** -(bits + 1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**22, -(2.0**22), 1e300])
def test_a_number_out_of_range_is_refused_and_not_shown(value: float) -> None:
    with pytest.raises(ParameterError, match="must be finite") as caught:
        encode_fixed(np.array([0.5, value]), 40, "partial score")
    assert str(value) not in str(caught.value)


def test_the_largest_number_in_range_is_kept() -> None:
    largest = np.nextafter(2.0**22, 0)
    assert decode_fixed(encode_fixed(np.array([largest, -largest]), 40, "test"), 40).tolist() == [
        largest,
        -largest,
    ]


def test_sums_of_encoded_numbers_wrap_and_still_decode() -> None:
    rng = np.random.default_rng(1)
    parts = rng.integers(-(2**63), 2**63 - 1, (5, 100))
    wanted = rng.normal(size=100)
    with np.errstate(over="ignore"):
        parts[0] = encode_fixed(wanted, 40, "test") - parts[1:].sum(axis=0)
        assert np.allclose(decode_fixed(parts.sum(axis=0), 40), wanted, atol=2.0**-41)
