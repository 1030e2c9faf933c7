"""What an honest run ends with: the optimum of the pooled data, and only for customers that everybody knows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from simulation import Simulation, small_economy, split_holders

from fedshare.credit.bins import ColumnBins, Design
from fedshare.credit.metrics import auc
from fedshare.training.scorecard import centralised_fit
from fedshare_clients.node.data import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL = {"max_iterations": 8, "tolerance": 1e-9}


def pooled(
    simulation: Simulation,
) -> tuple[NDArray[np.float64], NDArray[np.float64], Table, NDArray[np.bool_]]:
    """Return the federation's scores, the pooled optimum's, the bank's aligned customers and who is held out."""
    platforms = simulation.platforms
    kept = platforms["bank"].customers
    assert kept is not None
    identifiers = [each.encode() for each in kept["identifier"]]
    customers = platforms["bank"].table.rows(identifiers)
    designs = []
    for party, platform in platforms.items():
        assert platform.result is not None
        bins = [ColumnBins.from_dict(column) for column in platform.result["bins"]["columns"]]
        designs.append(Design.assigned(bins, platform.table.rows(identifiers), party=party))
    holdout = np.asarray(kept["holdout"])
    model = centralised_fit(
        customers.label, customers.weight, Design.joined(designs), ~holdout, simulation.contract.model
    )
    return np.asarray(kept["score"]), model.scores(), customers, holdout


def assert_is_pooled_optimum(simulation: Simulation) -> None:
    federated, central, customers, holdout = pooled(simulation)
    assert np.abs(federated - central).max() < 0.02
    own, best = (
        auc(customers.label[holdout], scores[holdout], customers.weight[holdout])
        for scores in (federated, central)
    )
    assert abs(own - best) < 0.001


@pytest.fixture(scope="module")
def two_holders() -> Simulation:
    simulation = Simulation(small_economy(), model=MODEL)
    replies = simulation.run()
    assert {reply["status"] for reply in replies.values()} == {"ok"}
    return simulation


def result(simulation: Simulation, party: str) -> dict[str, Any]:
    saved = simulation.platforms[party].result
    assert saved is not None
    return saved


def test_two_holders_reach_the_pooled_optimum(two_holders: Simulation) -> None:
    assert_is_pooled_optimum(two_holders)


def test_the_loss_never_rises(two_holders: Simulation) -> None:
    losses = [step["loss"] for step in result(two_holders, "bank")["history"]]
    assert len(losses) > 3
    assert losses[-1] < losses[0]


def test_the_shared_model_beats_the_bank_alone(two_holders: Simulation) -> None:
    saved = result(two_holders, "bank")
    assert saved["federated"]["auc"] > saved["bank_only"]["auc"] + 0.05


def test_one_holder_reaches_the_pooled_optimum() -> None:
    tables = small_economy(600, 900)
    simulation = Simulation({"bank": tables["bank"], "tax": tables["tax"]}, model=MODEL)
    simulation.run()
    assert_is_pooled_optimum(simulation)


def test_three_holders_reach_the_pooled_optimum() -> None:
    simulation = Simulation(split_holders(small_economy(600, 900)), model=MODEL)
    simulation.run()
    assert_is_pooled_optimum(simulation)


def test_a_bank_without_columns_of_its_own_can_train() -> None:
    tables = small_economy(400, 600)
    bank = tables["bank"]
    tables["bank"] = Table("bank", bank.identifiers, {}, bank.label)
    simulation = Simulation(tables, model=MODEL)
    simulation.run()
    assert_is_pooled_optimum(simulation)


def test_customers_unknown_to_a_holder_are_left_out_and_counted(two_holders: Simulation) -> None:
    saved = result(two_holders, "bank")
    platforms = two_holders.platforms
    customers = set(platforms["bank"].table.identifiers)
    known = {name: set(platforms[name].table.identifiers) for name in ("registry", "tax")}
    assert saved["coverage"] == {name: len(customers & rows) for name, rows in known.items()}
    assert saved["coverage"] == {"registry": 1190, "tax": 1200}
    assert saved["aligned"] == 1190 == saved["training"] + saved["holdout"]
    kept = platforms["bank"].customers
    assert kept is not None
    assert {each.encode() for each in kept["identifier"]} == customers & known["registry"] & known["tax"]


