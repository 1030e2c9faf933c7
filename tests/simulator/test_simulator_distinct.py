"""Customers of two banks that count once: at the first bank, without either bank learning which they are."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from simulation import Simulation, assert_ended, overlapping_banks

from fedshare.contract.model import parse_contract
from fedshare.credit.bins import ColumnBins, Design
from fedshare.errors import RunFailedError
from fedshare.sealed.oblivious_transfer import ReceiverSetup
from fedshare.training.scorecard import centralised_fit
from fedshare.wire.v1 import payload_pb2 as payload
from fedshare_clients.node.bank_sums import BankSums
from fedshare_clients.node.channel import Channel
from fedshare_clients.node.feature_holder import FeatureHolder
from fedshare_clients.node.label_holder import _training_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedshare_clients.node.data import Table

DROP: dict[str, Any] = {
    "between_banks": {"accept_two": True, "drop_shared_customers": True},
    "model": {"max_iterations": 8, "tolerance": 1e-7},
}
SMALL: dict[str, Any] = {**DROP, "minimum_cohort": 5, "model": {"max_iterations": 2, "tolerance": 1e-9}}
SEEDS = {"bank-a": b"a" * 32, "bank-b": b"b" * 32}


def federation(tables: dict[str, Table], **settings: Any) -> Simulation:
    simulation = Simulation(tables, receive_timeout_seconds=60.0, **settings)
    for bank, seed in SEEDS.items():
        simulation.platforms[bank].holdout_seed = seed
    return simulation


def run(simulation: Simulation, run_id: int = 1) -> Simulation:
    replies = simulation.run(run_id)
    assert {reply["status"] for reply in replies.values()} == {"ok"}, replies
    return simulation


def dropped(simulation: Simulation) -> set[bytes]:
    """Return who should be dropped: training customers of the second bank that the first one has, known to the holders."""
    known = set(simulation.platforms["registry"].table.identifiers)
    second = simulation.platforms["bank-b"].table
    trains = _training_mask(second.identifiers, SEEDS["bank-b"], simulation.contract.holdout_share)
    own = {each for each, training in zip(second.identifiers, trains, strict=True) if training}
    return own & known & set(simulation.platforms["bank-a"].table.identifiers)


def central_scores(
    simulation: Simulation, without: set[bytes]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the federated scores of all banks' customers, and those of the optimum on the pooled ones but for ``without``."""
    designs, labels, training, scores = [], [], [], []
    for bank in ("bank-a", "bank-b"):
        kept = simulation.platforms[bank].customers
        assert kept is not None
        identifiers = [each.encode() for each in kept["identifier"]]
        parts = []
        for party in (bank, *(holder.id for holder in simulation.contract.holders())):
            result = simulation.platforms[party].result
            assert result is not None
            bins = [ColumnBins.from_dict(column) for column in result["bins"]["columns"]]
            rows = simulation.platforms[party].table.rows(identifiers)
            parts.append(Design.assigned(bins, rows, party=party))
        designs.append(Design.joined(parts))
        leaves = [bank == "bank-b" and each in without for each in identifiers]
        labels.append(np.asarray(kept["label"]))
        training.append(~np.asarray(kept["holdout"]) & ~np.array(leaves))
        scores.append(np.asarray(kept["score"]))
    design = Design(designs[0].columns, np.concatenate([each.codes for each in designs]))
    label = np.concatenate(labels)
    model = centralised_fit(
        label, np.ones(len(label)), design, np.concatenate(training), simulation.contract.model
    )
    return np.concatenate(scores), model.scores()


