"""The network on pooled customers: the optimum that a general minimiser finds, and what a contract changes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from network_banks import generated
from scipy.optimize import minimize

from fedshare.contract.model import ScorecardModel
from fedshare.contract.network import NetworkModel
from fedshare.credit.bins import ColumnBins, Design
from fedshare.credit.metrics import log_loss
from fedshare.sealed.randomness import Stream
from fedshare.training.network.centralised import centralised_network_scores
from fedshare.training.network.federation import Noise
from fedshare.training.scorecard import PooledCustomers

LOGISTIC = NetworkModel(
    kind="logistic",
    rounds=15,
    rounds_per_iteration=5,
    local_epochs=50,
    batch_size=100_000,
    learning_rate=0.5,
    weight_decay=0.0,
)
RIDGE = 2.0


@pytest.fixture(scope="module")
def parts():
    return generated(800)


def pooled(parts, *, has_holder: bool = True, personal: bool = False) -> PooledCustomers:
    """Return the customers with a holder's column of three bins that says something of them."""
    rng = np.random.default_rng(1)
    bins = np.clip(parts.labels + rng.integers(0, 2, len(parts.labels)), 0, 2).astype(np.int32)
    column = ColumnBins("claims", "numeric", (0.5, 1.5), (), 3)
    design = (
        Design((column,), bins[:, None]) if has_holder else Design((), np.empty((len(bins), 0), np.int32))
    )
    return PooledCustomers(
        parts.labels, np.ones(len(bins)), design, parts.training, parts.owner if personal else None
    )


def scores(parts, customers: PooledCustomers, model: NetworkModel = LOGISTIC, **changes: Any) -> np.ndarray:
    settings: dict[str, Any] = {"iterations": 10, "noise": None, "stream": Stream(bytes(32))}
    return centralised_network_scores(
        parts.inputs, customers, model, ScorecardModel(ridge=RIDGE), **(settings | changes)
    )


def general_optimum(parts, customers: PooledCustomers) -> np.ndarray:
    """Return the scores at which L-BFGS ends on all coefficients at once, every one of them a column of one matrix."""
    categories = [
        np.eye(count)[codes]
        for codes, count in zip(parts.inputs.categories.T, parts.inputs.schema.categories, strict=True)
    ]
    holder = (
        np.eye(max(customers.design.width, 1))[customers.design.codes[:, 0]]
        if customers.design.columns
        else np.empty((len(parts.labels), 0))
    )
    intercepts = (
        np.ones((len(parts.labels), 1)) if customers.banks is None else np.eye(parts.banks)[customers.banks]
    )
    matrix = np.hstack([parts.inputs.numeric, *categories, intercepts, holder])
    ridge = np.zeros(matrix.shape[1])
    ridge[matrix.shape[1] - holder.shape[1] :] = RIDGE
    rows, labels = matrix[customers.training], parts.labels[customers.training]

    def loss(point):
        values = rows @ point
        gradient = rows.T @ (1 / (1 + np.exp(-values)) - labels) + ridge * point
        return np.sum(np.logaddexp(0, values) - labels * values) + 0.5 * point @ (ridge * point), gradient

    found = minimize(
        loss,
        np.zeros(matrix.shape[1]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9},
    )
    return matrix @ found.x


@pytest.mark.parametrize("has_holder", [False, True])
@pytest.mark.parametrize("personal", [False, True])
def test_the_pooled_scores_are_those_of_the_joint_optimum(parts, has_holder, personal):
    customers = pooled(parts, has_holder=has_holder, personal=personal)
    expected = general_optimum(parts, customers)
    assert np.abs(scores(parts, customers) - expected).max() < 0.02


def test_with_patience_the_scores_are_those_of_the_lowest_held_out_loss(parts):
    customers = pooled(parts)
    model = NetworkModel(kind="mlp", rounds=1, rounds_per_iteration=8, batch_size=32, learning_rate=0.1)
    held_out = [
        log_loss(parts.labels[~parts.training], found[~parts.training])
        for found in (scores(parts, customers, model, iterations=count) for count in range(6))
    ]
    assert held_out[-1] > min(held_out) + 0.01
    settings = ScorecardModel(ridge=RIDGE, patience=2)
    best = centralised_network_scores(
        parts.inputs, customers, model, settings, iterations=5, noise=None, stream=Stream(bytes(32))
    )
    assert log_loss(parts.labels[~parts.training], best[~parts.training]) == min(held_out)


def test_a_curator_adds_noise_that_the_stream_draws(parts):
    customers = pooled(parts, has_holder=False)
    model = LOGISTIC.model_copy(update={"rounds": 5})
    noise = Noise(noise_multiplier=0.5, clip_norm=1.0, sample_rate=0.5, lot_size=300, banks=2)
    found = [
        scores(parts, customers, model, noise=noise, stream=Stream(bytes([seed]) * 32)) for seed in (1, 1, 2)
    ]
    assert np.array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-3
