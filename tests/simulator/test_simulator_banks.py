"""Several banks: the model of one bank with all customers, and no bank sees another's part of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from simulation import Simulation, assert_ended, small_economy, split_banks

from fedshare.credit.bins import ColumnBins, Design
from fedshare.credit.metrics import auc
from fedshare.errors import ConfigError
from fedshare.identity.envelope import Envelope
from fedshare.privacy.bands import Band
from fedshare.training.customers import Customers, Evaluation
from fedshare.training.scorecard import centralised_fit
from fedshare_clients.node.bank_sums import BankSums
from fedshare_clients.node.bank_training import OtherBanks
from fedshare_clients.node.data import Table
from fedshare_clients.node.label_holder import LabelHolder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

MODEL = {"max_iterations": 8, "tolerance": 1e-7}
TWO = {"accept_two": True}
TINY: dict[str, Any] = {"minimum_cohort": 5, "model": {"max_iterations": 2, "tolerance": 1e-9}}


def banks_of(simulation: Simulation) -> list[str]:
    return [bank.id for bank in simulation.contract.banks()]


def saved(simulation: Simulation, party: str) -> dict[str, Any]:
    result = simulation.platforms[party].result
    assert result is not None
    return result


def run(tables: Mapping[str, Table], **settings: Any) -> Simulation:
    simulation = Simulation(tables, **{"model": MODEL, "receive_timeout_seconds": 60.0, **settings})
    replies = simulation.run()
    assert {reply["status"] for reply in replies.values()} == {"ok"}, replies
    return simulation


class Pooled:
    """All banks' aligned customers together: labels, weights, held-out flags, federated and pooled scores."""

    def __init__(self, simulation: Simulation) -> None:
        self.labels, self.weights, self.scores = np.empty(0), np.empty(0), np.empty(0)
        self.holdout = np.empty(0, dtype=np.bool_)
        designs = []
        for bank in banks_of(simulation):
            kept = simulation.platforms[bank].customers
            assert kept is not None
            identifiers = [each.encode() for each in kept["identifier"]]
            own = simulation.platforms[bank].table.rows(identifiers)
            holders = [holder.id for holder in simulation.contract.holders()]
            parts = [self._design(simulation, bank, own)]
            parts += [
                self._design(simulation, holder, simulation.platforms[holder].table.rows(identifiers))
                for holder in holders
            ]
            designs.append(Design.joined(parts))
            self.labels = np.append(self.labels, own.label)
            self.weights = np.append(self.weights, own.weight)
            self.holdout = np.append(self.holdout, kept["holdout"])
            self.scores = np.append(self.scores, kept["score"])
        design = Design(designs[0].columns, np.concatenate([each.codes for each in designs]))
        model = centralised_fit(self.labels, self.weights, design, ~self.holdout, simulation.contract.model)
        self.central: NDArray[np.float64] = model.scores()

    @staticmethod
    def _design(simulation: Simulation, party: str, rows: Table) -> Design:
        bins = [ColumnBins.from_dict(column) for column in saved(simulation, party)["bins"]["columns"]]
        return Design.assigned(bins, rows, party=party)

    def auc(self, scores: NDArray[np.float64]) -> float:
        return auc(self.labels[self.holdout], scores[self.holdout], self.weights[self.holdout])


@pytest.fixture(scope="module")
def three() -> Simulation:
    return run(split_banks(small_economy(), (0.5, 0.3, 0.2)))


@pytest.mark.parametrize(
    ("shares", "settings"),
    [((0.7, 0.3), {"between_banks": TWO}), ((0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1), {})],
)
def test_banks_reach_the_optimum_of_the_pooled_customers(
    shares: tuple[float, ...], settings: dict[str, Any]
) -> None:
    pooled = Pooled(run(split_banks(small_economy(), shares), **settings))
    assert np.abs(pooled.scores - pooled.central).max() < 0.05
    assert abs(pooled.auc(pooled.scores) - pooled.auc(pooled.central)) < 0.001


