"""Enrolment over real mutual TLS on loopback: an invitation opens it once, and nothing else does."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import pytest
from coordinator_harness import Coordinator, Node, refusal, serving
from cryptography.hazmat.primitives.asymmetric import ec

from fedshare.errors import UnavailableError
from fedshare.identity.certificates import create_request, issue_client, key_to_pem, read_client, to_pem
from fedshare.wire.v1.enrolment_pb2_grpc import EnrolmentServiceStub
from fedshare_server.authority import create_invitation, initialise, load_authority, load_tls
from fedshare_server.config import ServerConfig, StateFolder
from fedshare_server.service import start_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> StateFolder:
    folder = StateFolder(tmp_path_factory.mktemp("state"))
    initialise(folder, ServerConfig(), datetime.now(UTC))
    return folder


@pytest.fixture
def coordinator(folder: StateFolder, tmp_path: Path, free_port: int) -> Iterator[Coordinator]:
    with serving(folder, tmp_path / "db", free_port) as coordinator:
        yield coordinator


def test_an_invited_party_gets_a_certificate_with_its_name_and_role(coordinator: Coordinator) -> None:
    node = Node()
    response = coordinator.enrol(coordinator.invite(), node.request())
    named = read_client(response.certificate)
    assert (named.common_name, named.role) == ("tax", "feature_holder")
    assert response.certificate_authority == coordinator.ca_certificate
    assert [party.identity_key for party in response.parties] == [node.identity.public_bytes()]
    assert coordinator.registered == [node.request().flower_key]
    assert coordinator.store.find_party("tax").certificate_digest == named.key_digest


def test_a_used_invitation_is_refused_by_the_service(coordinator: Coordinator) -> None:
    invitation = coordinator.invite()
    coordinator.enrol(invitation, Node().request())
    with pytest.raises(grpc.RpcError) as caught:
        coordinator.enrol(invitation, Node().request())
    assert refusal(caught) == "used_invitation"


def test_an_invitation_past_its_days_is_refused_by_the_service(coordinator: Coordinator) -> None:
    invitation = coordinator.invite()
    coordinator.later = timedelta(days=8)
    with pytest.raises(grpc.RpcError) as caught:
        coordinator.enrol(invitation, Node().request())
    assert refusal(caught) == "expired_invitation"


def test_an_invitation_does_not_enrol_another_party_or_role(coordinator: Coordinator) -> None:
    invitation = coordinator.invite()
    for node in (Node("registry"), Node(role="label_holder")):
        with pytest.raises(grpc.RpcError) as caught:
            coordinator.enrol(invitation, node.request())
        assert refusal(caught) == "other_invitation"
    assert coordinator.store.parties() == []


def test_a_party_certificate_does_not_open_enrolment(coordinator: Coordinator) -> None:
    node = Node()
    response = coordinator.enrol(coordinator.invite(), node.request())
    with pytest.raises(grpc.RpcError) as caught:
        coordinator.call(response.certificate.decode(), key_to_pem(node.tls).decode(), node.request())
    assert refusal(caught) == "not_invited"


def test_a_request_that_the_identity_key_did_not_sign_is_refused(coordinator: Coordinator) -> None:
    request = Node().request()
    request.identity_key = Node().identity.public_bytes()
    with pytest.raises(grpc.RpcError, match="signature does not verify") as caught:
        coordinator.enrol(coordinator.invite(), request)
    assert refusal(caught) == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"flower_key": b"no key"}, "public key does not parse"),
        ({"certificate_request": b"no request"}, "does not parse"),
        (
            {"certificate_request": create_request(ec.generate_private_key(ec.SECP256R1()), "bank")},
            "not for tax",
        ),
    ],
)
def test_a_malformed_key_is_refused_and_leaves_the_invitation_open(
    coordinator: Coordinator, changes: dict[str, bytes], words: str
) -> None:
    invitation = coordinator.invite()
    with pytest.raises(grpc.RpcError, match=words):
        coordinator.enrol(invitation, Node().request(**changes))
    assert coordinator.enrol(invitation, Node().request()).certificate


def test_a_known_party_with_a_new_identity_key_needs_the_signature_of_the_old_one(
    coordinator: Coordinator,
) -> None:
    coordinator.enrol(coordinator.invite(), Node().request())
    with pytest.raises(grpc.RpcError) as caught:
        coordinator.enrol(coordinator.invite(replaces=True), Node().request())
    assert refusal(caught) == "identity_key_differs"


@pytest.mark.parametrize(
    "changes", [{"issuer": "registry"}, {"role": "label_holder"}, {"flower_key": "k"}, {"witness_key": ""}]
)
def test_an_entry_for_the_log_that_says_something_else_is_refused(
    coordinator: Coordinator, changes: dict[str, str]
) -> None:
    node = Node()
    entry = node.enrolment(node.request(), **changes)
    with pytest.raises(grpc.RpcError) as caught:
        coordinator.enrol(coordinator.invite(), node.request(audit_entry=entry))
    assert refusal(caught) == "INVALID_ARGUMENT"


def test_a_superlink_that_is_down_leaves_the_invitation_open(coordinator: Coordinator) -> None:
    invitation = coordinator.invite()
    coordinator.superlink_is_down = True
    with pytest.raises(grpc.RpcError) as caught:
        coordinator.enrol(invitation, Node().request())
    assert refusal(caught) == "UNAVAILABLE"
    coordinator.superlink_is_down = False
    assert coordinator.enrol(invitation, Node().request()).certificate


def test_an_invitation_of_our_authority_that_the_store_does_not_know_is_refused(
    coordinator: Coordinator,
) -> None:
    forged = create_invitation(
        coordinator.authority, ServerConfig(), "tax", "feature_holder", coordinator.now()
    )
    with pytest.raises(grpc.RpcError) as caught:
        coordinator.enrol(json.loads(forged.document), Node().request())
    assert refusal(caught) == "unknown_invitation"


def test_a_client_without_a_certificate_does_not_get_through_tls(coordinator: Coordinator) -> None:
    credentials = grpc.ssl_channel_credentials(coordinator.ca_certificate)
    with (
        grpc.secure_channel(f"localhost:{coordinator.port}", credentials) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        EnrolmentServiceStub(channel).Enrol(Node().request(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_of_another_authority_does_not_get_through_tls(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    other = StateFolder(tmp_path)
    initialise(other, ServerConfig(), coordinator.now())
    key = ec.generate_private_key(ec.SECP256R1())
    stranger = issue_client(
        load_authority(other, coordinator.now()),
        key.public_key(),
        "invitation:tax",
        "feature_holder",
        coordinator.now(),
        timedelta(days=1),
        os.urandom,
    )
    with pytest.raises(grpc.RpcError) as caught:
        coordinator.call(to_pem(stranger).decode(), key_to_pem(key).decode(), Node().request())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_taken_port_is_named(coordinator: Coordinator, folder: StateFolder) -> None:
    with pytest.raises(UnavailableError, match=f"127.0.0.1:{coordinator.port}"):
        start_grpc(f"127.0.0.1:{coordinator.port}", load_tls(folder), coordinator.store, [])