def test_every_party_keeps_how_many_of_all_its_rows_are_in_each_bin(two_holders: Simulation) -> None:
    for party, platform in two_holders.platforms.items():
        reference = result(two_holders, party)["reference"]
        counts = iter(reference["counts"])
        for column in reference["bins"]["columns"]:
            bins = ColumnBins.from_dict(column)
            codes = bins.assign(platform.table.column(bins.name))
            assert [next(counts) for _ in range(bins.size)] == np.bincount(
                codes, minlength=bins.size
            ).tolist()
        assert next(counts, None) is None


def test_with_a_roster_every_customer_counts_though_a_holder_does_not_know_it() -> None:
    tables = small_economy(600, 900)
    tables["registry"] = tables["registry"].extended(tables["tax"].identifiers)
    roster = {
        "identifier": "opaque",
        "quota": 600,
        "missing_enterprises": "impute",
        "roster_digest": "ab" * 32,
    }
    simulation = Simulation(tables, alignment=roster, model=MODEL)
    simulation.run()
    saved = result(simulation, "bank")
    assert saved["aligned"] == 600
    assert saved["coverage"] == {"registry": 600, "tax": 600}
    assert_is_pooled_optimum(simulation)


def test_the_coordinator_is_told_metrics_only_where_the_contract_says_so(two_holders: Simulation) -> None:
    evaluated = two_holders.replies[-2]
    assert set(json.loads(evaluated["bank"]["metrics"])) == {"iterations", "federated", "bank_only"}
    assert all("metrics" not in evaluated[holder] for holder in ("registry", "tax"))

    silent = Simulation(
        small_economy(300, 500), model={"max_iterations": 1}, outputs={"coordinator_metrics": False}
    )
    silent.run()
    assert silent.replies[-2] == {party: {"status": "ok", "party": party} for party in silent.services}
    assert silent.results() == ["bank", "registry", "tax"]


def test_monotone_columns_have_monotone_weights_at_every_party() -> None:
    columns = {
        "margin": {"monotone": "increasing"},  # against the data, so that the constraint binds
        "turnover": {"monotone": "increasing"},
        "utilisation": {"monotone": "decreasing"},  # against the data
    }
    simulation = Simulation(small_economy(600, 900), columns=columns, model=MODEL)
    simulation.run()
    seen = {}
    for party in simulation.services:
        saved = result(simulation, party)
        weights, start = np.array(saved["weights"]), 0
        for document in saved["bins"]["columns"]:
            column = ColumnBins.from_dict(document)
            seen[column.name] = np.diff(weights[start : start + column.ordered])
            start += column.size
    assert (seen["margin"] >= -1e-12).all()
    assert (seen["turnover"] >= -1e-12).all()
    assert (seen["utilisation"] <= 1e-12).all()
    assert seen["turnover"].max() > 0.1
    assert_is_pooled_optimum(simulation)


def test_weights_of_customers_count() -> None:
    tables = small_economy(600, 900)
    bank = tables["bank"]
    weight = np.where(bank.columns["utilisation"] > 0, 1.0, 0.05)
    weighted = {**tables, "bank": Table("bank", bank.identifiers, bank.columns, bank.label, weight)}
    simulation, plain = Simulation(weighted, model=MODEL), Simulation(tables, model=MODEL)
    simulation.run()
    plain.run()
    assert_is_pooled_optimum(simulation)
    kept = [each.platforms["bank"].customers for each in (simulation, plain)]
    assert kept[0] is not None
    assert kept[1] is not None
    assert kept[0]["identifier"] == kept[1]["identifier"]
    assert np.abs(kept[0]["score"] - kept[1]["score"]).max() > 0.1


def test_two_runs_of_one_federation_reach_the_same_model(two_holders: Simulation) -> None:
    before = np.array(result(two_holders, "tax")["weights"])
    replies = two_holders.run(run_id=2)
    assert {reply["status"] for reply in replies.values()} == {"ok"}
    after = np.array(result(two_holders, "tax")["weights"])
    assert np.abs(before - after).max() < 1e-3