def test_three_banks_reach_it_too_and_share_bins_and_weights(three: Simulation) -> None:
    pooled = Pooled(three)
    assert np.abs(pooled.scores - pooled.central).max() < 0.05
    results = [saved(three, bank) for bank in banks_of(three)]
    for name in ("bins", "weights", "intercept", "iterations", "history", "all_banks"):
        assert all(result[name] == results[0][name] for result in results)
    assert sum(result["aligned"] for result in results) == len(pooled.labels)


def test_the_measure_over_all_banks_bounds_that_of_the_pooled_customers(three: Simulation) -> None:
    pooled, measured = Pooled(three), saved(three, "bank-b")["all_banks"]
    exact = pooled.auc(pooled.scores)
    found = measured["federated"]["auc"]
    assert found["low"] <= exact <= found["high"]
    # Some 350 customers are in few groups of two banks' minimum cohort each.
    assert found["value"] == pytest.approx(exact, abs=0.02)
    assert measured["holdout"] == pooled.holdout.sum()
    assert measured["federated"]["auc"]["value"] > measured["bank_only"]["auc"]["value"] + 0.03


def test_a_banks_own_model_is_the_one_that_it_would_train_alone(three: Simulation) -> None:
    tables = split_banks(small_economy(), (0.5, 0.3, 0.2))
    single = run({name: tables[name] for name in ("bank-c", "registry", "tax")})
    alone, among = (each.platforms["bank-c"].customers for each in (single, three))
    assert alone is not None
    assert among is not None
    np.testing.assert_array_equal(among["identifier"], alone["identifier"])
    np.testing.assert_allclose(among["bank_only"], alone["bank_only"], atol=1e-12)
    assert saved(three, "bank-c")["own_model"] == saved(single, "bank-c")["own_model"]
    assert saved(three, "bank-c")["own_model"]["bins"] != saved(three, "bank-c")["bins"]


def test_the_holders_part_of_the_model_is_the_same_for_every_bank(three: Simulation) -> None:
    assert len(saved(three, "tax")["weights"]) > 10
    assert three.platforms["tax"].seen[-1].message == "complete"


def test_personal_intercepts_differ_between_banks_and_stay_there() -> None:
    simulation = run(
        split_banks(small_economy(), (0.4, 0.4, 0.2)), between_banks={"personal_intercepts": True}
    )
    results = [saved(simulation, bank) for bank in banks_of(simulation)]
    assert len({result["intercept"] for result in results}) == 3
    assert all(result["weights"] == results[0]["weights"] for result in results)
    # Its own intercept makes the mean prediction of every bank that of its training customers.
    for bank in banks_of(simulation):
        kept = simulation.platforms[bank].customers
        assert kept is not None
        train = ~np.asarray(kept["holdout"])
        chance = 1 / (1 + np.exp(-np.asarray(kept["score"])[train]))
        assert chance.mean() == pytest.approx(np.asarray(kept["label"])[train].mean(), abs=1e-6)


def test_banks_without_columns_of_their_own_can_train() -> None:
    tables = {
        name: Table(name, table.identifiers, {}, table.label) if name.startswith("bank") else table
        for name, table in split_banks(small_economy(600, 900), (0.5, 0.3, 0.2)).items()
    }
    pooled = Pooled(run(tables))
    assert np.abs(pooled.scores - pooled.central).max() < 0.05


def test_categories_of_the_contract_share_their_bins_between_banks() -> None:
    tables = split_banks(small_economy(), (0.5, 0.3, 0.2))
    rng = np.random.default_rng(0)
    for name in ("bank-a", "bank-b", "bank-c"):
        table = tables[name]
        words = ["line", "term"] if name == "bank-a" else ["term", "card", "line", "rare"]
        loan = np.array(words, dtype=object)[rng.integers(0, len(words), len(table))]
        tables[name] = Table(name, table.identifiers, {**table.columns, "loan": loan}, table.label)
    simulation = run(tables, columns={"loan": {"categories": ["line", "term", "card"]}})
    bins = {column["name"]: column for column in saved(simulation, "bank-c")["bins"]["columns"]}
    assert set(bins["loan"]["categories"]) == {"line", "term", "card"}
    assert "rare" not in str(saved(simulation, "bank-a")["bins"])


