import copy
import hashlib
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed_oracles import FixedRandomness, negacyclic_product, one_hot, transposed_product

from fedshare.errors import ParameterError, ProtocolError
from fedshare.sealed import (
    Dense,
    HolderMask,
    OfferedSecret,
    OneHot,
    PreparedSecret,
    PublicMatrix,
    Stream,
    answer,
    decode,
    flood_bits,
    hint,
    noise_deviation,
    offline,
    recover,
    scale_bits,
)
from fedshare.sealed.ring import negate_exponents

VECTOR = json.loads((Path(__file__).parents[2] / "vectors/sealed/product.json").read_text())
SEED = bytes(range(32))
few = settings(max_examples=5, deadline=None)


def prepare(private, public, randomness):
    secret, offer = OfferedSecret.create(randomness)
    mask, answered = answer(hint(public, private), offer, randomness)
    return mask, secret.accept(answered)


def sealed_product(private, d, randomness, max_abs_x=1, bits=None):
    public = PublicMatrix(SEED, private.rows)
    mask, prepared = prepare(private, public, randomness)
    bits = bits or scale_bits(private.rows, max_abs_x, 1.0)
    ciphertext, share = prepared.encrypt(public, d, bits, randomness, max_abs_x=max_abs_x)
    return decode(recover(private, ciphertext, share, mask), bits)


def random_codes(rows, features, bins, seed=0):
    codes = np.random.default_rng(seed).integers(0, bins, (rows, features))
    return (codes + bins * np.arange(features)).astype(np.int32)


def random_d(rows, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, rows) * (rng.random(rows) < 0.2)


def test_the_holder_ends_with_the_product_of_one_hot_columns():
    codes = random_codes(9000, 5, 7)
    d = random_d(9000)
    result = sealed_product(OneHot(codes, 35), d, FixedRandomness())
    # 6 standard deviations in 35 components: false alarm below 10^-7.
    assert np.abs(result - one_hot(codes, 35).T @ d).max() < 6 * noise_deviation(9000, 35, 1, 44)


def test_the_holder_ends_with_the_product_of_dense_columns():
    values = np.random.default_rng(1).integers(-1000, 1001, (5000, 8))
    d = random_d(5000)
    bits = scale_bits(5000, 1000, 1.0)
    result = sealed_product(Dense(values), d, FixedRandomness(), max_abs_x=1000)
    # 6 standard deviations in 8 components: false alarm below 10^-7.
    assert np.abs(result - values.T @ d).max() < 6 * noise_deviation(5000, 8, 1000, bits)


@pytest.mark.parametrize("rows", [1, 4095, 4096, 4097])
def test_any_number_of_rows_works(rows):
    d = random_d(rows)
    result = sealed_product(Dense(np.ones((rows, 1), dtype=np.int64)), d, FixedRandomness())
    assert result[0] == pytest.approx(d.sum(), abs=1e-4)


def test_the_sum_over_banks_is_the_product_of_the_sum():
    private = OneHot(random_codes(3000, 2, 4), 8)
    public = PublicMatrix(SEED, 3000)
    total = np.zeros(8, dtype=np.int64)
    banks = [random_d(3000, seed) for seed in range(3)]
    bits = scale_bits(3 * 3000, 1, 1.0)
    for number, d in enumerate(banks):
        randomness = FixedRandomness(f"bank {number}")
        mask, prepared = prepare(private, public, randomness)
        ciphertext, share = prepared.encrypt(public, d, bits, randomness)
        total += recover(private, ciphertext, share, mask)
    plain = one_hot(random_codes(3000, 2, 4), 8).T @ sum(banks)
    assert np.abs(decode(total, bits) - plain).max() < 1e-4


def test_shares_that_two_banks_add_to_their_vectors_cancel_in_the_product():
    private = OneHot(random_codes(3000, 2, 4), 8)
    public = PublicMatrix(SEED, 3000)
    bits = scale_bits(2 * 3000, 1, 1.0)
    banks = [random_d(3000, seed) for seed in range(2)]
    gone = np.arange(3000) % 3 == 0
    share = Stream(SEED).uniform((3000,))
    other = -share - np.where(gone, np.rint(banks[1] * 2.0**bits).astype(np.int64), 0)
    total = np.zeros(8, dtype=np.int64)
    for number, (d, added) in enumerate(zip(banks, (share, other), strict=True)):
        randomness = FixedRandomness(f"bank {number}")
        mask, prepared = prepare(private, public, randomness)
        total += recover(private, *prepared.encrypt(public, d, bits, randomness, added=added), mask)
    plain = one_hot(random_codes(3000, 2, 4), 8).T @ (banks[0] + np.where(gone, 0.0, banks[1]))
    assert np.abs(decode(total, bits) - plain).max() < 1e-4


