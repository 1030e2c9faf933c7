"""Label privacy: everything that leaves a bank follows from noisy outcomes, and its budget bounds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from simulation import Simulation, small_economy, split_banks

from fedshare.audit.statements import PrivacySpent
from fedshare.contract.model import parse_contract
from fedshare.credit.bins import ColumnBins, Design
from fedshare.errors import ConfigError
from fedshare.privacy.budget import Spending
from fedshare.privacy.randomised_response import randomise, training_labels
from fedshare.training.scorecard import centralised_fit
from fedshare_clients.node.config import PrivacyConfig
from fedshare_clients.node.data import Table
from fedshare_clients.node.privacy import PrivacyAccount

KEY = bytes(range(32))


def private(epsilon: float = 2.0, tables: dict[str, Table] | None = None, **changes: Any) -> Simulation:
    settings = {
        "privacy": {"labels": {"epsilon": epsilon}},
        "outputs": {"coordinator_metrics": False},
        "model": {"max_iterations": 6, "tolerance": 1e-9},
    }
    return Simulation(tables or small_economy(600, 700), **(settings | changes))


def relabelled(tables: dict[str, Table], labels: np.ndarray) -> dict[str, Table]:
    bank = tables["bank"]
    return {**tables, "bank": Table(bank.source, bank.identifiers, bank.columns, labels)}


@pytest.fixture(scope="module")
def trained() -> Simulation:
    simulation = private()
    assert {reply["status"] for reply in simulation.run().values()} == {"ok"}
    return simulation


def test_the_model_is_the_optimum_of_the_debiased_noisy_outcomes(trained):
    kept = trained.platforms["bank"].customers
    identifiers = [each.encode() for each in kept["identifier"]]
    customers = trained.platforms["bank"].table.rows(identifiers)
    designs = []
    for party, platform in trained.platforms.items():
        bins = [ColumnBins.from_dict(column) for column in platform.result["bins"]["columns"]]
        designs.append(Design.assigned(bins, platform.table.rows(identifiers), party=party))
    used = training_labels(customers.label, identifiers, KEY, "1", 2.0)
    training = ~np.asarray(kept["holdout"])
    pooled = centralised_fit(used, customers.weight, Design.joined(designs), training, trained.contract.model)
    assert np.abs(pooled.scores() - np.asarray(kept["score"])).max() < 0.05


def test_what_was_spent_is_in_the_result_and_in_the_log(trained):
    bank = trained.platforms["bank"]
    assert bank.result["privacy"] == {
        "labels": {
            "epsilon": 2.0,
            "delta": 0.0,
            "spent": {"epsilon": 2.0, "delta": 0.0},
            "limit": {"epsilon": 5.0, "delta": 0.0},
        }
    }
    (said,) = [each for each in bank.said if isinstance(each, PrivacySpent)]
    assert (said.mechanism, float(said.epsilon), float(said.delta)) == ("labels", 2.0, 0.0)
    assert not any(
        isinstance(each, PrivacySpent)
        for party in ("tax", "registry")
        for each in trained.platforms[party].said
    )


def test_no_byte_that_leaves_the_bank_depends_on_more_than_the_noisy_outcomes(monkeypatch):
    tables = small_economy(300, 350)
    identifiers, labels = tables["bank"].identifiers, tables["bank"].label
    noisy = randomise(labels, identifiers, KEY, "1", 1.0)
    assert not np.array_equal(noisy, labels)
    first = private(1.0, tables)
    first.run(until="train")
    # A bank with quite other outcomes, whose flips happen to give the same noisy ones.
    second = private(1.0, relabelled(tables, 1.0 - labels))
    used = dict(zip(identifiers, training_labels(labels, identifiers, KEY, "1", 1.0), strict=True))
    monkeypatch.setattr(
        PrivacyAccount,
        "outcomes",
        lambda _account, _contract, table: np.array([used[each] for each in table.identifiers]),
    )
    second.run(until="train")
    sent = [
        sorted(
            (each.recipient, each.phase, each.step, each.sequence, each.ciphertext)
            for each in simulation.exchange.crossed
            if each.sender == "bank"
        )
        for simulation in (first, second)
    ]
    assert sent[0] == sent[1]
    assert any(step.startswith("SealedProduct/") for _, _, step, _, _ in sent[0])


def test_every_run_sees_the_same_noisy_outcomes_and_pays_for_them_once():
    simulation = private(3.0)
    simulation.run(1)
    scores = simulation.platforms["bank"].customers["score"]
    replies = simulation.run(2)
    assert {reply["status"] for reply in replies.values()} == {"ok"}
    assert np.allclose(simulation.platforms["bank"].customers["score"], scores, atol=1e-4)
    assert simulation.platforms["bank"].result["privacy"]["labels"]["spent"]["epsilon"] == 3.0


def test_a_run_beyond_the_budget_is_refused_before_anything_is_computed():
    simulation = private(2.0)
    bank = simulation.platforms["bank"]
    bank.budget.spendings.append(Spending("labels", "0", 3.5, 0.0))
    replies = simulation.run()
    assert replies["bank"]["code"] == "privacy_budget_exceeded"
    assert not simulation.exchange.crossed
    assert len(bank.budget.spendings) == 1
    # What other contracts have spent is nobody else's affair; the bank's own log has it.
    (refusal,) = [said for said in bank.said if said.kind == "refusal"]
    assert "3.5" in str(bank.failure)
    assert "3.5" not in str(replies) + str(refusal)


def test_two_runs_at_once_cannot_both_spend_what_is_left():
    simulation = private(2.0)
    bank = simulation.platforms["bank"]
    simulation.run(until="align")
    bank.budget.spendings.append(Spending("labels", "0", 4.0, 0.0))
    replies = simulation.ask("prepare")
    assert replies["bank"]["code"] == "privacy_budget_exceeded"
    assert not any(each.phase == "prepare" and each.sender == "bank" for each in simulation.exchange.crossed)


def test_outcomes_that_changed_within_their_epoch_are_refused_and_a_new_epoch_pays_again():
    tables = small_economy(400, 450)
    simulation = private(2.0, tables)
    simulation.run(1)
    bank = simulation.platforms["bank"]
    labels = bank.table.label.copy()
    labels[:3] = 1.0 - labels[:3]
    bank.table = relabelled(tables, labels)["bank"]
    assert simulation.run(2)["bank"]["code"] == "label_epoch_stale"
    bank.privacy_config = PrivacyConfig(label_epoch="2027")
    assert {reply["status"] for reply in simulation.run(3).values()} == {"ok"}
    assert bank.result["privacy"]["labels"]["spent"]["epsilon"] == 4.0


def test_a_contract_cannot_protect_outcomes_and_show_metrics_of_them():
    with pytest.raises(ConfigError, match="coordinator_metrics"):
        private(outputs={"coordinator_metrics": True})


def test_without_label_privacy_nothing_is_spent():
    simulation = private(privacy={})
    simulation.run()
    bank = simulation.platforms["bank"]
    assert bank.budget.spendings == []
    assert bank.result["privacy"] == {}


def test_outcomes_that_one_contract_protects_are_not_used_by_another_without_noise() -> None:
    simulation = private(2.0)
    assert {reply["status"] for reply in simulation.run(1).values()} == {"ok"}
    other = parse_contract(simulation.draft(nonce="22" * 32))
    simulation.contract = other
    simulation.sign(other)
    crossed = len(simulation.exchange.crossed)
    replies = simulation.run(2)
    assert replies["bank"]["code"] == "noise_missing"
    assert len(simulation.exchange.crossed) == crossed
    simulation.platforms["bank"].privacy_config = PrivacyConfig(without_noise=("labels",))
    assert {reply["status"] for reply in simulation.run(3).values()} == {"ok"}


@pytest.mark.parametrize("limit", [{"label_epsilon": 5.0}, {"network_epsilon": 1.0}, {"network_delta": 1e-6}])
def test_a_bank_that_sets_a_limit_runs_nothing_without_noise(limit: dict[str, float]) -> None:
    simulation = private(privacy={})
    simulation.platforms["bank"].privacy_config = PrivacyConfig(**limit)
    assert simulation.run()["bank"]["code"] == "noise_missing"
    assert not simulation.exchange.crossed


def test_with_several_banks_no_outcome_of_held_out_customers_is_summed():
    tables = split_banks(small_economy(900, 1000), (0.5, 0.3, 0.2))
    simulation = private(2.0, tables, receive_timeout_seconds=60.0)
    assert {reply["status"] for reply in simulation.run().values()} == {"ok"}
    assert not any(each.phase == "evaluate" and "Masked" in each.step for each in simulation.exchange.crossed)
    assert all(
        "all_banks" not in simulation.platforms[bank].result for bank in ("bank-a", "bank-b", "bank-c")
    )
