"""What parties see by comparing the sums of several runs: nothing about few customers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from simulation import Simulation, tiny

from fedshare.contract.model import parse_contract
from fedshare.wire.v1 import payload_pb2 as payload
from fedshare_clients.node.feature_holder import FeatureHolder
from fedshare_clients.node.label_holder import _training_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedshare_clients.node.data import Table


def _counts_seen(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, NDArray[np.float64]]]:
    """Return where each holder's customers per bin will be put down, run after run, as it sees them."""
    seen: list[dict[str, NDArray[np.float64]]] = []
    total = FeatureHolder._total

    def watched(holder: FeatureHolder, columns: Any, products: Any) -> Any:
        result = total(holder, columns, products)
        if isinstance(next(iter(products.values())), payload.CountQuery):
            seen[-1][holder._party] = np.rint(result)
        return result

    monkeypatch.setattr(FeatureHolder, "_total", watched)
    run = simulation.run

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen.append({})
        return run(*args, **kwargs)

    monkeypatch.setattr(simulation, "run", counted)
    return seen


def without_one(simulation: Simulation) -> Table:
    """Return the bank's customers but for one that trains and that every holder knows."""
    bank = simulation.platforms["bank"]
    known = set.intersection(
        *(set(simulation.platforms[each].table.identifiers) for each in ("tax", "registry"))
    )
    trains = _training_mask(bank.table.identifiers, bank.holdout_seed, simulation.contract.holdout_share)
    one = next(row for row in np.flatnonzero(trains).tolist() if bank.table.identifiers[row] in known)
    return bank.table.take(np.arange(len(bank.table)) != one)


@pytest.mark.parametrize("change", ["one came", "one left"])
def test_no_holder_sees_the_row_of_one_customer_by_comparing_two_runs(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = tiny()
    seen = _counts_seen(simulation, monkeypatch)
    bank = simulation.platforms["bank"]
    everybody = bank.table
    without = without_one(simulation)
    tables = [without, everybody] if change == "one came" else [everybody, without]
    for run_id, table in enumerate(tables, 1):
        bank.table = table
        assert {reply["status"] for reply in simulation.run(run_id).values()} == {"ok"}
    for holder in ("tax", "registry"):
        per_column = np.abs(seen[1][holder] - seen[0][holder]).sum() / len(
            simulation.contract.party(holder).columns
        )
        assert per_column == 0 or per_column >= simulation.contract.minimum_cohort
    assert bank.result is not None
    assert bank.result["held_back"] >= 1
    assert any("held back" in each.message for each in bank.seen)


def test_what_is_held_back_is_held_back_from_other_contracts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = tiny()
    seen = _counts_seen(simulation, monkeypatch)
    bank = simulation.platforms["bank"]
    everybody = bank.table
    bank.table = without_one(simulation)
    simulation.run(1)
    simulation.contract = parse_contract(
        simulation.draft(name="another", minimum_cohort=5, model={"max_iterations": 2, "tolerance": 1e-9})
    )
    simulation.sign(simulation.contract)
    bank.table = everybody
    assert {reply["status"] for reply in simulation.run(2).values()} == {"ok"}
    for holder in ("tax", "registry"):
        assert np.array_equal(seen[0][holder], seen[1][holder])


def test_a_second_run_over_the_same_customers_holds_nobody_back() -> None:
    simulation = tiny()
    for run_id in (1, 2):
        assert {reply["status"] for reply in simulation.run(run_id).values()} == {"ok"}
        assert simulation.platforms["bank"].results[run_id]["held_back"] == 0
