"""What the parties of a run state about it: an auditor's rules accept an honest run and see what a coordinator does."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from simulation import NOW, Simulation, small_economy, tiny

from fedshare.audit.statements import (
    Approval,
    ContractPublished,
    Enrolment,
    ModelManifest,
    PhaseClosed,
    PhaseOpened,
    Refusal,
    RunClosed,
    RunOpened,
)
from fedshare.errors import ProtocolError
from fedshare.wire.v1 import payload_pb2 as payload
from fedshare_clients.auditor.rules import Rules
from fedshare_clients.node import manifest
from fedshare_clients.node.service import PHASES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedshare.audit.statements import Statement
    from fedshare.identity.envelope import Envelope

AT = int(NOW.timestamp())


def told(simulation: Simulation, failed_in: str = "") -> Iterator[Statement]:
    """Yield the log of one run: what the coordinator says around what the parties said."""
    contract = simulation.contract
    run: dict[str, Any] = {"issuer": "coordinator", "issued_at": AT, "contract_digest": contract.digest()}
    key = contract.log.coordinator_key
    yield Enrolment(issuer="coordinator", issued_at=AT, role="coordinator", identity_key=key)
    for party in contract.parties:
        yield Enrolment(
            issuer=party.id,
            issued_at=AT,
            role=party.role,
            identity_key=party.identity_key,
            witness_key=contract.log.witnesses[party.id],
        )
    yield ContractPublished(**run, document=contract.canonical().decode())
    for party in contract.parties:
        yield Approval(issuer=party.id, issued_at=AT, contract_digest=contract.digest())
    run["run_id"] = "1"
    yield RunOpened(**run, code_digest=contract.code_digest)
    said = [statement for platform in simulation.platforms.values() for statement in platform.said]
    for phase in PHASES:
        yield PhaseOpened(**run, phase=phase)
        yield from (statement for statement in said if getattr(statement, "phase", "evaluate") == phase)
        if phase == failed_in:
            yield RunClosed(**run, outcome="failed", cause="node_lost")
            return
        yield PhaseClosed(**run, phase=phase)
    yield RunClosed(**run, outcome="completed")


def findings(statements: Iterator[Statement]) -> set[str]:
    rules = Rules()
    found = [finding for index, said in enumerate(statements) for finding in rules.read(index, said)]
    return {finding.code for finding in [*found, *rules.finish()]}


def manifests(simulation: Simulation) -> list[ModelManifest]:
    said = [statement for platform in simulation.platforms.values() for statement in platform.said]
    return [statement for statement in said if isinstance(statement, ModelManifest)]


def test_what_the_parties_say_of_an_honest_run_keeps_the_auditors_rules() -> None:
    simulation = tiny()
    simulation.run()
    assert findings(told(simulation)) == set()


def test_all_parties_announce_one_model_and_each_can_open_its_part() -> None:
    simulation = tiny()
    simulation.run()
    first, *others = manifests(simulation)
    assert len(others) == 2
    assert {each.model() for each in others} == {first.model()}
    kept = {party: platform.result for party, platform in simulation.platforms.items()}
    assert first.components == {party: manifest.verify_result(result) for party, result in kept.items()}
    assert first.metrics["bank.federated_auc"] == f"{kept['bank']['federated']['auc']:.6f}"


def test_a_result_that_was_altered_afterwards_does_not_open_the_commitment() -> None:
    simulation = tiny()
    simulation.run()
    result = simulation.platforms["tax"].result
    with pytest.raises(ProtocolError, match="does not open"):
        manifest.verify_result({**result, "rows": result["rows"] + 1})
    with pytest.raises(ProtocolError, match="found none"):
        manifest.verify_result({"rows": 1})


def test_metrics_stay_out_of_the_manifest_unless_the_contract_shows_them() -> None:
    simulation = tiny(outputs={"coordinator_metrics": False})
    simulation.run()
    assert [each.metrics for each in manifests(simulation)] == [{}, {}, {}]


def test_a_party_that_sends_metrics_which_the_contract_hides_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(manifest, "public_metrics", lambda _contract, _result: {"federated_auc": "0.700000"})
    monkeypatch.setattr("fedshare_clients.node.service.public_metrics", manifest.public_metrics)
    simulation = tiny(outputs={"coordinator_metrics": False})
    replies = simulation.run()
    assert "does not let it show" in str(replies)
    assert manifests(simulation) == []


@pytest.mark.parametrize(
    "part",
    [
        payload.ModelCommitment(commitment=b"short"),
        payload.ModelCommitment(commitment=bytes(32), metrics={"Federated": "0.700000"}),
        payload.ModelCommitment(commitment=bytes(32), metrics={"federated_auc": "nan"}),
        payload.ModelCommitment(commitment=bytes(32), metrics={f"m{n}": "0.700000" for n in range(33)}),
    ],
)
def test_a_malformed_part_of_the_model_is_refused(part: payload.ModelCommitment) -> None:
    with pytest.raises(ProtocolError, match="expected"):
        manifest._verify("bank", part, tiny().contract)


def test_an_envelope_that_the_coordinator_altered_shows_in_the_accounts_of_the_failed_run() -> None:
    def alter(envelope: Envelope) -> list[Envelope]:
        if envelope.step.startswith("RowTags"):
            return [dataclasses.replace(envelope, ciphertext=bytes(len(envelope.ciphertext)))]
        return [envelope]

    simulation = Simulation(small_economy(200, 260), tamper=alter, minimum_cohort=5)
    simulation.run()
    assert "envelopes_differ" in findings(told(simulation, failed_in="align"))


def test_a_refusal_is_stated_with_its_code() -> None:
    simulation = tiny()
    simulation.platforms["tax"].code_digest = "ff" * 32
    simulation.run()
    (said,) = simulation.platforms["tax"].said
    assert isinstance(said, Refusal)
    assert (said.code, said.run_id) == ("code_digest_differs", "1")
    assert said.contract_digest == simulation.contract.digest()


@pytest.mark.parametrize("phase", PHASES[:-1])
def test_a_phase_that_the_witnesses_have_not_seen_ends_the_run_before_anything_leaves_the_node(
    phase: str,
) -> None:
    simulation = tiny()
    simulation.platforms["tax"].unseen_phase = phase
    replies = simulation.run()
    assert replies["tax"]["code"] == "opening_not_witnessed"
    assert not any(
        (envelope.sender, envelope.phase) == ("tax", phase) for envelope in simulation.exchange.crossed
    )
    assert simulation.results() == []
    assert simulation.platforms["tax"].said[-1].kind == "refusal"


def test_every_phase_but_the_close_waits_for_its_opening_at_every_node() -> None:
    simulation = tiny()
    simulation.run()
    assert {tuple(platform.opened) for platform in simulation.platforms.values()} == {PHASES[:-1]}
