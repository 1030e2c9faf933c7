"""Networks across banks in whole runs: alone, beside feature holders, and with central privacy."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from simulation import Simulation, assert_ended, small_economy, split_banks

from fedshare.audit.statements import PrivacySpent
from fedshare.credit.bins import ColumnBins, Design
from fedshare.credit.metrics import auc
from fedshare.errors import ConfigError
from fedshare.training.network import federation
from fedshare.training.network.inputs import encode
from fedshare.training.network.private import noisy_gradient_sum
from fedshare_clients.node.data import Table
from fedshare_server.phases import Reply, Rounds

COLUMNS = {"trade": {"categories": ["food", "retail"]}}
NETWORK: dict[str, Any] = {"kind": "mlp", "settings": {"hidden": 16}, "rounds": 25, "batch_size": 32}
PRIVATE: dict[str, Any] = {
    "bank_model": {"kind": "mlp", "settings": {"hidden": 8}, "rounds": 4, "learning_rate": 0.2},
    "privacy": {
        "network": {
            "epsilon": 4.0,
            "delta": 1e-5,
            "sample_rate": 0.2,
            "lot_size": 100,
            "ranges": {"first": [-2.0, 2.0], "second": [-2.0, 2.0]},
        }
    },
    "outputs": {"coordinator_metrics": False},
}


def banks_only(
    customers: int = 900, shares: tuple[float, ...] = (0.5, 0.3, 0.2), seed: int = 4
) -> dict[str, Table]:
    """Return banks whose customers default by an interaction that no scorecard of single columns has."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=customers), rng.normal(size=customers)
    first[rng.random(customers) < 0.05] = np.nan
    trade = np.array(["food", "retail", "transport"], dtype=object)[rng.integers(0, 3, customers)]
    logit = 2.5 * np.nan_to_num(first) * np.where(trade == "food", 1.0, -1.0) + second - 0.7
    labels = (rng.random(customers) < 1 / (1 + np.exp(-logit))).astype(np.float64)
    names = [b"enterprise %05d" % number for number in rng.permutation(10 * customers)[:customers]]
    whole = Table("bank", names, {"first": first, "second": second, "trade": trade}, labels)
    return split_banks({"bank": whole}, shares, seed)


def horizontal(tables: dict[str, Table] | None = None, **settings: Any) -> Simulation:
    changes: dict[str, Any] = {"bank_model": NETWORK, "columns": COLUMNS}
    return Simulation(tables or banks_only(), **(changes | settings))


def result(simulation: Simulation, party: str) -> dict[str, Any]:
    found = simulation.platforms[party].result
    assert found is not None
    return found


def completed(simulation: Simulation) -> Simulation:
    replies = simulation.run()
    assert {reply["status"] for reply in replies.values()} == {"ok"}, replies
    return simulation


@pytest.fixture(scope="module")
def trained() -> Simulation:
    return completed(horizontal())


def test_all_banks_keep_the_same_network_and_nobody_else_takes_part(trained):
    kept = [result(trained, bank)["network"] for bank in ("bank-a", "bank-b", "bank-c")]
    assert kept[0]["parameters"] == kept[1]["parameters"] == kept[2]["parameters"]
    assert kept[0]["inputs"] == kept[1]["inputs"] == kept[2]["inputs"]
    assert len(base64.b64decode(kept[0]["parameters"])) % 4 == 0
    assert kept[0]["rounds"] == result(trained, "bank-a")["iterations"] == 25


def test_the_network_finds_what_no_scorecard_of_the_same_columns_has(trained):
    found = result(trained, "bank-a")["all_banks"]
    assert found["federated"]["auc"]["value"] > found["bank_only"]["auc"]["value"] + 0.05


def test_the_loss_that_every_bank_sees_is_that_of_all_and_falls(trained):
    histories = [result(trained, bank)["history"] for bank in ("bank-a", "bank-b", "bank-c")]
    assert histories[0] == histories[1] == histories[2]
    assert histories[0][-1]["loss"] < histories[0][0]["loss"] - 0.05