def test_a_share_of_another_shape_leaves_the_secret_unused():
    public = PublicMatrix(SEED, 10)
    _, prepared = prepare(Dense(np.ones((10, 1), dtype=np.int64)), public, FixedRandomness())
    with pytest.raises(ParameterError, match="to add"):
        prepared.encrypt(public, np.zeros(10), 30, FixedRandomness(), added=np.zeros(9, dtype=np.int64))
    prepared.encrypt(public, np.zeros(10), 30, FixedRandomness())


def test_the_error_has_the_stated_deviation():
    # 1,500 components; the variance of a Gaussian sample of this size is within 6 * sqrt(2 / 1500) = 0.22 of
    # its expectation except with probability below 10^-8.
    values = np.random.default_rng(2).integers(0, 2, (600, 1500))
    d = random_d(600)
    error = sealed_product(Dense(values), d, FixedRandomness()) - values.T @ d
    assert (error / noise_deviation(600, 1500, 1, 44)).var() == pytest.approx(1, abs=0.22)


@pytest.mark.parametrize("max_abs", [1, 1024, 2**17])
def test_the_hint_is_exact_at_the_largest_entries(max_abs):
    rows = 2 * 4096 + 1
    values = np.full((rows, 1), max_abs, dtype=np.int64)
    values[::2] *= -1
    public = PublicMatrix(SEED, rows)
    padded = np.zeros(3 * 4096, dtype=np.int64)
    padded[:rows] = values[:, 0]
    expected = sum(
        negacyclic_product(negate_exponents(a), x)
        for a, x in zip(public.elements(0, 3), padded.reshape(3, 4096), strict=True)
    )
    assert np.array_equal(hint(public, Dense(values))[0], expected)


def test_hints_of_one_hot_and_dense_columns_agree():
    codes = random_codes(9000, 6, 8)
    public = PublicMatrix(SEED, 9000)
    assert np.array_equal(hint(public, OneHot(codes, 48)), hint(public, Dense(one_hot(codes, 48))))


