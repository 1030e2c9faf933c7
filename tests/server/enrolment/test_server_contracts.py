"""Contracts over real mutual TLS: drafted from enrolment, seen by their parties, decided once and signed."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from coordinator_harness import Coordinator, Node, refusal, serving

from fedshare.contract.model import parse_contract
from fedshare.errors import ConfigError
from fedshare.identity.certificates import public_key_digest
from fedshare.wire.v1 import contracts_pb2 as wire
from fedshare.wire.v1.contracts_pb2_grpc import ContractServiceStub
from fedshare_server.authority import initialise
from fedshare_server.config import ServerConfig, StateFolder
from fedshare_server.drafting import DEFAULT_VALIDITY, complete

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedshare.contract.model import Contract

CODE = "c0" * 32
UNKNOWN = "ff" * 32


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    import socket  # noqa: PLC0415

    folder = StateFolder(tmp_path_factory.mktemp("state"))
    initialise(folder, ServerConfig(), datetime.now(UTC))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with serving(folder, folder.path / "db", port) as coordinator:
        yield coordinator


@pytest.fixture(scope="module")
def nodes(coordinator: Coordinator) -> dict[str, Node]:
    roles = {"tax": "feature_holder", "bank-a": "label_holder", "court": "feature_holder"}
    return {party: coordinator.admit(Node(party, role)) for party, role in roles.items()}


def document(**changes: object) -> dict[str, Any]:
    return {
        "name": "credit",
        "purpose": "Joint credit scoring of small enterprises",
        "parties": [
            {"id": "tax", "role": "feature_holder", "columns": [{"name": "revenue"}]},
            {"id": "bank-a", "role": "label_holder"},
        ],
        "alignment": {"identifier": "uscc", "quota": 1000},
        **changes,
    }


def complete_now(coordinator: Coordinator, raw: object) -> Contract:
    enrolled = {party.party: party for party in coordinator.store.parties()}
    return complete(raw, enrolled, CODE, coordinator.log_keys, {}, datetime.now(UTC), os.urandom)


@pytest.fixture
def contract(coordinator: Coordinator, nodes: dict[str, Node]) -> Contract:
    contract = complete_now(coordinator, document())
    parties = [party.id for party in contract.parties]
    coordinator.store.add_contract(contract.digest(), contract.name, contract.canonical(), parties)
    return contract


def test_a_draft_takes_its_keys_from_enrolment(contract: Contract, nodes: dict[str, Node]) -> None:
    for party in contract.parties:
        assert party.identity_key_bytes() == nodes[party.id].identity.public_bytes()
        assert party.flower_key == public_key_digest(nodes[party.id].flower.public_key())
    assert contract.code_digest == CODE
    assert contract.valid_until - contract.valid_from == DEFAULT_VALIDITY


def test_two_drafts_of_one_file_are_different_contracts(coordinator: Coordinator, contract: Contract) -> None:
    assert complete_now(coordinator, document()).digest() != contract.digest()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nonce": "00" * 32}, "nonce: is drawn"),
        ({"rounds": 3}, "rounds: unknown field"),
        ({"parties": None}, "list of parties"),
        ({"parties": ["tax"]}, "mapping with its id"),
        ({"parties": [{"id": "stranger", "role": "label_holder"}]}, "stranger is not enrolled"),
        ({"parties": [{"id": "tax", "role": "label_holder"}]}, "tax is enrolled as feature_holder"),
        ({"parties": [{"id": "tax", "role": "feature_holder", "identity_key": "x"}]}, "comes from enrolment"),
        ({"valid_until": "2020-01-01T00:00:00Z"}, "valid_until must be after"),
        ({"log": {"quorum": 1}}, "expected a quorum between 2 and 2 of 2 witnesses"),
        ({"log": {"quorum": 2, "key": "k"}}, "nothing but quorum"),
    ],
)
def test_a_wrong_draft_names_the_field(
    coordinator: Coordinator, nodes: dict[str, Node], changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        complete_now(coordinator, document(**changes))


def test_a_party_sees_the_contracts_that_name_it(
    coordinator: Coordinator, contract: Contract, nodes: dict[str, Node]
) -> None:
    with coordinator.contracts(nodes["tax"]) as contracts:
        listed = contracts.ListContracts(wire.ListContractsRequest()).contracts
        fetched = contracts.GetContract(wire.GetContractRequest(digest=contract.digest()))
    assert (listed[0].digest, listed[0].status) == (contract.digest(), wire.CONTRACT_STATUS_PROPOSED)
    assert parse_contract(fetched.contract) == contract


def test_a_party_does_not_see_the_contracts_of_others(
    coordinator: Coordinator, contract: Contract, nodes: dict[str, Node]
) -> None:
    with coordinator.contracts(nodes["court"]) as contracts:
        assert list(contracts.ListContracts(wire.ListContractsRequest()).contracts) == []
        with pytest.raises(grpc.RpcError) as caught:
            contracts.GetContract(wire.GetContractRequest(digest=contract.digest()))
    assert refusal(caught) == "unknown_contract"


def test_a_contract_is_approved_when_every_party_has_signed(
    coordinator: Coordinator, contract: Contract, nodes: dict[str, Node]
) -> None:
    first = coordinator.decide(nodes["tax"], contract.digest())
    second = coordinator.decide(nodes["bank-a"], contract.digest())
    assert [first.status, second.status] == [wire.CONTRACT_STATUS_PROPOSED, wire.CONTRACT_STATUS_APPROVED]
    with coordinator.contracts(nodes["tax"]) as contracts:
        decisions = contracts.GetContract(wire.GetContractRequest(digest=contract.digest())).decisions
    assert [decision.party for decision in decisions] == ["bank-a", "tax"]


def test_one_rejection_ends_a_contract(
    coordinator: Coordinator, contract: Contract, nodes: dict[str, Node]
) -> None:
    coordinator.decide(nodes["tax"], contract.digest())
    answer = coordinator.decide(nodes["bank-a"], contract.digest(), verdict="reject")
    assert answer.status == wire.CONTRACT_STATUS_REJECTED


def test_an_approval_cannot_be_changed(
    coordinator: Coordinator, contract: Contract, nodes: dict[str, Node]
) -> None:
    coordinator.decide(nodes["tax"], contract.digest())
    with pytest.raises(grpc.RpcError) as caught:
        coordinator.decide(nodes["tax"], contract.digest(), verdict="reject")
    assert refusal(caught) == "already_decided"


@pytest.mark.parametrize(
    "changes", [{"contract_digest": UNKNOWN}, {"party": "bank-a"}], ids=["another contract", "another party"]
)
def test_a_signature_about_something_else_is_refused(
    coordinator: Coordinator, contract: Contract, nodes: dict[str, Node], changes: dict[str, object]
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        coordinator.decide(nodes["tax"], contract.digest(), **changes)
    assert refusal(caught) == "INVALID_ARGUMENT"
    assert coordinator.store.decisions(contract.digest()) == []


def test_a_rejection_cannot_be_handed_in_as_an_approval(
    coordinator: Coordinator, contract: Contract, nodes: dict[str, Node]
) -> None:
    request = nodes["tax"].decision(contract.digest(), verdict="reject")
    request.decision = wire.DECISION_APPROVE
    with coordinator.contracts(nodes["tax"]) as contracts, pytest.raises(grpc.RpcError) as caught:
        contracts.SubmitDecision(request)
    assert refusal(caught) == "INVALID_ARGUMENT"


def test_the_signature_of_another_party_is_refused(
    coordinator: Coordinator, contract: Contract, nodes: dict[str, Node]
) -> None:
    request = nodes["bank-a"].decision(contract.digest())
    with coordinator.contracts(nodes["tax"]) as contracts, pytest.raises(grpc.RpcError) as caught:
        contracts.SubmitDecision(request)
    assert refusal(caught) == "INVALID_ARGUMENT"


def test_a_stranger_to_the_contract_cannot_decide(
    coordinator: Coordinator, contract: Contract, nodes: dict[str, Node]
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        coordinator.decide(nodes["court"], contract.digest())
    assert refusal(caught) == "unknown_contract"


def test_an_expired_contract_takes_no_decision(
    coordinator: Coordinator, contract: Contract, nodes: dict[str, Node]
) -> None:
    coordinator.later = DEFAULT_VALIDITY + timedelta(days=1)
    try:
        with pytest.raises(grpc.RpcError) as caught:
            coordinator.decide(nodes["tax"], contract.digest())
    finally:
        coordinator.later = timedelta(0)
    assert refusal(caught) == "contract_expired"


def test_an_invitation_does_not_open_contracts(coordinator: Coordinator, nodes: dict[str, Node]) -> None:
    invitation = coordinator.invite("registry")
    credentials = grpc.ssl_channel_credentials(
        coordinator.ca_certificate, invitation["key"].encode(), invitation["certificate"].encode()
    )
    with (
        grpc.secure_channel(f"localhost:{coordinator.port}", credentials) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        ContractServiceStub(channel).ListContracts(wire.ListContractsRequest(), timeout=10)
    assert refusal(caught) == "unknown_party"


def test_a_replaced_certificate_stops_working_at_once(coordinator: Coordinator) -> None:
    before = coordinator.admit(Node("platform"))
    after = Node("platform")
    after.identity = before.identity
    after.certificate = coordinator.enrol(
        coordinator.invite("platform", replaces=True), after.request()
    ).certificate
    with coordinator.contracts(after) as contracts:
        contracts.ListContracts(wire.ListContractsRequest(), timeout=10)
    with coordinator.contracts(before) as contracts, pytest.raises(grpc.RpcError) as caught:
        contracts.ListContracts(wire.ListContractsRequest(), timeout=10)
    assert refusal(caught) == "unknown_party"


def test_a_contract_with_replaced_keys_has_to_be_drafted_again(
    coordinator: Coordinator, nodes: dict[str, Node]
) -> None:
    old = coordinator.admit(Node("water"))
    raw = document(
        parties=[
            {"id": "water", "role": "feature_holder", "columns": [{"name": "use"}]},
            {"id": "bank-a", "role": "label_holder"},
        ]
    )
    contract = complete_now(coordinator, raw)
    coordinator.store.add_contract(contract.digest(), "credit", contract.canonical(), ["water", "bank-a"])
    new = Node("water")
    request = new.request()
    entry = old.enrolment(request, witness_key=new.witness.key.vkey)
    request = new.request(audit_entry=entry, flower_key=request.flower_key)
    new.certificate = coordinator.enrol(coordinator.invite("water", replaces=True), request).certificate
    for identity in (old.identity, new.identity):
        new.identity = identity
        with pytest.raises(grpc.RpcError) as caught:
            coordinator.decide(new, contract.digest())
        assert refusal(caught) == "party_key_differs"
