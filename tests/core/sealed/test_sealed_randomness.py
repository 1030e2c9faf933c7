import numpy as np
import pytest

from fedshare.errors import ParameterError
from fedshare.sealed.randomness import Stream, fresh_seed

SEED = bytes(range(32))


def test_the_stream_is_aes_256_in_counter_mode():
    # NIST SP 800-38A, F.5.5: the key, the initial counter and the first output block.
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = 0xF0F1F2F3F4F5F6F7F8F9FAFBFCFDFEFF
    assert Stream(key, skip_bytes=16 * counter).read(16).hex() == "0bdf7df1591716335e9a8b15c860c502"


def test_a_later_start_continues_the_same_stream():
    whole = Stream(SEED).uniform((100,))
    assert np.array_equal(Stream(SEED, skip_bytes=64 * 8).uniform((36,)), whole[64:])


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_of_another_length_is_refused(seed):
    with pytest.raises(ParameterError, match="32 bytes"):
        Stream(seed)


@pytest.mark.parametrize("start", [1, -16])
def test_a_start_off_the_block_is_refused(start):
    with pytest.raises(ParameterError, match="16-byte block"):
        Stream(SEED, skip_bytes=start)


def test_a_source_that_gives_too_few_bytes_is_refused():
    with pytest.raises(ParameterError, match="got 5"):
        fresh_seed(lambda _: b"short")


def test_the_stream_hides_itself():
    assert repr(Stream(SEED)) == "Stream(hidden)"


# The statistical tests below have a fixed seed, 10^6 samples and a limit of 6 standard deviations of the
# statistic: a correct sampler fails one of them, over the choice of seeds, with probability below 10^-7.
SAMPLES = 1_000_000


def test_ternary_samples_are_uniform_on_three_values():
    samples = Stream(SEED).ternary((SAMPLES,))
    counts = np.array([(samples == value).sum() for value in (-1, 0, 1)])
    assert counts.sum() == SAMPLES
    assert np.abs(counts - SAMPLES / 3).max() < 6 * np.sqrt(SAMPLES * 2 / 9)


def test_binomial_samples_have_the_stated_moments_and_support():
    samples = Stream(SEED).binomial((SAMPLES,))
    assert abs(samples.mean()) < 6 * np.sqrt(10.5 / SAMPLES)
    # The variance of a squared sample of kurtosis 3 - 1/21 is (2 - 1/21) * 10.5^2.
    assert abs((samples**2).mean() - 10.5) < 6 * 10.5 * np.sqrt((2 - 1 / 21) / SAMPLES)
    assert np.abs(samples).max() <= 21


def test_gaussian_samples_have_the_stated_moments_and_tail():
    samples = Stream(SEED).gaussian((SAMPLES,), 2.0**24) / 2.0**24
    assert abs(samples.mean()) < 6 / np.sqrt(SAMPLES)
    assert abs((samples**2).mean() - 1) < 6 * np.sqrt(2 / SAMPLES)
    assert np.abs(samples).max() < 9
    share = (np.abs(samples) > 2).mean()
    assert abs(share - 0.0455003) < 6 * np.sqrt(0.0455 * 0.9545 / SAMPLES)