@given(st.binary(min_size=32, max_size=32), st.integers(1, 300), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_transposed_products_are_exact_modulo_2_to_the_64(seed, rows, columns):
    stream = Stream(seed)
    words = stream.uniform((rows,))
    values = stream.uniform((rows, columns)) >> 46
    codes = (stream.uniform((rows, 1)) % columns).astype(np.int32)
    assert np.array_equal(Dense(values).transposed_product(words), transposed_product(values, words))
    sparse = one_hot(codes, columns)
    assert np.array_equal(OneHot(codes, columns).transposed_product(words), transposed_product(sparse, words))


def test_transposed_products_are_exact_at_the_largest_entries():
    rows = 70_000  # more than one chunk of either kind
    values = np.full((rows, 2), 2**17, dtype=np.int64)
    values[:, 1] = -(2**17)
    words = np.full(rows, 2**63 - 1, dtype=np.int64)
    expected = (rows * 2**17 * (2**63 - 1) + 2**63) % 2**64 - 2**63
    assert Dense(values).transposed_product(words).tolist() == [expected, -expected]
    codes = np.zeros((rows, 1), dtype=np.int32)
    assert OneHot(codes, 1).transposed_product(words)[0] == (rows * (2**63 - 1) + 2**63) % 2**64 - 2**63


@given(st.binary(min_size=32, max_size=32))
@few
def test_the_shares_add_up_to_the_hint_times_the_secret(seed):
    randomness = FixedRandomness(seed.hex())
    secret, offer = OfferedSecret.create(randomness)
    s = secret._secret.astype(np.int64)
    columns = Stream(seed).uniform((3, 4096))
    mask, answered = answer(columns, offer, randomness)
    prepared = secret.accept(answered)
    eta = prepared._share - mask.values - columns @ s
    # The cut bytes against s, at most 2^15 * 4096; all else is far smaller.
    assert np.abs(eta).max() < 2**28


def test_the_ciphertext_is_the_stated_formula():
    rows = 5000
    public = PublicMatrix(SEED, rows)
    _, prepared = prepare(Dense(np.ones((rows, 1), dtype=np.int64)), public, FixedRandomness())
    s = prepared._secret.copy()
    d = random_d(rows)
    ciphertext, _ = prepared.encrypt(public, d, 30, FixedRandomness("e"))
    products = np.concatenate([negacyclic_product(a, s) for a in public.elements(0, 2)])[:rows]
    errors = ciphertext - products - np.rint(d * 2.0**30).astype(np.int64)
    assert np.abs(errors).max() <= 21
    # 6 standard deviations of the mean of 5,000 squares: false alarm below 2 * 10^-9.
    assert (errors**2).mean() == pytest.approx(10.5, abs=6 * 10.5 * np.sqrt(2 / rows))


def test_what_travels_looks_uniform():
    # Bits of the ciphertext of zeros and of an answer about a hint of zeros, 6 standard deviations:
    # false alarm below 4 * 10^-9.
    public = PublicMatrix(SEED, 40_000)
    randomness = FixedRandomness()
    secret, offer = OfferedSecret.create(randomness)
    _, answered = answer(np.zeros((10, 4096), dtype=np.int64), offer, randomness)
    ciphertext, _ = secret.accept(answered).encrypt(public, np.zeros(40_000), 44, randomness)
    for sent in (ciphertext.tobytes(), answered):
        bits = np.unpackbits(np.frombuffer(sent, dtype=np.uint8))
        assert abs(int(bits.sum()) - bits.size / 2) < 6 * np.sqrt(bits.size / 4)


def test_the_share_is_flooded():
    # Two encryptions under the same prepared share differ by two floods of 2^24; 1,000 components and 6
    # standard deviations of a sample variance: false alarm below 2 * 10^-9.
    public = PublicMatrix(SEED, 10)
    shares = []
    for name in ("first", "second"):
        prepared = PreparedSecret(np.zeros(4096, dtype=np.int8), np.zeros(1000, dtype=np.int64))
        shares.append(prepared.encrypt(public, np.zeros(10), 44, FixedRandomness(name))[1])
    assert ((shares[0] - shares[1]) / 2.0**24).var() == pytest.approx(2, abs=6 * 2 * np.sqrt(2 / 1000))


def test_the_flood_grows_with_the_sensitivity_of_the_hint():
    assert flood_bits(1_000_000, 1500, 1) == 24
    assert (
        flood_bits(1_000_000, 32, 2**17) == 35
    )  # log2(3.24 * 2^17 * sqrt(32 * 10^6)) = 31.2, rounded up, plus 3


def test_the_known_answer_is_reproduced():
    codes = np.array(VECTOR["codes"], dtype=np.int32)
    private = OneHot(codes, VECTOR["columns"])
    public = PublicMatrix(bytes.fromhex(VECTOR["ring_seed"]), len(codes))

    def digest(data):
        return hashlib.sha256(data).hexdigest()

    columns = hint(public, private)
    assert digest(columns.tobytes()) == VECTOR["hint_sha256"]
    secret, offer = OfferedSecret.create(FixedRandomness("bank offers"))
    assert digest(offer) == VECTOR["offer_sha256"]
    mask, answered = answer(columns, offer, FixedRandomness("holder answers"))
    assert digest(answered) == VECTOR["answer_sha256"]
    prepared = secret.accept(answered)
    ciphertext, share = prepared.encrypt(
        public, np.array(VECTOR["d"]), VECTOR["scale_bits"], FixedRandomness("bank encrypts")
    )
    assert ciphertext.tolist() == VECTOR["ciphertext"]
    # The flood goes through log and cos: a unit may differ between C libraries.
    assert np.abs(share - np.array(VECTOR["share"])).max() <= 1
    assert np.abs(recover(private, ciphertext, share, mask) - np.array(VECTOR["recovered"])).max() <= 1


@pytest.mark.parametrize(
    ("rows", "max_abs_x", "max_abs_d", "bits"),
    [
        (1000, 1, 1.0, 44),
        (1_000_000, 1, 1.0, 42),
        (1_000_000, 1, 4.0, 40),
        (100_000, 1000, 1.0, 35),
        (1, 1, 1e-9, 44),
    ],
)
def test_scale_bits_are_as_many_as_the_range_allows(rows, max_abs_x, max_abs_d, bits):
    assert scale_bits(rows, max_abs_x, max_abs_d) == bits


@given(st.integers(1, 10**7), st.integers(1, 2**17), st.floats(1e-3, 1e3))
def test_scaled_products_and_their_noise_stay_in_range(rows, max_abs_x, max_abs_d):
    bits = scale_bits(rows, max_abs_x, max_abs_d)
    noise = 9 * noise_deviation(rows, 1500, max_abs_x, bits) * 2.0**bits
    assert rows * max_abs_x * max_abs_d * 2.0**bits + noise < 2.0**62


@pytest.mark.parametrize(
    ("rows", "max_abs_x", "max_abs_d"),
    [
        (0, 1, 1.0),
        (1, 0, 1.0),
        (1, 2**18, 1.0),
        (1, 1, 0.0),
        (1, 1, float("inf")),
        (1, 1, float("nan")),
        (1, 1, 1e30),
    ],
)
def test_scale_bits_refuses_what_has_no_range(rows, max_abs_x, max_abs_d):
    with pytest.raises(ParameterError):
        scale_bits(rows, max_abs_x, max_abs_d)


@pytest.fixture
def bank():
    public = PublicMatrix(SEED, 100)
    _, prepared = prepare(Dense(np.ones((100, 2), dtype=np.int64)), public, FixedRandomness())
    return public, prepared


def test_the_same_vector_is_sealed_differently_every_time():
    public = PublicMatrix(SEED, 4096)
    private = Dense(np.ones((4096, 1), dtype=np.int64))
    sent = []
    for name in ("first", "second"):
        _, prepared = prepare(private, public, FixedRandomness(name))
        sent.append(prepared.encrypt(public, np.zeros(4096), 44, FixedRandomness(name + " query"))[0])
    assert not (sent[0] == sent[1]).any()


def test_who_draws_the_seed_does_not_choose_the_offered_key():
    # The key is the expansion of a hash of the seed: neither the seed's own stream nor a contract's elements.
    key = offline._expand_key(SEED)
    assert not (key == Stream(SEED).uniform((4096,))).any()
    assert not (key == PublicMatrix(SEED, 4096).elements(0, 1)[0]).any()


def test_two_threads_cannot_use_a_secret_twice(bank):
    public, prepared = bank

    def use(name):
        try:
            prepared.encrypt(public, np.zeros(100), 44, FixedRandomness(name))
        except ParameterError:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(use, "abcdefgh")) == 1


