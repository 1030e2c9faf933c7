"""A party that may not take part, whose data cannot be used, or that says something else than the protocol asks."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from simulation import NOW, Simulation, assert_ended, small_economy, tiny

from fedshare.contract.model import parse_contract
from fedshare.contract.signing import Decision, sign_decision
from fedshare.errors import DataError, StorageError
from fedshare.identity.keys import IdentityKey
from fedshare.sealed import PreparedSecret
from fedshare.wire.v1 import payload_pb2 as payload
from fedshare_clients.node.data import Table
from fedshare_clients.node.service import PHASES

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulation import MemoryPlatform

PARTIES = ["bank", "tax"]


def another_contract(simulation: Simulation, party: str) -> None:
    simulation.platforms[party].contract = parse_contract(simulation.draft(nonce="22" * 32))


def missing_approval(simulation: Simulation, party: str) -> None:
    del simulation.platforms[party].decisions["registry"]


def rejection(simulation: Simulation, party: str) -> None:
    said = Decision(
        contract_digest=simulation.contract.digest(), party="registry", verdict="reject", time=NOW
    )
    simulation.platforms[party].decisions["registry"] = sign_decision(
        said, simulation.platforms["registry"].identity
    )


def approval_of_another_contract(simulation: Simulation, party: str) -> None:
    said = Decision(contract_digest="ab" * 32, party="registry", verdict="approve", time=NOW)
    simulation.platforms[party].decisions["registry"] = sign_decision(
        said, simulation.platforms["registry"].identity
    )


def approval_by_another_key(simulation: Simulation, party: str) -> None:
    said = Decision(
        contract_digest=simulation.contract.digest(), party="registry", verdict="approve", time=NOW
    )
    simulation.platforms[party].decisions["registry"] = sign_decision(said, IdentityKey.from_raw(bytes(32)))


def before_its_time(simulation: Simulation, party: str) -> None:
    simulation.platforms[party].time = datetime(2025, 12, 31, tzinfo=UTC)


def after_its_end(simulation: Simulation, party: str) -> None:
    simulation.platforms[party].time = datetime(2027, 1, 1, tzinfo=UTC)


def other_code(simulation: Simulation, party: str) -> None:
    simulation.platforms[party].code_digest = "c1" * 32


def other_identity(simulation: Simulation, party: str) -> None:
    simulation.platforms[party].identity = IdentityKey.from_raw(bytes(32))


@pytest.mark.parametrize("party", PARTIES)
@pytest.mark.parametrize(
    ("differ", "code"),
    [
        (another_contract, "contract_digest_differs"),
        (missing_approval, "contract_unsigned"),
        (rejection, "contract_rejected"),
        (approval_of_another_contract, "contract_unsigned"),
        (approval_by_another_key, "contract_unsigned"),
        (before_its_time, "contract_not_yet_valid"),
        (after_its_end, "contract_expired"),
        (other_code, "code_digest_differs"),
        (other_identity, "party_key_differs"),
    ],
)
def test_a_party_that_may_not_take_part_refuses_before_it_computes(
    party: str, differ: Callable[[Simulation, str], None], code: str
) -> None:
    simulation = tiny()
    differ(simulation, party)
    replies = simulation.run()
    assert list(assert_ended(simulation, replies)) == [party]
    assert (replies[party]["status"], replies[party]["code"]) == ("refused", code)
    assert not simulation.exchange.crossed


def test_a_bank_that_asks_for_more_than_the_quota_is_refused() -> None:
    simulation = tiny(alignment={"identifier": "opaque", "quota": 199}, receive_timeout_seconds=5.0)
    replies = simulation.run()
    assert_ended(simulation, replies)
    refusals = [reply["code"] for reply in replies.values() if reply["status"] == "refused"]
    assert refusals
    assert set(refusals) == {"quota_exceeded"}
    assert not any(envelope.step.startswith("Evaluated") for envelope in simulation.exchange.crossed)


def test_identifiers_are_counted_over_all_runs_of_a_contract() -> None:
    simulation = tiny(alignment={"identifier": "opaque", "quota": 399}, receive_timeout_seconds=5.0)
    assert {reply["status"] for reply in simulation.run(1).values()} == {"ok"}
    crossed = len(simulation.exchange.crossed)
    refusals = [reply["code"] for reply in simulation.run(2).values() if reply["status"] == "refused"]
    assert refusals
    assert set(refusals) == {"quota_exceeded"}
    second = simulation.exchange.crossed[crossed:]
    assert not any(envelope.step.startswith("Evaluated") for envelope in second)


def test_no_more_runs_begin_than_the_contract_allows() -> None:
    simulation = tiny(max_runs=2)
    for run_id in (1, 2):
        assert {reply["status"] for reply in simulation.run(run_id).values()} == {"ok"}
    crossed = len(simulation.exchange.crossed)
    replies = simulation.run(3)
    assert {(reply["status"], reply["code"]) for reply in replies.values()} == {("refused", "runs_exhausted")}
    assert len(simulation.exchange.crossed) == crossed


def test_hellos_that_lead_to_no_run_count_as_none() -> None:
    simulation = tiny(max_runs=1)
    for run_id in (1, 2):
        simulation.ask("hello", run_id)
        simulation.ask("close", run_id)
    assert {reply["status"] for reply in simulation.run(3).values()} == {"ok"}


@pytest.mark.parametrize("last", ["hello", "align", "prepare", "train"])
def test_a_run_does_not_go_on_after_the_contract_has_ended(last: str) -> None:
    simulation = tiny()
    hellos = [reply["hello"] for reply in simulation.ask("hello").values()]
    for phase in PHASES[1 : PHASES.index(last) + 1]:
        simulation.ask(phase, hellos=hellos)
    for platform in simulation.platforms.values():
        platform.time = simulation.contract.valid_until
    crossed = len(simulation.exchange.crossed)
    replies = simulation.ask(PHASES[PHASES.index(last) + 1], hellos=hellos)
    assert {(reply["status"], reply["code"]) for reply in replies.values()} == {
        ("refused", "contract_expired")
    }
    assert len(simulation.exchange.crossed) == crossed
    assert simulation.results() == []


def with_bank(**changes: Any) -> dict[str, Table]:
    """Return the small economy with a bank whose table differs."""
    tables = small_economy(200, 260)
    bank = tables["bank"]
    parts = {
        "identifiers": bank.identifiers,
        "columns": bank.columns,
        "label": bank.label,
        "weight": None,
    } | changes
    tables["bank"] = Table("bank", **parts)
    return tables


def data_error(simulation: Simulation, party: str) -> DataError:
    """Return the DataError that ended the run at ``party``, after checking what the coordinator was told."""
    replies = simulation.run()
    reasons = assert_ended(simulation, replies)
    error = simulation.platforms[party].failure
    assert isinstance(error, DataError)
    assert replies[party]["code"] == "DataError"
    place = f" (field {error.field})" if error.field else ""
    assert reasons[party] == f"its data does not pass its own checks{place}; see its log"
    told = [reason for name, reason in reasons.items() if name != party]
    assert all(reasons[party] in reason for reason in told)
    return error


FAST: dict[str, Any] = {"minimum_cohort": 5, "model": {"max_iterations": 1}}


def test_customers_whom_no_holder_knows_end_the_run_at_the_bank() -> None:
    strangers = [f"stranger {number}".encode() for number in range(200)]
    error = data_error(Simulation(with_bank(identifiers=strangers), **FAST), "bank")
    assert "none of the 200 customers" in str(error)


def test_too_few_customers_end_the_run_at_the_bank() -> None:
    simulation = Simulation(small_economy(60, 400), minimum_cohort=50, model={"max_iterations": 1})
    assert "minimum cohort of 50" in str(data_error(simulation, "bank"))


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_labels_of_one_kind_end_the_run_at_the_bank(outcome: float) -> None:
    error = data_error(Simulation(with_bank(label=np.full(200, outcome)), **FAST), "bank")
    assert "both outcomes" in str(error)


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.5, np.nan, np.inf])
def test_a_weight_outside_its_range_ends_the_run_at_the_bank(weight: float) -> None:
    weights = np.ones(200)
    weights[17] = weight
    error = data_error(Simulation(with_bank(weight=weights), **FAST), "bank")
    assert "divide all of them by the largest" in str(error)


def test_a_holder_whose_columns_do_not_tell_customers_apart_ends_the_run() -> None:
    tables = small_economy(200, 400)
    customers = set(tables["bank"].identifiers)
    tax = tables["tax"]
    outside = np.array([float(identifier not in customers) for identifier in tax.identifiers])
    tables["tax"] = Table("tax", tax.identifiers, {"outside": outside})
    error = data_error(Simulation(tables, **FAST), "tax")
    assert "minimum cohort" in str(error)


def test_a_constant_column_ends_the_run_at_hello() -> None:
    tables = small_economy(200, 260)
    tables["tax"] = Table("tax", tables["tax"].identifiers, {"turnover": np.full(260, 4711.25)})
    simulation = Simulation(tables, **FAST)
    error = data_error(simulation, "tax")
    assert error.field == "turnover"
    assert not simulation.exchange.crossed
    assert "4711" not in str(simulation.replies)


def test_a_wrong_cell_is_named_by_the_row_at_which_it_is_stored() -> None:
    tables = small_economy(200, 260)
    cells = np.array([*map(str, range(260))], dtype=object)
    cells[6] = "CNY 4711"
    tables["tax"] = Table("tax", tables["tax"].identifiers, {"turnover": cells})
    simulation = Simulation(tables, columns={"turnover": {"kind": "numeric"}}, **FAST)
    assert data_error(simulation, "tax").row == 7
    assert "4711" not in str(simulation.replies)


def ready_to_train(**settings: Any) -> tuple[Simulation, Any, Any]:
    """Return a simulation before ``train`` with the roles of the tax bureau and the bank."""
    simulation = tiny(receive_timeout_seconds=5.0, **settings)
    simulation.run(until="prepare")
    return simulation, simulation.services["tax"]._runs[1].role, simulation.services["bank"]._runs[1].role


def ended(simulation: Simulation, at: str) -> str:
    replies = simulation.ask("train")
    simulation.ask("close")
    return assert_ended(simulation, replies)[at]


@pytest.mark.parametrize(
    "change", [b"", b"\x00" * 8, b"\x00" * (8 * 259), b"\x00" * (8 * 261), b"\x00" * (8 * 260 + 1)]
)
def test_a_sealed_column_of_another_length_ends_the_run(change: bytes) -> None:
    simulation, tax, _ = ready_to_train()

    def release(channel: Any, iteration: int, _scores: Any) -> None:
        channel.send("bank", payload.SealedColumn(values=change, penalty=bytes(8)), iteration)

    tax._release = release
    assert "sealed column of tax: expected 260 words" in ended(simulation, "bank")


def test_penalties_of_another_count_end_the_run() -> None:
    simulation, tax, _ = ready_to_train()

    def release(channel: Any, iteration: int, _scores: Any) -> None:
        channel.send("bank", payload.SealedColumn(values=bytes(8 * 260), penalty=bytes(16)), iteration)

    tax._release = release
    assert "penalty of tax: expected 1 words" in ended(simulation, "bank")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, 2.0**23])
def test_a_score_that_no_column_can_hold_ends_the_run_at_its_holder(value: float) -> None:
    simulation, tax, _ = ready_to_train()
    tax._block.scores = lambda _direction: np.full(260, value)
    assert "partial score: every value must be finite" in ended(simulation, "tax")


@pytest.mark.parametrize("coefficients", [[np.nan], [np.inf], [1e300], [1e9], [], [1.0, 1.0]])
def test_coefficients_out_of_range_end_the_run_at_every_holder(coefficients: list[float]) -> None:
    simulation, _, bank = ready_to_train()
    honest = bank._model.solve

    def solve() -> Any:
        step = honest()
        return (
            dataclasses.replace(step, coefficients=np.array(coefficients)) if step.coefficients.size else step
        )

    bank._model.solve = solve
    assert "coefficients" in ended(simulation, "tax")


def test_a_bank_that_goes_on_beyond_the_contract_is_stopped() -> None:
    simulation, tax, bank = ready_to_train()
    honest = bank._model.solve
    bank._model.solve = lambda: dataclasses.replace(honest(), stop=False)
    bank._secrets = {
        holder: [
            *secrets,
            *(PreparedSecret(np.zeros(4096, np.int8), np.zeros(secrets[0].columns, np.int64)) for _ in "ab"),
        ]
        for holder, secrets in bank._secrets.items()
    }
    assert "more than the contract's 2 iterations" in ended(simulation, "tax")
    assert not tax._masks["bank"]


def test_held_out_customers_and_strangers_never_enter_a_sealed_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors = []
    encrypt = PreparedSecret.encrypt

    def watched(self: PreparedSecret, public: Any, d: Any, *rest: Any, added: Any) -> Any:
        vectors.append(d.copy())
        assert added is None
        return encrypt(self, public, d, *rest)

    monkeypatch.setattr(PreparedSecret, "encrypt", watched)
    simulation, _, bank = ready_to_train()
    simulation.ask("train")
    training = int(bank._training.sum())
    trained = {len(vector): np.zeros(len(vector), dtype=bool) for vector in vectors}
    for holder in ("registry", "tax"):
        trained[bank._universe[holder]][bank._positions[holder][bank._training]] = True
    assert len(vectors) == 2 * 3
    assert {len(vector) for vector in vectors} == {250, 260}
    for vector in vectors:
        assert np.array_equal(vector != 0, trained[len(vector)])
        assert np.count_nonzero(vector) == training < len(bank._aligned)
        assert np.abs(vector).max() <= 1


def test_failures_of_storage_tell_the_coordinator_no_path() -> None:
    simulation = tiny()
    platform: MemoryPlatform = simulation.platforms["tax"]

    def refuse(*_: object) -> None:
        raise StorageError("/srv/tax-bureau/state/result.json: no space left")

    platform.save_result = refuse  # type: ignore[assignment]
    replies = simulation.run()
    assert replies["tax"]["code"] == "StorageError"
    assert "/srv" not in str(simulation.replies)
    assert "/srv" not in str(simulation.exchange.aborted)
