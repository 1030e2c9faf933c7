import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed_oracles import FixedRandomness, wrap

from fedshare.errors import ParameterError
from fedshare.sealed.masked_sum import add_up, decode, encode, limit, masked

VECTOR = json.loads((Path(__file__).parents[2] / "vectors/sealed/masked_sum.json").read_text())
few = settings(max_examples=30, deadline=None)
words = st.integers(-(2**63), 2**63 - 1)


def seeds(parties, name="seeds"):
    """Return, for every party, sign and seed with each other party."""
    draw = FixedRandomness(name)
    mine = [[] for _ in range(parties)]
    for first, second in combinations(range(parties), 2):
        seed = draw(32)
        mine[first].append((1, seed))
        mine[second].append((-1, seed))
    return mine


@given(st.integers(1, 6), st.lists(words, min_size=1, max_size=20))
@few
def test_masks_cancel_in_the_sum_of_all(parties, values):
    vectors = [np.roll(np.array(values, dtype=np.int64), party) for party in range(parties)]
    hidden = [masked(vector, mine) for vector, mine in zip(vectors, seeds(parties), strict=True)]
    assert np.array_equal(add_up(hidden), sum(vectors))


@given(
    st.integers(1, 10),
    st.integers(0, 52),
    st.lists(st.floats(-1, 1, exclude_min=True, exclude_max=True), min_size=1, max_size=20),
)
@few
def test_the_sum_of_the_largest_values_does_not_wrap_and_is_exact_to_half_a_step_each(parties, bits, shares):
    values = np.array(shares) * np.nextafter(limit(bits, parties), 0)
    words_of_one = encode(values, bits=bits, parties=parties, what="x")
    total = decode(add_up([words_of_one] * parties), bits=bits)
    step = 2.0**-bits
    assert np.all(np.abs(total - parties * values) <= parties * step / 2 + np.abs(total) * 2.0**-52)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**42 / 3 + 0.125, -(2.0**42)])
def test_a_value_that_could_wrap_the_sum_or_is_no_number_is_refused_without_being_shown(value):
    with pytest.raises(ParameterError, match="bank-b, step 3") as refused:
        encode(np.array([0.0, value]), bits=20, parties=3, what="bank-b, step 3")
    assert repr(value) not in str(refused.value)


@pytest.mark.parametrize(("bits", "parties"), [(-1, 2), (53, 2), (20, 0)])
def test_settings_without_a_meaning_are_refused(bits, parties):
    with pytest.raises(ParameterError):
        limit(bits, parties)


@pytest.mark.parametrize("size", [1, 2])
def test_no_smaller_sum_says_anything(size):
    count = 20_000
    hidden = [masked(np.zeros(count, dtype=np.int64), mine) for mine in seeds(3)]
    for group in combinations(hidden, size):
        mean = np.abs(add_up(group).astype(np.float64)).mean() * 2.0**-63
        assert abs(mean - 0.5) < 6 * np.sqrt(1 / 12 / count)  # false alarm 2e-9


def test_a_mask_is_the_aes_256_counter_keystream_word_by_word():
    seed = FixedRandomness("one")(32)
    count = 40_000  # more than one chunk
    keystream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor().update(bytes(8 * count))
    hidden = masked(np.zeros(count, dtype=np.int64), [(1, seed)])
    taken = masked(np.zeros(count, dtype=np.int64), [(-1, seed)])
    for place in (0, 1, 32_767, 32_768, count - 1):
        word = int.from_bytes(keystream[8 * place : 8 * place + 8], "little")
        assert int(hidden[place]) == wrap(word)
        assert int(taken[place]) == wrap(-word)


def test_the_known_answer():
    hidden = masked(
        encode(np.array(VECTOR["values"]), bits=VECTOR["bits"], parties=VECTOR["parties"], what="x"),
        [(sign, bytes.fromhex(seed)) for sign, seed in VECTOR["seeds"]],
    )
    assert [str(word) for word in hidden] == VECTOR["masked"]


def test_the_input_stays_as_it_was():
    vector = np.arange(5)
    masked(vector, seeds(2)[0])
    assert np.array_equal(vector, np.arange(5))


@pytest.mark.parametrize("seed", [(0, bytes(32)), (2, bytes(32)), (1, bytes(31))])
def test_wrong_seeds_are_refused(seed):
    with pytest.raises(ParameterError):
        masked(np.zeros(3, dtype=np.int64), [seed])


@pytest.mark.parametrize("lengths", [(), (3, 4)])
def test_vectors_of_different_lengths_are_not_added_up(lengths):
    with pytest.raises(ParameterError):
        add_up([np.zeros(length, dtype=np.int64) for length in lengths])