def test_a_secret_used_twice_is_refused(bank):
    public, prepared = bank
    prepared.encrypt(public, np.zeros(100), 44, FixedRandomness())
    with pytest.raises(ParameterError, match="used before"):
        prepared.encrypt(public, np.zeros(100), 44, FixedRandomness())
    assert not prepared._secret.any()
    assert not prepared._share.any()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_secret_cannot_be_copied_or_stored(bank, duplicate):
    secret, _ = OfferedSecret.create(FixedRandomness())
    for one_time in (secret, bank[1]):
        with pytest.raises(ParameterError, match="cannot be copied"):
            duplicate(one_time)


def test_secrets_are_hidden_in_what_they_print(bank):
    secret, _ = OfferedSecret.create(FixedRandomness())
    assert repr(secret) == "OfferedSecret(unused)"
    assert repr(bank[1]) == "PreparedSecret(unused)"
    assert repr(HolderMask(np.arange(3))) == "HolderMask(columns=3)"


@pytest.mark.parametrize(
    ("d", "bits", "message"),
    [
        (np.zeros(99), 44, "shape"),
        (np.zeros(100, dtype=np.int64), 44, "float64"),
        (np.full(100, np.nan), 44, "not finite"),
        (np.full(100, np.inf), 44, "not finite"),
        (np.full(100, -1e300), 44, "range"),
        (np.full(100, 1e308), 44, "not finite"),
        (np.full(100, 2.0**13), 44, "range"),
        (np.zeros(100), 45, "scale_bits"),
        (np.zeros(100), 0, "scale_bits"),
    ],
    ids=["rows", "type", "nan", "inf", "huge", "sum overflows", "overflow", "too many bits", "no bits"],
)
def test_a_vector_outside_the_parameters_is_refused_and_the_secret_kept(bank, d, bits, message):
    public, prepared = bank
    randomness = FixedRandomness()
    with pytest.raises(ParameterError, match=message):
        prepared.encrypt(public, d, bits, randomness)
    assert randomness.calls == 0
    prepared.encrypt(public, np.zeros(100), 44, randomness)


def test_a_bound_on_x_that_leaves_the_range_is_refused(bank):
    public, prepared = bank
    with pytest.raises(ParameterError, match="range"):
        prepared.encrypt(public, np.ones(100), 44, FixedRandomness(), max_abs_x=2**12)


