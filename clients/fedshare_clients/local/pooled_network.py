"""The network of an experiment trained on pooled data, which only the local harness can do.

``fedshare.training.network.centralised`` says what is compared. The first network is another than the run's, so differences of
chance remain. With ``privacy.network`` a curator who holds all customers adds the whole noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedshare.credit.bins import ColumnBins
from fedshare.privacy.accounting import noise_multiplier
from fedshare.sealed.randomness import Stream
from fedshare.training.network.centralised import centralised_network_scores
from fedshare.training.network.federation import Noise
from fedshare.training.network.inputs import Inputs, encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from fedshare.contract.network import NetworkModel
    from fedshare.contract.privacy import NetworkPrivacy
    from fedshare.training.scorecard import PooledCustomers
    from fedshare_clients.node.data.table import Table

    from .experiment import Experiment

__all__ = ["pooled_network_scores"]


def pooled_network_scores(
    rows: Mapping[str, Table],
    results: Mapping[str, Mapping[str, Any]],
    pooled: PooledCustomers,
    experiment: Experiment,
    model: NetworkModel,
) -> NDArray[np.float64]:
    """Return the log-odds of every customer, shape ``[c]``.

    Args:
        rows: the aligned customers of each bank, in the order of ``pooled``.
        results: what every party kept of the run.
        pooled: the customers of all banks; the design has the holders' columns.
        experiment: what was run; its seed draws the first network and what training draws.
        model: its network.
    """
    parts = [_inputs(table, results[bank], bank) for bank, table in rows.items()]
    private = experiment.privacy.network
    return centralised_network_scores(
        Inputs.joined(parts),
        pooled,
        model,
        experiment.model,
        iterations=results[next(iter(rows))]["iterations"] if pooled.design.columns else 0,
        noise=_curators_noise(private, model) if private else None,
        stream=Stream(experiment.seed.to_bytes(32, "big")),
    )


def _curators_noise(private: NetworkPrivacy, model: NetworkModel) -> Noise:
    multiplier = noise_multiplier(private.epsilon, private.delta, private.sample_rate, model.rounds)
    # The shares of all banks but one make up the noise: one share of two is all of it.
    return Noise(multiplier, private.clip_norm, private.sample_rate, private.lot_size, banks=2)


def _inputs(rows: Table, result: Mapping[str, Any], party: str) -> Inputs:
    return encode([ColumnBins.from_dict(column) for column in result["network"]["inputs"]], rows, party=party)