def test_a_bank_may_have_an_intercept_of_its_own_that_no_other_bank_sees():
    settings = {**NETWORK, "kind": "logistic", "settings": {}, "rounds": 3}
    simulation = completed(horizontal(bank_model=settings, between_banks={"personal_intercepts": True}))
    kept = [result(simulation, bank)["network"] for bank in ("bank-a", "bank-b", "bank-c")]
    assert len({each["intercept"] for each in kept}) == 3
    assert len({each["parameters"] for each in kept}) == 1


@pytest.mark.parametrize(("banks", "patience"), [(1, 0), (3, 0), (3, 1)])
def test_beside_holders_a_score_is_the_network_plus_the_holders_points_plus_the_intercept(banks, patience):
    tables = small_economy(700, 900)
    if banks > 1:
        tables = split_banks(tables, (0.4, 0.4, 0.2))
    simulation = completed(
        Simulation(
            tables,
            bank_model=NETWORK,
            model={"max_iterations": 6, "patience": patience, "tolerance": 1e-9},
            receive_timeout_seconds=60.0,
        )
    )
    history = [
        each["holdout_loss"] for each in result(simulation, simulation.contract.banks()[0].id)["history"]
    ]
    if patience:
        assert len(history) < 7
        assert history[-1] == min(history)
    for bank in (each.id for each in simulation.contract.banks()):
        kept = simulation.platforms[bank].customers
        identifiers = [each.encode() for each in kept["identifier"]]
        scores = np.asarray(kept["own_part"]) + result(simulation, bank)["intercept"]
        for holder in ("tax", "registry"):
            part = result(simulation, holder)
            bins = [ColumnBins.from_dict(column) for column in part["bins"]["columns"]]
            rows = simulation.platforms[holder].table.rows(identifiers)
            scores = scores + np.array(part["weights"])[Design.assigned(bins, rows, party=holder).codes].sum(
                axis=1
            )
        assert np.abs(scores - np.asarray(kept["score"])).max() < 1e-4
        holdout = np.asarray(kept["holdout"])
        labels = np.asarray(kept["label"])[holdout]
        network = auc(labels, np.asarray(kept["own_part"])[holdout])
        assert auc(labels, np.asarray(kept["score"])[holdout]) > network


def test_a_network_whose_training_diverges_ends_the_run_with_bank_and_step_and_keeps_nothing():
    wild = {**NETWORK, "learning_rate": 10.0, "momentum": 0.99, "weight_decay": 1.0, "local_epochs": 50}
    simulation = horizontal(bank_model=wild)
    reasons = assert_ended(simulation, simulation.run())
    assert any(
        bank in reason and "network, round" in reason and "lower the learning rate" in reason
        for bank, reason in reasons.items()
    )


def test_a_bank_that_sends_a_vector_of_another_length_ends_the_run(monkeypatch):
    from fedshare_clients.node import bank_network  # noqa: PLC0415

    def longer(bins, table, *, party):
        return encode(bins if party != "bank-b" else bins[:-1], table, party=party)

    monkeypatch.setattr(bank_network, "encode", longer)
    simulation = horizontal()
    reasons = assert_ended(simulation, simulation.run())
    assert any("bank-b" in reason and "first network" in reason for reason in reasons.values())


def test_an_unknown_network_is_refused_before_anything_is_said():
    simulation = horizontal(bank_model={"kind": "transformer"})
    replies = simulation.run()
    assert all(reply["status"] != "ok" for reply in replies.values())
    assert not simulation.exchange.crossed


