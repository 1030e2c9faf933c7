"""PSI against its definition and its sampling distribution; the bootstrap against what is known."""

import numpy as np
import pytest

from fedshare.credit.bootstrap import bootstrap_interval
from fedshare.credit.stability import stability_index
from fedshare.errors import DataError, ParameterError


def test_the_index_is_the_sum_of_share_differences_times_log_ratios():
    found = stability_index([999_999.5, 2_999_999.5], [1_999_999.5, 1_999_999.5])
    assert found.index == pytest.approx((0.25 - 0.5) * np.log(0.5) + (0.75 - 0.5) * np.log(1.5), rel=1e-5)
    assert found.verdict == "shifted"


def test_the_same_shares_are_stable_and_an_empty_bin_leaves_the_index_finite():
    assert stability_index([10, 20, 30], [100, 200, 300]).verdict == "stable"
    assert np.isfinite(stability_index([0, 50, 50], [50, 50, 0]).index)


def test_without_change_the_index_exceeds_chance_as_rarely_as_it_says():
    # 400 pairs of samples, seed 5: exceedances at 5 % are binomial, mean 20; 8 to 36 holds them with probability 0.9995.
    generator, exceeded = np.random.default_rng(5), 0
    shares = [0.1, 0.2, 0.3, 0.25, 0.15]
    for _ in range(400):
        found = stability_index(generator.multinomial(800, shares), generator.multinomial(500, shares))
        exceeded += found.index > found.by_chance
    assert 8 <= exceeded <= 36


def test_a_large_index_of_few_customers_may_be_chance():
    few = stability_index([4, 3, 3], [2, 4, 4])
    assert few.index > 0.1
    assert few.verdict == "stable"
    assert stability_index([400, 300, 300], [200, 400, 400]).verdict == "moderate"


@pytest.mark.parametrize(
    ("before", "after"), [([1, 2], [1, 2, 3]), ([5], [5]), ([0, 0], [1, 1]), ([-1, 2], [1, 1])]
)
def test_samples_that_cannot_be_compared_are_refused(before, after):
    with pytest.raises(DataError):
        stability_index(before, after)


def test_the_bootstrap_interval_of_a_mean_is_the_normal_one():
    generator = np.random.default_rng(8)
    values = generator.normal(0.0, 1.0, 400)
    low, high = bootstrap_interval(lambda rows: values[rows].mean(), np.zeros(400), generator, resamples=2000)
    assert (high - low) / (2 * 1.96 * values.std() / 20) == pytest.approx(1.0, abs=0.1)


def test_every_resample_has_both_outcomes_in_their_numbers():
    labels = np.repeat([0.0, 1.0], [97, 3])
    assert bootstrap_interval(lambda rows: labels[rows].sum(), labels, np.random.default_rng(0)) == (3.0, 3.0)


def test_several_figures_of_one_resample_have_an_interval_each():
    values = np.arange(50.0)
    both = bootstrap_interval(
        lambda rows: [values[rows].mean(), 2 * values[rows].mean()], np.zeros(50), np.random.default_rng(3)
    )
    for end in both:
        assert end[1] == pytest.approx(2 * end[0])


def test_too_few_resamples_are_refused():
    with pytest.raises(ParameterError):
        bootstrap_interval(lambda rows: 0.0, np.zeros(3), np.random.default_rng(0), resamples=50)
