"""Networks across banks: the same network everywhere, and what the algorithms of the papers give."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from network_banks import Parts, generated, train_banks

from fedshare.contract.network import NetworkModel
from fedshare.credit.metrics import auc
from fedshare.errors import FedshareError, ParameterError
from fedshare.sealed.randomness import Stream
from fedshare.training.network.local import local_update
from fedshare.training.network.server import FedAdam

KINDS = ["logistic", "mlp", "resnet"]
WHOLE_BATCH = {"batch_size": 100_000, "momentum": 0.0, "weight_decay": 0.0, "rounds": 1}


@pytest.fixture(scope="module")
def parts() -> Parts:
    return generated()


def pooled_step(parts: Parts, model: NetworkModel, start: np.ndarray) -> np.ndarray:
    """Return where one gradient step of all customers together leads, by autograd."""
    everyone = parts.customers(model, None)
    everyone.load(start)
    everyone.network.zero_grad()
    everyone.batch_loss(everyone.training_rows).backward()
    gradient = torch.cat([each.grad.flatten() for each in everyone.network.parameters()])
    return start - model.learning_rate * gradient.cpu().numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_of_whole_batches_is_a_gradient_step_of_all_customers_together(parts, kind):
    # Dropout draws differ between banks, so there is none here.
    settings = {"dropout": 0.0} if kind == "resnet" else {}
    model = NetworkModel(kind=kind, settings=settings, learning_rate=0.5, **WHOLE_BATCH)
    customers, _, _ = train_banks(parts, model)
    start = parts.customers(model, 0).parameters()
    expected = pooled_step(parts, model, start)
    moved = np.abs(expected - start).max()
    assert np.abs(customers[0].parameters() - expected).max() < 1e-5 * max(moved, 1.0)
    assert moved > 1e-3


@pytest.mark.parametrize("algorithm", ["fedavg", "fedprox", "fedadam"])
def test_all_banks_end_with_the_same_network_to_the_bit(parts, algorithm):
    model = NetworkModel(
        kind="mlp", algorithm=algorithm, rounds=3, proximal=0.1 if algorithm == "fedprox" else 0.0
    )
    customers, _, _ = train_banks(parts, model)
    first, *others = (each.parameters() for each in customers)
    assert all(np.array_equal(first, other) for other in others)


def test_the_same_seeds_give_the_same_network_and_others_another(parts):
    model = NetworkModel(kind="mlp", rounds=2)
    networks = [train_banks(parts, model, seed=seed)[0][0].parameters() for seed in (1, 1, 2)]
    assert np.array_equal(networks[0], networks[1])
    assert not np.array_equal(networks[0], networks[2])


def test_training_across_banks_ranks_customers_as_training_on_pooled_data_does():
    parts = generated(1500)
    model = NetworkModel(kind="mlp", rounds=40, batch_size=32, patience=10)
    found = []
    for each in (parts, parts.pooled()):
        scores = np.empty(len(each.labels))
        for bank, customers in enumerate(train_banks(each, model)[0]):
            scores[each.owner == bank] = customers.own_scores()
        found.append(auc(each.labels[~each.training], scores[~each.training]))
    assert found[0] > 0.85
    assert abs(found[0] - found[1]) < 0.02


def test_fedprox_stays_closer_to_the_common_network_than_fedavg(parts):
    lengths = []
    for settings in ({}, {"algorithm": "fedprox", "proximal": 5.0}):
        model = NetworkModel(kind="mlp", local_epochs=5, momentum=0.0, **settings)
        customers = parts.customers(model, 1)
        lengths.append(
            np.linalg.norm(local_update(customers, customers.parameters(), model, Stream(bytes(32))))
        )
    assert lengths[1] < 0.8 * lengths[0]


def test_fedadam_steps_as_the_paper_says():
    updates = np.random.default_rng(2).normal(size=(5, 3))
    step, mean, square = FedAdam(0.1), [0.0] * 3, [1e-6] * 3
    for update in updates:
        found = step(update)
        for index in range(3):  # Reddi et al. 2021, algorithm 2, line by line
            mean[index] = 0.9 * mean[index] + 0.1 * update[index]
            square[index] = 0.99 * square[index] + 0.01 * update[index] ** 2
            assert found[index] == pytest.approx(0.1 * mean[index] / (square[index] ** 0.5 + 1e-3), rel=1e-12)


def test_a_banks_own_intercept_is_trained_and_is_in_no_sum(parts):
    model = NetworkModel(kind="logistic", rounds=5)
    customers, _, sums = train_banks(parts, model, own_intercept=True)
    intercepts = [float(each.intercept.detach()) for each in customers]
    assert len(set(intercepts)) == 3
    size = len(customers[0].parameters())
    assert {len(vector) for step in sums.seen for vector in step} == {size, size + 4, 4, 2}
    assert not any(
        np.any(np.isclose(vector, intercept, rtol=0, atol=1e-9))
        for step in sums.seen
        for vector in step
        for intercept in intercepts
    )


def test_training_stops_when_the_pooled_held_out_loss_rises_and_goes_back_to_its_lowest(parts):
    model = NetworkModel(kind="mlp", rounds=400, learning_rate=0.3, patience=5)
    customers, trainings, _ = train_banks(parts, model)
    history = [each.holdout_loss for each in trainings[0].history]
    assert len(history) < 400
    weights = np.array([each.weight_sums()[1] for each in customers])
    losses = np.array([each.losses()[1] for each in customers])
    assert losses.sum() / weights.sum() == pytest.approx(min(history), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_diverges_ends_the_run_and_nothing_of_it_is_summed(parts, kind):
    model = NetworkModel(kind=kind, learning_rate=10.0, momentum=0.99, weight_decay=1.0, local_epochs=100)
    with pytest.raises((FedshareError, threading.BrokenBarrierError)) as ended:
        train_banks(parts, model)
    if isinstance(ended.value, ParameterError):
        assert "network, round" in str(ended.value)


def test_a_bank_whose_gradient_is_not_finite_names_the_step_and_sends_nothing(parts):
    model = NetworkModel(kind="mlp", rounds=2)
    broken = generated()
    broken.inputs.numeric[broken.owner == 1] = np.inf
    with pytest.raises((ParameterError, threading.BrokenBarrierError)):
        train_banks(broken, model)
    alone = Parts(broken.inputs, broken.labels, np.zeros(len(broken.labels), dtype=int), broken.training)
    with pytest.raises(ParameterError, match=r"network, round 1.*not finite"):
        train_banks(alone, model)