class Counted:
    """What each holder finds as training customers per bin, run after run, and what it would find of given customers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[FeatureHolder, NDArray[np.float64]]] = []
        total = FeatureHolder._total

        def watched(holder: FeatureHolder, columns: Any, products: Any) -> Any:
            result = total(holder, columns, products)
            if isinstance(next(iter(products.values())), payload.CountQuery):
                self.seen.append((holder, self._of(holder, result)))
            return result

        monkeypatch.setattr(FeatureHolder, "_total", watched)

    @staticmethod
    def _of(holder: FeatureHolder, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        rounded: NDArray[np.float64] = np.rint(counts)
        assert np.abs(counts - rounded).max() < 1e-3
        holder.counted_design = holder._design  # type: ignore[attr-defined]
        return rounded

    def take(self, *customers: set[bytes]) -> None:
        """Check that both holders found in the last run each of these groups, and nobody else."""
        for holder, counts in self.seen:
            design = holder.counted_design  # type: ignore[attr-defined]
            row = {each: at for at, each in enumerate(holder._identifiers)}
            rows = [row[each] for group in customers for each in group]
            assert np.array_equal(counts, np.bincount(design.codes[rows].ravel(), minlength=design.width))
        assert len(self.seen) == 2
        self.seen.clear()


def trained(simulation: Simulation, bank: str) -> set[bytes]:
    """Return the training customers of a bank that the holders know."""
    table = simulation.platforms[bank].table
    known = set(simulation.platforms["registry"].table.identifiers)
    trains = _training_mask(table.identifiers, SEEDS[bank], simulation.contract.holdout_share)
    return {
        each for each, training in zip(table.identifiers, trains, strict=True) if training and each in known
    }


def without(table: Table, identifier: bytes) -> Table:
    return table.take(np.array([each != identifier for each in table.identifiers]))


def test_holders_count_each_customer_once_and_the_first_bank_sees_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted, sums = Counted(monkeypatch), []
    total = BankSums.total_at_leader

    def watched(self: BankSums, channel: Any, step: str, values: Any, *arguments: Any) -> Any:
        result = total(self, channel, step, values, *arguments)
        sums.append((self.leads, step, np.array(values), result))
        return result

    monkeypatch.setattr(BankSums, "total_at_leader", watched)
    simulation = run(federation(overlapping_banks(60, 300, 420), **SMALL))
    first, second, gone = trained(simulation, "bank-a"), trained(simulation, "bank-b"), dropped(simulation)
    assert len(gone) > 20
    counted.take(first, second - gone)
    # The first bank opens sums over the rest of the other's training customers, and the other one opens nothing.
    assert all(result is None for leads, _, _, result in sums if not leads)
    weights = next(
        (own, result) for leads, step, own, result in sums if leads and step == "weights of customers"
    )
    assert weights[1][0] - weights[0][0] == len(second - gone)
    table = simulation.platforms["bank-b"].table
    defaults = dict(zip(table.identifiers, table.label.tolist(), strict=True))
    assert weights[1][1] - weights[0][1] == pytest.approx(sum(defaults[each] for each in second - gone))


def test_nobody_is_dropped_where_fewer_than_the_minimum_cohort_are_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = Counted(monkeypatch)
    simulation = run(federation(overlapping_banks(4, 300, 420), **SMALL))
    assert 0 < len(dropped(simulation)) < 5
    counted.take(trained(simulation, "bank-a"), trained(simulation, "bank-b"))


def test_nobody_is_dropped_where_fewer_than_the_minimum_cohort_are_not_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = Counted(monkeypatch)
    tables = overlapping_banks(60, 300, 420)
    tables["bank-b"] = tables["bank-b"].take(np.arange(len(tables["bank-b"])) >= len(tables["bank-b"]) - 60)
    simulation = run(federation(tables, **SMALL))
    assert dropped(simulation) == trained(simulation, "bank-b")
    counted.take(trained(simulation, "bank-a"), trained(simulation, "bank-b"))


def test_noisy_outcomes_are_dropped_as_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    noisy = {"privacy": {"labels": {"epsilon": 3.0}}, "outputs": {"coordinator_metrics": False}}
    simulation = federation(overlapping_banks(60, 300, 420), **SMALL, **noisy)
    for run_id in (1, 2):
        run(simulation, run_id)
        counted.take(trained(simulation, "bank-a"), trained(simulation, "bank-b") - dropped(simulation))


def test_customers_that_come_later_count_once_per_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    tables = overlapping_banks(60, 300, 420)
    everybody = {bank: tables[bank] for bank in ("bank-a", "bank-b")}
    # The last 20 shared ones are new at the second bank, and 10 of the others at the first one.
    tables["bank-b"] = everybody["bank-b"].take(
        np.arange(len(everybody["bank-b"])) < len(everybody["bank-b"]) - 20
    )
    earlier = set(everybody["bank-b"].identifiers[-60:-20])
    late = set(sorted(earlier)[:20])
    tables["bank-a"] = everybody["bank-a"].take(
        np.array([each not in late for each in everybody["bank-a"].identifiers])
    )
    simulation = run(federation(tables, **SMALL))
    gone = dropped(simulation)
    counted.take(trained(simulation, "bank-a"), trained(simulation, "bank-b") - gone)
    for bank, table in everybody.items():
        simulation.platforms[bank].table = table
    run(simulation, 2)
    assert dropped(simulation) > gone
    counted.take(trained(simulation, "bank-a"), trained(simulation, "bank-b") - gone)


@pytest.mark.parametrize("bank", ["bank-a", "bank-b"])
def test_a_later_run_without_one_who_might_have_been_dropped_is_refused(bank: str) -> None:
    simulation = run(federation(overlapping_banks(60, 300, 420), **SMALL))
    platform = simulation.platforms[bank]
    platform.table = without(platform.table, min(trained(simulation, bank)))
    assert simulation.run(2)[bank]["code"] == "few_customers_changed"
    assert "all of them must take part" in str(platform.failure)


def test_a_run_that_ends_when_the_shared_ones_are_counted_is_not_followed_by_one_that_counts_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation = federation(overlapping_banks(60, 300, 420), **SMALL)

    def ends(*_numbers: int) -> bool:
        raise RunFailedError("the node of the first bank is ended here")

    with monkeypatch.context() as patched:
        patched.setattr("fedshare_clients.node.distinct_customers.may_drop", ends)
        assert simulation.run(1)["bank-a"]["code"] == "RunFailedError"
    simulation.exchange.aborted = None
    platform = simulation.platforms["bank-a"]
    everybody = platform.table
    platform.table = without(everybody, min(dropped(simulation)))
    assert simulation.run(2)["bank-a"]["code"] == "few_customers_changed"
    simulation.exchange.aborted = None
    platform.table = everybody
    run(simulation, 3)


def test_the_first_bank_asks_the_same_of_later_runs_where_nobody_is_dropped() -> None:
    simulation = run(federation(overlapping_banks(4, 300, 420), **SMALL))
    platform = simulation.platforms["bank-a"]
    platform.table = without(platform.table, min(trained(simulation, "bank-a")))
    assert simulation.run(2)["bank-a"]["code"] == "few_customers_changed"


def test_a_first_bank_that_has_forgotten_its_list_is_refused_by_the_other() -> None:
    simulation = run(federation(overlapping_banks(60, 300, 420), **SMALL))
    simulation.platforms["bank-a"].memory.fixed.clear()  # as an old copy of its state folder does
    assert simulation.run(2)["bank-b"]["code"] == "other_customers_counted"


def test_other_contracts_keep_those_together_who_might_have_been_dropped() -> None:
    simulation = run(federation(overlapping_banks(60, 300, 420), **SMALL))
    plain = {**SMALL, "between_banks": {"accept_two": True}, "name": "another", "nonce": "22" * 32}
    simulation.contract = parse_contract(simulation.draft(**plain))
    simulation.sign(simulation.contract)
    run(simulation, 2)
    platform = simulation.platforms["bank-b"]
    platform.table = without(platform.table, min(trained(simulation, "bank-b")))
    assert simulation.run(3)["bank-b"]["code"] == "few_customers_changed"


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("fedshare_clients.node.distinct_customers.raised_again", "bank-b answered"),
        ("fedshare_clients.node.distinct_customers.pack_words", "numbers of bank-b's customers: expected"),
    ],
)
def test_a_message_of_another_size_ends_the_run(
    target: str, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*arguments: Any, **settings: Any) -> bytes:
        whole: bytes = original(*arguments, **settings)
        return whole[:-32]

    module, name = target.rsplit(".", 1)
    original = getattr(importlib.import_module(module), name)
    monkeypatch.setattr(target, cut)
    simulation = federation(overlapping_banks(60, 300, 420), **SMALL)
    assert_ended(simulation, simulation.run())
    assert cause in str(simulation.platforms["bank-a"].failure)


def test_neither_bank_is_sent_the_bits_or_the_numbers_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: dict[str, list[bytes]] = {"choice": [], "product": []}
    bits: list[NDArray[np.bool_]] = []
    send, choose = Channel.send, ReceiverSetup.choose

    def watched(self: Channel, recipient: str, message: Any, index: int = 0) -> None:
        if isinstance(message, payload.DropChoice):
            messages["choice"].append(message.columns)
        if isinstance(message, payload.DropProduct):
            messages["product"].append(message.words)
        send(self, recipient, message, index)

    def noted(self: ReceiverSetup, points: bytes, chosen: NDArray[np.bool_]) -> Any:
        bits.append(chosen)
        return choose(self, points, chosen)

    monkeypatch.setattr(Channel, "send", watched)
    monkeypatch.setattr(ReceiverSetup, "choose", noted)
    simulation = run(federation(overlapping_banks(60, 300, 420), **SMALL))
    assert bits[0].sum() > 100
    columns = np.frombuffer(messages["choice"][0], dtype=np.uint8).reshape(128, -1)
    # 128 columns of some 900 bits, of which every bit would stand out in the sum of all if any column showed it.
    ones = np.unpackbits(columns, axis=1).sum(axis=0).astype(np.int64)
    assert np.abs(ones - 64).max() < 64  # 11 deviations
    assert np.abs(ones[: len(bits[0])][bits[0]].mean() - 64) < 4  # 7 deviations of 100 rows and more
    # Most rows of a universe are no customer of the second bank, so most numbers are zero: no word shows it, none repeats.
    words = np.frombuffer(b"".join(messages["product"]), dtype="<i8")
    assert len(words) > 10_000
    assert len(np.unique(words)) == len(words)
    assert np.abs(np.unpackbits(words.view(np.uint8)).mean() - 0.5) < 0.005
    table = simulation.platforms["bank-b"].table
    assert not set(table.label.astype(np.int64).tolist()) & set(words.tolist())


def test_neither_points_nor_losses_tell_the_second_bank_how_many_train(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[payload.SharedPoint] = []
    send = Channel.send

    def watched(self: Channel, recipient: str, message: Any, index: int = 0) -> None:
        if isinstance(message, payload.SharedPoint):
            told.append(message)
        send(self, recipient, message, index)

    monkeypatch.setattr(Channel, "send", watched)
    simulation = run(federation(overlapping_banks(60, 300, 420), **SMALL))
    train = len(trained(simulation, "bank-a")) + len(trained(simulation, "bank-b") - dropped(simulation))
    # The search begins at the log-odds of a fraction with that denominator, and a mean loss is a multiple of 2^-32 by it.
    rate = 1.0 / (1.0 + np.exp(-told[0].point[-1]))
    assert abs(rate * train - round(rate * train)) > 1e-6
    losses = np.array([each.train_loss for each in told if each.settled]) * train * 2.0**32
    assert len(losses) == 3
    assert np.abs(losses - np.rint(losses)).max() > 0.02


def test_the_model_is_that_of_the_pooled_distinct_customers() -> None:
    simulation = run(federation(overlapping_banks(200), **DROP))
    scores, distinct = central_scores(simulation, dropped(simulation))
    _, double = central_scores(simulation, set())
    assert np.abs(scores - distinct).max() < 0.05
    assert np.abs(scores - double).max() > 0.2