def test_an_answer_is_accepted_once():
    randomness = FixedRandomness()
    secret, offer = OfferedSecret.create(randomness)
    _, answered = answer(np.zeros((1, 4096), dtype=np.int64), offer, randomness)
    secret.accept(answered)
    with pytest.raises(ParameterError, match="used before"):
        secret.accept(answered)


def test_an_answer_to_another_offer_is_refused():
    randomness = FixedRandomness()
    secret, _ = OfferedSecret.create(randomness)
    _, other_offer = OfferedSecret.create(randomness)
    _, answered = answer(np.zeros((1, 4096), dtype=np.int64), other_offer, randomness)
    with pytest.raises(ProtocolError, match="another offer"):
        secret.accept(answered)


@pytest.mark.parametrize("change", [-1, 1, -24_584, 1500 * 24_584])
def test_an_answer_of_a_wrong_length_is_refused(change):
    randomness = FixedRandomness()
    secret, offer = OfferedSecret.create(randomness)
    _, answered = answer(np.zeros((1, 4096), dtype=np.int64), offer, randomness)
    with pytest.raises(ProtocolError, match="length"):
        secret.accept(answered[:change] if change < 0 else answered + bytes(change))


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=50, deadline=None)
def test_arbitrary_bytes_are_no_answer_and_no_offer(noise, keep_digest):
    secret, offer = OfferedSecret.create(FixedRandomness())
    start = hashlib.sha256(offer).digest()[:16] if keep_digest else b""
    with pytest.raises(ProtocolError):
        secret.accept(start + noise)
    with pytest.raises(ProtocolError):
        answer(np.zeros((1, 4096), dtype=np.int64), noise, FixedRandomness())


@pytest.mark.parametrize("length", [0, 32, 32_799, 32_801])
def test_an_offer_of_a_wrong_length_is_refused(length):
    with pytest.raises(ProtocolError, match="32800"):
        answer(np.zeros((1, 4096), dtype=np.int64), bytes(length), FixedRandomness())


@pytest.mark.parametrize(
    "bad_hint",
    [
        np.zeros((1, 4095), dtype=np.int64),
        np.zeros((1, 4096)),
        np.zeros((1501, 4096), dtype=np.int64),
        np.zeros(4096),
    ],
    ids=["dimension", "type", "columns", "vector"],
)
def test_a_hint_of_another_shape_is_refused(bad_hint):
    _, offer = OfferedSecret.create(FixedRandomness())
    with pytest.raises(ParameterError, match="expected"):
        answer(bad_hint, offer, FixedRandomness())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Dense(np.zeros((2, 1501), dtype=np.int64)),
        lambda: Dense(np.zeros((2, 2))),
        lambda: Dense(np.zeros((0, 2), dtype=np.int64)),
        lambda: Dense(np.full((2, 2), 2**17 + 1)),
        lambda: Dense(np.full((2, 2), -(2**63))),
        lambda: OneHot(np.zeros((2, 1), dtype=np.int32), 1501),
        lambda: OneHot(np.zeros((2, 1), dtype=np.int64), 1),
        lambda: OneHot(np.full((2, 1), -1, dtype=np.int32), 1),
        lambda: OneHot(np.ones((2, 1), dtype=np.int32), 1),
        lambda: OneHot(np.zeros((2, 2), dtype=np.int32), 1),
        lambda: PublicMatrix(bytes(31), 1),
        lambda: PublicMatrix(bytes(32), 0),
        lambda: hint(PublicMatrix(bytes(32), 3), Dense(np.zeros((2, 1), dtype=np.int64))),
    ],
)
def test_a_matrix_outside_the_parameters_is_refused(make):
    with pytest.raises(ParameterError, match="expected"):
        make()


@pytest.mark.parametrize(
    ("ciphertext", "share"),
    [
        (np.zeros(99, dtype=np.int64), np.zeros(2, dtype=np.int64)),
        (np.zeros(100), np.zeros(2, dtype=np.int64)),
        (np.zeros(100, dtype=np.int64), np.zeros(3, dtype=np.int64)),
        (np.zeros(100, dtype=np.int64), np.zeros(2)),
    ],
    ids=["rows", "type of ciphertext", "columns", "type of share"],
)
def test_a_message_of_another_shape_is_refused(ciphertext, share):
    with pytest.raises(ProtocolError, match="expected"):
        recover(
            Dense(np.ones((100, 2), dtype=np.int64)),
            ciphertext,
            share,
            HolderMask(np.zeros(2, dtype=np.int64)),
        )
