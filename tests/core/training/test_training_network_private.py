"""Private rounds: clipping bounds every customer, and the noise is what the accountant was told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_banks import Parts, generated, train_banks

from fedshare.contract.network import NetworkModel
from fedshare.errors import ParameterError
from fedshare.sealed.randomness import Stream
from fedshare.training.network.federation import Noise
from fedshare.training.network.inputs import Inputs
from fedshare.training.network.private import (
    GRADIENT_BITS,
    clipped_gradient_sum,
    noise_deviation,
    noisy_gradient_sum,
    sample,
)

MODEL = NetworkModel(kind="mlp", settings={"hidden": 8}, algorithm="fedavg", rounds=2)
STEP = 2.0**-GRADIENT_BITS


@pytest.fixture(scope="module")
def parts() -> Parts:
    return generated(120)


def gradients_one_by_one(customers, clip_norm):
    """Return each training customer's clipped gradient from a microbatch of one, in units of the norm."""
    found = []
    for row in customers.training_rows:
        customers.network.zero_grad()
        customers.batch_loss(row.unsqueeze(0)).backward()
        gradient = torch.cat([each.grad.flatten() for each in customers.network.parameters()]).double()
        gradient /= clip_norm
        found.append((gradient / max(float(gradient.norm()), 1.0)).cpu().numpy())
    return np.array(found)


@pytest.mark.parametrize("kind", ["logistic", "mlp", "resnet"])
@pytest.mark.parametrize("clip_norm", [0.05, 1.0, 100.0])
def test_clipped_sums_are_those_of_microbatches_of_one(parts, kind, clip_norm):
    customers = parts.customers(NetworkModel(kind=kind), 0)
    customers.network.eval()
    expected = gradients_one_by_one(customers, clip_norm).sum(axis=0)
    found = clipped_gradient_sum(customers, customers.training_rows, clip_norm)
    assert np.abs(found - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 59), st.floats(0.01, 10.0))
def test_one_customer_moves_a_rounded_sum_by_at_most_the_sensitivity(index, clip_norm):
    customers = generated(120).customers(MODEL, 0)
    rows = customers.training_rows
    without = torch.cat([rows[: index % len(rows)], rows[index % len(rows) + 1 :]])
    sums = [np.rint(clipped_gradient_sum(customers, each, clip_norm) / STEP) for each in (rows, without)]
    size = len(sums[0])
    assert np.linalg.norm(sums[0] - sums[1]) <= 1 / STEP + np.sqrt(size)


def test_no_customer_in_the_sample_is_a_sum_of_zero(parts):
    customers = parts.customers(MODEL, 0)
    assert not clipped_gradient_sum(customers, customers.training_rows[:0], 1.0).any()


def test_every_customer_is_sampled_as_often_as_the_rate_says():
    customers = generated(4000).customers(MODEL, 0)
    stream = Stream(bytes(32))
    sizes = [len(sample(customers, 0.1, stream)) for _ in range(50)]
    count = len(customers.training_rows)
    # 50 rounds of some 1,400 customers: five standard deviations, a false alarm in 1.7 million.
    assert abs(np.mean(sizes) - 0.1 * count) < 5 * np.sqrt(0.09 * count / 50)
    assert len(set(sizes)) > 20


@pytest.mark.parametrize("banks", [2, 3, 8])
def test_the_shares_of_all_banks_but_one_make_up_the_noise(banks):
    share = noise_deviation(1.5, 10_000, banks) * STEP
    assert np.sqrt((banks - 1) * share**2) == pytest.approx(1.5 * (1 + np.sqrt(10_000) * STEP), rel=1e-12)


def test_the_noise_of_a_bank_has_its_deviation_and_lies_on_the_grid(parts):
    customers = parts.customers(NetworkModel(kind="mlp", settings={"hidden": 128}), 0)
    settings = {"sample_rate": 1.0, "clip_norm": 1.0, "noise_multiplier": 2.0, "banks": 3}
    exact = clipped_gradient_sum(customers, customers.training_rows, 1.0)
    noisy = noisy_gradient_sum(customers, stream=Stream(bytes(32)), **settings)
    assert np.array_equal(noisy / STEP, np.rint(noisy / STEP))
    noise = noisy - exact
    # 17,000 normal numbers: their deviation is within 5 / sqrt(2 n) of its own, a false alarm in 1.7 million.
    expected = 2.0 / np.sqrt(2)
    assert len(noise) > 15_000
    assert abs(noise.std() / expected - 1) < 5 / np.sqrt(2 * len(noise))


def test_two_rounds_never_draw_the_same_noise(parts):
    customers = parts.customers(MODEL, 0)
    stream = Stream(bytes(32))
    settings = {"sample_rate": 0.5, "clip_norm": 1.0, "noise_multiplier": 1.0, "banks": 3, "stream": stream}
    first, second = (noisy_gradient_sum(customers, **settings) for _ in range(2))
    # Shared noise would leave the difference of two sums of at most 60 gradients.
    assert np.abs(first - second).min() < np.abs(first - second).max()
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(len(first)) + 0.3


@pytest.mark.parametrize("algorithm", ["fedavg", "fedadam"])
def test_private_rounds_sum_noisy_gradients_and_nothing_else(parts, algorithm):
    noise = Noise(noise_multiplier=1.0, clip_norm=1.0, sample_rate=0.2, lot_size=20, banks=3)
    model = MODEL.model_copy(update={"algorithm": algorithm})
    customers, trainings, sums = train_banks(parts, model, noise=noise)
    assert sums.steps == ["first network", "network, round 1", "network, round 2"]
    assert len({each.parameters().tobytes() for each in customers}) == 1
    assert len(trainings[0].history) == 2


def test_with_little_noise_private_training_learns():
    parts = generated(2000)
    noise = Noise(noise_multiplier=0.02, clip_norm=10.0, sample_rate=0.2, lot_size=280, banks=3)
    model = NetworkModel(kind="mlp", rounds=60, learning_rate=0.3)
    customers, trainings, _ = train_banks(parts, model, noise=noise)
    weights = [each.weight_sums()[1] for each in customers]
    after = sum(each.losses()[1] for each in customers) / sum(weights)
    before = np.average([each.history[0].holdout_loss for each in trainings], weights=weights)
    assert after < before - 0.1


def test_a_gradient_that_is_not_finite_is_refused_before_it_is_summed(parts):
    numeric = parts.inputs.numeric.copy()
    numeric[:] = np.inf
    broken = Parts(
        Inputs(numeric, parts.inputs.categories, parts.inputs.schema),
        parts.labels,
        parts.owner,
        parts.training,
    )
    with pytest.raises(ParameterError, match="not finite"):
        noisy_gradient_sum(
            broken.customers(MODEL, 0),
            sample_rate=1.0,
            clip_norm=1.0,
            noise_multiplier=1.0,
            banks=3,
            stream=Stream(bytes(32)),
        )


def test_noise_that_no_second_bank_hides_is_refused():
    with pytest.raises(ParameterError, match="two banks"):
        noise_deviation(1.0, 100, 1)