def test_training_stops_on_the_held_out_loss_of_all_banks() -> None:
    simulation = run(
        split_banks(small_economy(400, 600), (0.5, 0.3, 0.2)),
        model={"max_iterations": 12, "tolerance": 1e-9, "patience": 2, "ridge": 1e-3},
    )
    losses = [step["holdout_loss"] for step in saved(simulation, "bank-b")["history"]]
    assert losses[-1] == pytest.approx(min(losses[:-1]), abs=1e-6)


def test_monotone_columns_stay_in_order_with_several_banks() -> None:
    simulation = run(
        split_banks(small_economy(), (0.5, 0.3, 0.2)),
        columns={"margin": {"monotone": "decreasing"}, "utilisation": {"monotone": "increasing"}},
    )
    tax, bank = saved(simulation, "tax"), saved(simulation, "bank-b")
    width = len(tax["bins"]["columns"][0]["labels"])
    margin = np.array(tax["weights"][width : width + len(tax["bins"]["columns"][1]["edges"]) + 1])
    assert np.diff(margin).max() <= 1e-9
    utilisation = np.array(bank["weights"][: len(bank["bins"]["columns"][0]["edges"]) + 1])
    assert np.diff(utilisation).min() >= -1e-9


def small(**settings: Any) -> Simulation:
    return Simulation(
        split_banks(small_economy(400, 500), (0.4, 0.3, 0.3)),
        **{**TINY, "receive_timeout_seconds": 2.0, **settings},
    )


def test_a_contract_with_two_banks_is_refused_unless_the_leak_is_accepted() -> None:
    tables = split_banks(small_economy(300, 400), (0.5, 0.5))
    with pytest.raises(ConfigError, match="accept_two"):
        Simulation(tables, **TINY)


def test_the_columns_of_banks_that_differ_are_named() -> None:
    tables = split_banks(small_economy(300, 400), (0.4, 0.3, 0.3))
    table = tables["bank-b"]
    words = np.full(len(table), "a", dtype=object)
    tables["bank-b"] = Table("bank-b", table.identifiers, {"utilisation": words, "limit": words}, table.label)
    with pytest.raises(ConfigError, match="bank-b has limit, bank-a has not") as refused:
        Simulation(tables, **TINY)
    assert "utilisation has kind numeric at bank-a and categorical at bank-b" in str(refused.value)


def test_a_bank_with_a_single_outcome_ends_the_run_with_its_name() -> None:
    simulation = small()
    table = simulation.platforms["bank-b"].table
    simulation.platforms["bank-b"].table = Table(
        "bank-b", table.identifiers, table.columns, np.zeros(len(table))
    )
    reasons = assert_ended(simulation, simulation.run())
    assert reasons["bank-b"].startswith("its data does not pass")
    assert "both outcomes" in str(simulation.platforms["bank-b"].failure)


@pytest.mark.parametrize("step", ["MaskedVector", "SharedPoint", "BankTotal"])
@pytest.mark.parametrize("kind", ["replayed", "dropped", "altered"])
def test_what_crosses_between_banks_cannot_be_replayed_dropped_or_altered(step: str, kind: str) -> None:
    sender = "bank-b" if step == "MaskedVector" else "bank-a"

    def tamper(envelope: Envelope) -> list[Envelope]:
        if not envelope.step.startswith(step) or envelope.sender != sender:
            return [envelope]
        if kind == "replayed":
            return [envelope, envelope]
        if kind == "dropped":
            return []
        flipped = bytes([envelope.ciphertext[0] ^ 1]) + envelope.ciphertext[1:]
        return [
            Envelope(
                envelope.run_id,
                envelope.phase,
                envelope.step,
                envelope.sender,
                envelope.recipient,
                envelope.sequence,
                envelope.last,
                flipped,
            )
        ]

    simulation = small(tamper=tamper)
    assert_ended(simulation, simulation.run())