def test_a_private_network_spends_its_budget_once_per_run_and_nothing_but_noisy_gradients_is_summed():
    simulation = completed(horizontal(**PRIVATE))
    for bank in ("bank-a", "bank-b", "bank-c"):
        platform = simulation.platforms[bank]
        assert result(simulation, bank)["privacy"]["network"] == {
            "epsilon": 4.0,
            "delta": 1e-5,
            "spent": {"epsilon": 4.0, "delta": 1e-5},
            "limit": {"epsilon": 10.0, "delta": 1e-4},
        }
        assert "all_banks" not in result(simulation, bank)
        (said,) = [each for each in platform.said if isinstance(each, PrivacySpent)]
        assert said.mechanism == "network"
    sums = {each.step for each in simulation.exchange.crossed if each.step.startswith("MaskedVector/")}
    assert sums == {f"MaskedVector/{number}" for number in range(5)}  # the first network and four rounds
    completed_again = simulation.run(2)
    assert {reply["status"] for reply in completed_again.values()} == {"ok"}
    assert result(simulation, "bank-a")["privacy"]["network"]["spent"]["epsilon"] == 8.0
    third = simulation.run(3)
    assert third["bank-a"]["code"] == "privacy_budget_exceeded"


def private(**changes: Any) -> dict[str, Any]:
    return {**PRIVATE, **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bank_model": {**PRIVATE["bank_model"], "patience": 3}}, "patience"),
        ({"bank_model": {**PRIVATE["bank_model"], "algorithm": "fedprox", "proximal": 1.0}}, "fedprox"),
        ({"between_banks": {"personal_intercepts": True}}, "personal_intercepts"),
        ({"between_banks": {"count_shared_customers": True}}, "count_shared_customers"),
        ({"outputs": {"coordinator_metrics": True}}, "coordinator_metrics"),
        ({"bank_model": None}, "bank_model"),
        (
            {"privacy": {"network": {**PRIVATE["privacy"]["network"], "ranges": {"first": [0, 1]}}}},
            "every numeric column.*second",
        ),
        (
            {
                "privacy": {
                    "network": {
                        **PRIVATE["privacy"]["network"],
                        "ranges": {"first": [1, 0], "second": [0, 1]},
                    }
                }
            },
            "ascend",
        ),
    ],
)
def test_a_contract_whose_network_would_not_be_private_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        horizontal(**private(**changes))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bank_model": None}, "needs a bank_model"),
        ({"bank_model": {**NETWORK, "proximal": 1.0}}, "fedprox"),
        ({"columns": {**COLUMNS, "first": {"monotone": "increasing"}}}, "monotone"),
    ],
)
def test_a_contract_that_asks_for_what_no_network_does_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        horizontal(**settings)


def test_one_bank_alone_needs_no_federation():
    with pytest.raises(ConfigError, match="at least"):
        horizontal({"bank-a": banks_only()["bank-a"]})


FOUR = (0.4, 0.2, 0.2, 0.2)


def losing(bank: str, at: str, **settings: Any) -> tuple[Simulation, Rounds]:
    """Drive a run in which ``bank`` is lost when it would send its envelope of step ``at``."""

    def tamper(envelope: Any) -> list[Any]:
        if envelope.sender == bank and envelope.step == at:
            simulation.exchange.lose(bank)
            return []
        return [envelope]

    simulation = horizontal(banks_only(shares=FOUR), tamper=tamper, receive_timeout_seconds=60.0, **settings)
    contract = simulation.contract
    rounds = Rounds(contract.digest(), simulation.services, expendable=contract.expendable())
    while not rounds.is_over:
        requests = rounds.begin()
        asked = {party: {"hellos": list(request.hellos)} for party, request in requests.items()}
        for party, reply in simulation.ask_each(rounds.phase, 1, asked).items():
            rounds.accept(party, Reply.from_record(reply))
    return simulation, rounds


REPEAT = {"between_banks": {"lost_bank": "repeat"}}
RECOVER = {"between_banks": {"lost_bank": "recover"}}


