"""Our accountant says what dp-accounting's two accountants and the plain Gaussian mechanism say."""

from __future__ import annotations

import math

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from fedshare.errors import ParameterError
from fedshare.privacy.accounting import network_epsilon, noise_multiplier


def gaussian_epsilon(noise, delta):
    """Balle and Wang 2018, theorem 8, with sensitivity 1."""

    def gap(epsilon):
        return (
            norm.cdf(1 / (2 * noise) - epsilon * noise)
            - math.exp(epsilon) * norm.cdf(-1 / (2 * noise) - epsilon * noise)
            - delta
        )

    return brentq(gap, 0.0, 100.0)


@pytest.mark.parametrize("noise", [0.8, 2.0, 10.0])
def test_one_round_of_everybody_is_the_gaussian_mechanism(noise):
    assert network_epsilon(noise, 1.0, 1, 1e-5) == pytest.approx(gaussian_epsilon(noise, 1e-5), rel=5e-3)


def test_rounds_of_everybody_compose_like_one_round_with_less_noise():
    assert network_epsilon(20.0, 1.0, 100, 1e-5) == pytest.approx(gaussian_epsilon(2.0, 1e-5), rel=5e-3)


@pytest.mark.parametrize(("noise", "rate", "rounds"), [(1.1, 0.01, 1000), (0.7, 0.02, 200)])
def test_epsilon_is_that_of_dp_accounting_and_below_renyi_accounting(noise, rate, rounds):
    event = SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), rounds)
    found = network_epsilon(noise, rate, rounds, 1e-5)
    assert found == pytest.approx(PLDAccountant().compose(event).get_epsilon(1e-5), rel=0.01)
    assert found < RdpAccountant().compose(event).get_epsilon(1e-5)


@pytest.mark.parametrize(("epsilon", "rate", "rounds"), [(1.0, 0.01, 300), (8.0, 0.05, 100)])
def test_the_calibrated_noise_is_enough_and_hardly_more(epsilon, rate, rounds):
    noise = noise_multiplier(epsilon, 1e-5, rate, rounds)
    assert network_epsilon(noise, rate, rounds, 1e-5) <= epsilon
    assert network_epsilon(0.99 * noise, rate, rounds, 1e-5) > epsilon


@pytest.mark.parametrize(
    "arguments", [(0.0, 1e-5, 0.1, 10), (1.0, 0.0, 0.1, 10), (1.0, 1e-5, 1.1, 10), (1.0, 1e-5, 0.1, 0)]
)
def test_arguments_outside_their_range_are_refused(arguments):
    with pytest.raises(ParameterError):
        noise_multiplier(*arguments)
    epsilon, delta, rate, rounds = arguments
    with pytest.raises(ParameterError):
        network_epsilon(epsilon, rate, rounds, delta)