@pytest.mark.parametrize("value", [np.nan, 1e30])
def test_poison_from_training_ends_the_run_with_bank_and_step_named(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = small()
    honest = Customers.evaluate

    def poisoned(self: Customers, point: Any) -> Evaluation:
        found = honest(self, point)
        begun = simulation.services["bank-c"]._runs.get(1)  # gone once the run has ended there
        if begun is not None and self is getattr(begun.role, "_model", None):
            found.gradient[0] = value
        return found

    monkeypatch.setattr(Customers, "evaluate", poisoned)
    reasons = assert_ended(simulation, simulation.run())
    assert "bank-c, the loss at point" in reasons["bank-c"]
    assert all("bank-c" in reason for reason in reasons.values())


def lying_leader(simulation: Simulation, monkeypatch: pytest.MonkeyPatch, change: Any) -> dict[str, str]:
    honest = OtherBanks._tell

    def tell(self: Any, message: Any) -> None:
        change(message)
        honest(self, message)

    monkeypatch.setattr(OtherBanks, "_tell", tell)
    return assert_ended(simulation, simulation.run())


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda message: message.point.append(0.0), "finite numbers"),
        (lambda message: message.point.__setitem__(0, float("nan")), "finite numbers"),
        (lambda message: message.point.__setitem__(0, 1e6), "no partial score"),
        (lambda message: setattr(message, "reason", "because"), "without a reason"),
    ],
)
def test_a_leader_that_sends_an_impossible_point_is_named(
    change: Any, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = lying_leader(small(), monkeypatch, change)
    assert cause in reasons["bank-b"]


def test_a_leader_that_asks_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedshare_clients.node.bank_training.MAX_POINTS", 2)
    simulation = small()
    reasons = assert_ended(simulation, simulation.run())
    assert "more than 2 points" in reasons["bank-b"]


def test_banks_that_tell_a_holder_different_coefficients_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = LabelHolder._solve

    def solve(self: Any, channel: Any) -> Any:
        step = honest(self, channel)
        if self._party == "bank-c" and len(step.coefficients):
            step.coefficients[0] += 1e-9
        return step

    monkeypatch.setattr(LabelHolder, "_solve", solve)
    reasons = assert_ended(simulation := small(), simulation.run())
    assert "the banks disagree" in reasons["tax"]


def overlapping() -> dict[str, Table]:
    """Return an economy in which the third bank also has 40 of the first one's customers."""
    tables = split_banks(small_economy(400, 500), (0.4, 0.3, 0.3))
    first, third = tables["bank-a"], tables["bank-c"]
    both = first.take(np.arange(40))
    tables["bank-c"] = Table(
        "bank-c",
        [*third.identifiers, *both.identifiers],
        {name: np.concatenate([third.columns[name], both.columns[name]]) for name in third.columns},
        np.concatenate([third.label, both.label]),
    )
    return tables


SHARED: dict[str, Any] = {**TINY, "minimum_cohort": 5, "between_banks": {"count_shared_customers": True}}


def bands(simulation: Simulation, run_id: int = 1) -> dict[str, dict[str, Any]]:
    """Return what each bank says of every other one."""
    return {
        bank: simulation.platforms[bank].results[run_id]["shared_customers"] for bank in banks_of(simulation)
    }


def test_shared_customers_are_counted_in_bands_and_count_once_per_bank() -> None:
    simulation = run(overlapping(), **SHARED)
    shared = bands(simulation)
    aligned = {bank: set(simulation.platforms[bank].customers["identifier"]) for bank in shared}  # type: ignore[index]
    for bank, counts in shared.items():
        for other, band in counts.items():
            count = len(aligned[bank] & aligned[other])
            assert band["at_least"] <= count
            assert not band["below"] or band["below"] == band["at_least"] + 5 > count
            assert shared[other][bank] == band
    assert shared["bank-a"]["bank-c"]["at_least"] >= 30
    assert shared["bank-a"]["bank-b"] == {"at_least": 0, "below": 5}
    assert sum(saved(simulation, bank)["aligned"] for bank in shared) > len(set.union(*aligned.values()))


def test_shared_customers_are_counted_in_the_first_run_only() -> None:
    simulation = run(overlapping(), **SHARED)
    third = simulation.platforms["bank-c"].table
    simulation.platforms["bank-c"].table = third.take(np.arange(len(third) - 20))
    crossed = len(simulation.exchange.crossed)
    first = bands(simulation)
    assert {reply["status"] for reply in simulation.run(2).values()} == {"ok"}
    assert bands(simulation, 2) == first
    steps = [envelope.step.split("/")[0] for envelope in simulation.exchange.crossed[crossed:]]
    assert "CustomerAnswer" not in steps


def test_a_bank_that_has_answered_answers_no_other_count() -> None:
    simulation = run(overlapping(), **SHARED)
    simulation.platforms["bank-a"].memory.bands.clear()
    assert {reply["status"] for reply in simulation.run(2).values()} == {"ok"}
    assert bands(simulation, 2)["bank-a"]["bank-c"] == {"at_least": 0, "below": 0}
    assert bands(simulation, 2)["bank-c"]["bank-a"] == bands(simulation)["bank-c"]["bank-a"]


def test_nobody_counts_shared_customers_unless_the_contract_says_so(three: Simulation) -> None:
    assert "shared_customers" not in saved(three, "bank-a")
    assert not any(envelope.step.startswith("Customer") for envelope in three.exchange.crossed)


def test_a_band_that_shows_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fedshare_clients.node.shared_customers.band_of", lambda count, minimum, cap: Band(10**6, 0)
    )
    simulation = small(between_banks={"count_shared_customers": True})
    reasons = assert_ended(simulation, simulation.run())
    assert "more shared customers than this bank lets be shown" in str(reasons)


