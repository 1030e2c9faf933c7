"""How much privacy a mechanism takes, by Google's ``dp-accounting``.

Networks are trained with the Gaussian mechanism on Poisson samples (Abadi et al. 2016): in each round every customer takes
part with probability ``sample_rate``, gradients are clipped to norm C, and the sum gets Gaussian noise of standard deviation
``noise_multiplier * C``. Neighbouring data sets differ by one customer more or less of one bank. Composition is over privacy
loss distributions (Koskela et al. 2020; Doroshenko et al. 2022), which bounds epsilon from above.
"""

from __future__ import annotations

from functools import lru_cache

from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant

from fedshare.errors import ParameterError

__all__ = ["network_epsilon", "noise_multiplier"]

# How exactly the noise is calibrated, as a share of it; the result errs to more noise.
_TOLERANCE = 1e-3
# Steps of the privacy loss: at most this, and at most so much of its standard deviation in one round, about
# sample_rate / noise. Larger steps give a larger epsilon, never one that is too small.
_LARGEST_LOSS_STEP = 1e-3
_STEP_PER_DEVIATION = 0.05
# Less noise than this is no privacy worth the name, and its loss distribution is too wide to compute.
_LEAST_NOISE = 0.25


def network_epsilon(noise: float, sample_rate: float, rounds: int, delta: float) -> float:
    """Return the epsilon of ``rounds`` rounds at ``delta``.

    Args:
        noise: the noise multiplier, > 0: standard deviation in units of the clipping norm.
        sample_rate: chance of a customer to be in a round, in (0, 1].
        rounds: at least 1.
        delta: in (0, 1).

    Raises:
        ParameterError: an argument is outside its range.
    """
    if not (noise > 0 and 0 < sample_rate <= 1 and rounds >= 1 and 0 < delta < 1):
        raise ParameterError("expected noise > 0, 0 < sample_rate <= 1, rounds >= 1 and 0 < delta < 1")
    step = min(_LARGEST_LOSS_STEP, _STEP_PER_DEVIATION * sample_rate / noise)
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, step)
    accountant.compose(_event(noise, sample_rate, rounds))
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=64)
def noise_multiplier(epsilon: float, delta: float, sample_rate: float, rounds: int) -> float:
    """Return the least noise multiplier, to 0.1 % and at least 0.25, with which ``rounds`` rounds take at most ``epsilon``.

    Raises:
        ParameterError: an argument is outside its range, as in ``network_epsilon``.
    """
    if not (epsilon > 0 and 0 < sample_rate <= 1 and rounds >= 1 and 0 < delta < 1):
        raise ParameterError("expected epsilon > 0, 0 < sample_rate <= 1, rounds >= 1 and 0 < delta < 1")
    too_little, enough = 0.0, _LEAST_NOISE
    while network_epsilon(enough, sample_rate, rounds, delta) > epsilon:
        too_little, enough = enough, 2.0 * enough
    while too_little and enough > (1.0 + _TOLERANCE) * too_little:
        middle = 0.5 * (too_little + enough)
        if network_epsilon(middle, sample_rate, rounds, delta) > epsilon:
            too_little = middle
        else:
            enough = middle
    return enough


def _event(noise: float, sample_rate: float, rounds: int) -> SelfComposedDpEvent:
    return SelfComposedDpEvent(PoissonSampledDpEvent(sample_rate, GaussianDpEvent(noise)), rounds)