@pytest.mark.parametrize(
    ("settings", "at"),
    [
        (REPEAT, "MaskedVector/9"),
        (RECOVER, "SumKeys/9"),
        (RECOVER, "MaskedVector/9"),
        (RECOVER, "SumShares/9"),
    ],
)
def test_training_goes_on_without_a_lost_bank_and_ends_with_one_network(settings, at):
    simulation, rounds = losing("bank-d", at, **settings)
    assert rounds.cause is None
    assert simulation.results() == ["bank-a", "bank-b", "bank-c"]
    networks = [result(simulation, bank)["network"]["parameters"] for bank in simulation.results()]
    assert networks[1:] == networks[:-1]
    history = result(simulation, "bank-a")["history"]
    assert len(history) == NETWORK["rounds"] + 1
    assert history[-1]["loss"] < history[0]["loss"] - 0.02
    over_all = result(simulation, "bank-a")["all_banks"]
    assert over_all["banks"] == 3
    assert "bank_only" not in over_all  # beside another run it would show what the lost bank had


@pytest.mark.parametrize(
    ("bank", "step", "settings"),
    [
        ("bank-a", "BankTotal/9", REPEAT),
        ("bank-a", "SumOutcome/9", RECOVER),
        ("bank-d", "MaskedVector/9", {}),
    ],
)
def test_a_bank_that_cannot_be_spared_ends_the_run(bank, step, settings):
    simulation, rounds = losing(bank, step, **settings)
    assert rounds.cause is not None
    assert simulation.results() == []


@pytest.fixture(scope="module")
def vectors_of_evaluation() -> list[str]:
    """Return the steps in which a bank sends its vectors in `evaluate`: two for each of two models."""
    simulation = completed(horizontal(banks_only(shares=FOUR), **RECOVER))
    return [
        envelope.step
        for envelope in simulation.exchange.crossed
        if (envelope.sender, envelope.phase) == ("bank-d", "evaluate")
        and envelope.step.startswith("MaskedVector")
    ]


@pytest.mark.parametrize("settings", [REPEAT, RECOVER])
@pytest.mark.parametrize(
    ("at", "measured"), [(0, {"federated"}), (1, set()), (2, {"federated"}), (3, {"federated"})]
)
def test_outcomes_by_score_are_those_of_the_banks_that_formed_the_groups(
    vectors_of_evaluation, settings, at, measured
):
    assert len(vectors_of_evaluation) == 4
    simulation, rounds = losing("bank-d", vectors_of_evaluation[at], **settings)
    assert rounds.cause is None
    for bank in ("bank-a", "bank-b", "bank-c"):
        assert result(simulation, bank).get("all_banks", {}).keys() & {"federated", "bank_only"} == measured


@pytest.mark.parametrize("settings", [REPEAT, RECOVER])
def test_a_bank_that_is_lost_before_training_ends_the_run_and_no_counts_of_the_rest_are_opened(settings):
    simulation, rounds = losing("bank-d", "MaskedVector/0", **settings)
    assert rounds.cause is not None
    assert rounds.phase == "close"
    assert simulation.results() == []
    opened = {envelope.step for envelope in simulation.exchange.crossed}
    assert "SumShares/0" not in opened
    assert "MaskedVector/1" not in opened


def test_a_private_network_goes_on_without_one_bank_and_its_noise_is_made_for_that(monkeypatch):
    made_for = []

    def recorded(*arguments: Any, **settings: Any) -> Any:
        made_for.append(settings["banks"])
        return noisy_gradient_sum(*arguments, **settings)

    monkeypatch.setattr(federation, "noisy_gradient_sum", recorded)
    simulation, rounds = losing("bank-d", "MaskedVector/2", **RECOVER, **private())
    assert rounds.cause is None
    assert simulation.results() == ["bank-a", "bank-b", "bank-c"]
    assert len({result(simulation, bank)["network"]["parameters"] for bank in simulation.results()}) == 1
    assert set(made_for) == {3}


def test_too_few_banks_left_end_the_run():
    simulation = horizontal(
        tamper=lambda envelope: (
            simulation.exchange.lose("bank-c") or []  # type: ignore[func-returns-value]
            if (envelope.sender, envelope.step) == ("bank-c", "MaskedVector/9")
            else [envelope]
        ),
        **REPEAT,
    )
    reasons = assert_ended(simulation, simulation.run())
    assert "at least 3 banks must be left" in str(reasons)