def test_every_bin_holds_the_minimum_cohort_of_the_banks_that_do_not_lead(three: Simulation) -> None:
    counts = np.sum([saved(three, bank)["counts"] for bank in banks_of(three)[1:]], axis=0)
    assert counts.min() >= three.contract.minimum_cohort


def test_bins_are_merged_where_the_others_are_few() -> None:
    tables = split_banks(small_economy(), (0.9, 0.05, 0.05))
    simulation = run(tables, columns={"utilisation": {"bins": 20}}, minimum_cohort=15)
    counts = np.sum([saved(simulation, bank)["counts"] for bank in ("bank-b", "bank-c")], axis=0)
    assert counts.min() >= 15
    assert len(counts) < 10


@pytest.mark.parametrize(
    ("told", "cause"),
    [
        (lambda bins, honest: {**honest(bins), "name": "other"}, "other columns"),
        (lambda bins, honest: {**honest(bins), "edges": []}, "do not parse"),
        (
            lambda bins, honest: honest(
                dataclasses.replace(bins, edges=(bins.edges[0] - 1e-6, *bins.edges[1:]))
            ),
            "not merged from the shared ones",
        ),
    ],
)
def test_bins_of_the_leader_that_nobody_fitted_are_refused(
    told: Any, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ColumnBins.to_dict
    monkeypatch.setattr(ColumnBins, "to_dict", lambda bins: told(bins, honest))
    simulation = small()
    reasons = assert_ended(simulation, simulation.run())
    assert cause in reasons["bank-b"] + reasons["bank-c"]


def test_a_bank_with_nearly_all_customers_reads_no_single_outcome_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    total, total_over = BankSums.total, BankSums.total_over

    def watched(sums: BankSums, channel: Any, step: str, values: Any, bits: int) -> Any:
        result = total(sums, channel, step, values, bits)
        if "score" in step and sums.leads:
            seen.append((step, result, values))
        return result

    def watched_over(sums: BankSums, banks: Any, channel: Any, step: str, values: Any, bits: int) -> Any:
        result = total_over(sums, banks, channel, step, values, bits)
        if "score" in step and sums.leads:
            seen.append((step, result, values))
        return result

    monkeypatch.setattr(BankSums, "total", watched)
    monkeypatch.setattr(BankSums, "total_over", watched_over)
    simulation = run(
        split_banks(small_economy(900, 1000, 4), (0.8, 0.1, 0.1)), **{**TINY, "minimum_cohort": 10}
    )
    assert len(seen) == 4
    for step, everybody, own in seen:
        if step.startswith("banks"):
            assert set(np.unique(own)) <= {0.0, 1.0}
        else:
            customers = (everybody - own).reshape(7, -1)[0]
            assert customers.min() >= 10
    assert saved(simulation, "bank-a")["all_banks"]["holdout"] > 200
