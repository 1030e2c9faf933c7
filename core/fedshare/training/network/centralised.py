"""The same network trained on the pooled customers of all banks, which no party has: what a run is measured against.

All customers stand at one bank, which takes the contract's rounds with the contract's optimiser: a round is ``local_epochs``
passes over everybody. Holders' columns and personal intercepts are at the exact optimum beside the network as it stands, where
a run searches the span of the directions so far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from fedshare.credit.metrics import log_loss
from fedshare.training.scorecard import centralised_scores

from .customers import NetworkCustomers
from .federation import NetworkTraining
from .local import one_thread
from .registry import build_network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedshare.contract.network import NetworkModel
    from fedshare.sealed.randomness import Stream
    from fedshare.training.penalty import ModelSettings
    from fedshare.training.scorecard import PooledCustomers

    from .federation import Noise
    from .inputs import Inputs

__all__ = ["centralised_network_scores"]


def centralised_network_scores(
    inputs: Inputs,
    pooled: PooledCustomers,
    model: NetworkModel,
    settings: ModelSettings,
    *,
    iterations: int,
    noise: Noise | None,
    stream: Stream,
) -> NDArray[np.float64]:
    """Return the log-odds of every customer, shape ``[c]``.

    Args:
        inputs: the banks' columns as the network sees them, ``c`` rows.
        pooled: the customers; the design is that of the holders' columns, of which there may be none.
        model: the contract's network.
        settings: the contract's model of the holders' columns.
        iterations: how many directions of the holders the run took.
        noise: with central privacy, that of one curator who alone adds it.
        stream: draws the first network, and what ``NetworkTraining`` draws.

    Raises:
        ConfigError: the network cannot be built.
        RunFailedError: training diverged.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(stream.read(8), "big") >> 1)
        network = build_network(model, inputs.schema)
    customers = NetworkCustomers(network, inputs, pooled.labels, pooled.weights, pooled.training)
    training = NetworkTraining(
        customers, model, lambda _step, values, _bits: values, leads=True, stream=stream, noise=noise
    )

    def rest() -> NDArray[np.float64]:
        """Return what holders' columns and intercepts add at their best beside the network, shape ``[c]``."""
        if not pooled.design.columns and pooled.banks is None:
            return np.zeros(len(pooled.labels))
        own = customers.own_scores()
        return centralised_scores(pooled, settings, own) - own

    with one_thread():
        training.start()
        while not training.is_over:
            if not pooled.design.columns:
                customers.set_offsets(rest())
            training.round()
        training.finish()
        added = rest()
        found = [customers.own_scores() + added]
        for _ in range(iterations):
            customers.set_offsets(added)
            for _ in range(model.rounds_per_iteration):
                training.round()
            added = rest()
            found.append(customers.own_scores() + added)
    return min(found, key=lambda scores: _holdout_loss(pooled, scores)) if settings.patience else found[-1]


def _holdout_loss(pooled: PooledCustomers, scores: NDArray[np.float64]) -> float:
    rows = ~pooled.training
    return log_loss(pooled.labels[rows], scores[rows], pooled.weights[rows])
