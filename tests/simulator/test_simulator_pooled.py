"""What the local harness compares a run with: the same model on pooled data, here of whole runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from simulation import Simulation, overlapping_banks, small_economy, split_banks

from fedshare_clients.local.check import Customers, pooled_metrics
from fedshare_clients.local.experiment import Experiment

# One convex optimum, which averaged whole-batch steps reach as steps of all customers together do.
LOGISTIC: dict[str, Any] = {
    "kind": "logistic",
    "rounds": 150,
    "rounds_per_iteration": 20,
    "batch_size": 100_000,
    "learning_rate": 0.3,
}


def measured(simulation: Simulation, model: dict[str, Any] | None = None) -> tuple[dict[str, float], Any]:
    """Return the federated and the pooled metrics of a completed run."""
    replies = simulation.run()
    assert {reply["status"] for reply in replies.values()} == {"ok"}, replies
    banks = [bank.id for bank in simulation.contract.banks()]
    kept = [pa.table(simulation.platforms[bank].customers) for bank in banks]
    place = np.repeat(np.arange(len(banks)), [table.num_rows for table in kept])
    customers = Customers(pa.concat_tables(kept), place, tuple(banks))
    parties = {
        party.id: {"role": party.role, "source": {"label": "bad"}, "columns": ["any"]}
        for party in simulation.contract.parties
    }
    experiment = Experiment.model_validate(
        {
            "name": "simulated",
            "parties": parties,
            "alignment": {"identifier": "opaque", "quota": 1},
            "model": simulation.contract.model.model_dump(),
            "bank_model": model,
            "between_banks": simulation.contract.between_banks.model_dump(),
            "minimum_cohort": simulation.contract.minimum_cohort,
            "privacy": simulation.contract.privacy.model_dump(),
        }
    )
    tables = {party: platform.table for party, platform in simulation.platforms.items()}
    results = {
        party: {"role": simulation.contract.party(party).role, **(platform.result or {})}
        for party, platform in simulation.platforms.items()
    }
    pooled = pooled_metrics(tables, results, customers, experiment)
    return customers.metrics(customers.column("score")), pooled


@pytest.mark.parametrize("personal", [False, True], ids=["shared", "personal"])
@pytest.mark.parametrize("has_holders", [False, True], ids=["alone", "hybrid"])
def test_where_the_optimum_is_one_a_network_of_banks_reaches_that_of_pooled_data(has_holders, personal):
    tables = split_banks(small_economy(900, 1200), (0.5, 0.3, 0.2))
    if not has_holders:
        tables = {party: table for party, table in tables.items() if party.startswith("bank")}
    simulation = Simulation(
        tables,
        bank_model=LOGISTIC,
        between_banks={"personal_intercepts": personal},
        model={"max_iterations": 8, "tolerance": 1e-7},
        receive_timeout_seconds=60.0,
    )
    federated, pooled = measured(simulation, LOGISTIC)
    assert pooled["largest_score_difference"] < 0.05
    assert abs(federated["auc"] - pooled["auc"]) <= 0.001
    assert pooled["auc"] > (0.7 if has_holders else 0.6)


@pytest.mark.parametrize("shared", [200, 5], ids=["dropped", "too few"])
def test_where_shared_customers_are_dropped_the_pooled_data_are_without_them_too(shared: int) -> None:
    simulation = Simulation(
        overlapping_banks(shared),
        between_banks={"accept_two": True, "drop_shared_customers": True},
        model={"max_iterations": 8, "tolerance": 1e-7},
        receive_timeout_seconds=60.0,
    )
    federated, pooled = measured(simulation)
    assert pooled["largest_score_difference"] < 0.05
    assert abs(federated["auc"] - pooled["auc"]) <= 0.001
