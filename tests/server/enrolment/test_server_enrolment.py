"""Enrolment over real mutual TLS on loopback: an invitation opens it once, and nothing else does."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedshare.errors import UnavailableError
from fedshare.identity.certificates import create_request, issue_client, key_to_pem, read_client, to_pem
from fedshare.wire.v1 import enrolment_pb2 as wire
from fedshare.wire.v1.enrolment_pb2_grpc import EnrolmentServiceStub, add_EnrolmentServiceServicer_to_server
from fedshare_server.authority import create_invitation, initialise, load_authority, load_tls
from fedshare_server.config import ServerConfig, StateFolder
from fedshare_server.interceptor import CODE_METADATA
from fedshare_server.service import start_grpc
from fedshare_server.service_enrolment import ROLES, EnrolmentService
from fedshare_server.storage import InvitationRecord, Store, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fedshare.identity.certificates import Authority


@dataclass
class Coordinator:
    store: Store
    authority: Authority
    port: int
    ca_certificate: bytes
    registered: list[bytes] = field(default_factory=list)
    superlink_is_down: bool = False
    later: timedelta = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.later

    def register_node(self, key: bytes) -> None:
        if self.superlink_is_down:
            raise UnavailableError("the SuperLink cannot be reached")
        self.registered.append(key)

    def invite(
        self, party: str = "tax", role: str = "feature_holder", replaces: bool = False
    ) -> dict[str, str]:
        invitation = create_invitation(self.authority, ServerConfig(), party, role, self.now())
        self.store.add_invitation(
            InvitationRecord(invitation.key_digest, party, role, replaces, invitation.expires_at)
        )
        return json.loads(invitation.document)

    def call(self, certificate: str, key: str, request: wire.EnrolRequest) -> wire.EnrolResponse:
        credentials = grpc.ssl_channel_credentials(self.ca_certificate, key.encode(), certificate.encode())
        with grpc.secure_channel(f"localhost:{self.port}", credentials) as channel:
            return EnrolmentServiceStub(channel).Enrol(request, timeout=10)

    def enrol(self, invitation: dict[str, str], request: wire.EnrolRequest) -> wire.EnrolResponse:
        return self.call(invitation["certificate"], invitation["key"], request)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> StateFolder:
    folder = StateFolder(tmp_path_factory.mktemp("state"))
    initialise(folder, ServerConfig(), datetime.now(UTC))
    return folder


@pytest.fixture
def coordinator(folder: StateFolder, tmp_path: Path, free_port: int) -> Iterator[Coordinator]:
    coordinator = Coordinator(
        None, load_authority(folder, datetime.now(UTC)), free_port, folder.authority_files[0].read_bytes()
    )
    coordinator.store = store = open_store(f"sqlite:///{tmp_path / 'db'}", coordinator.now)
    service = EnrolmentService(
        store, coordinator.authority, ServerConfig(), coordinator.register_node, coordinator.now
    )
    server = start_grpc(
        f"127.0.0.1:{free_port}",
        load_tls(folder),
        store,
        [lambda server: add_EnrolmentServiceServicer_to_server(service, server)],
    )
    yield coordinator
    server.stop(None).wait()
    store.close()


class Node:
    def __init__(self, party: str = "tax", role: str = "feature_holder") -> None:
        self.party, self.role = party, role
        self.tls, self.identity = ec.generate_private_key(ec.SECP256R1()), Ed25519PrivateKey.generate()
        self.flower = ec.generate_private_key(ec.SECP384R1())

    def request(self, **changes: object) -> wire.EnrolRequest:
        flower = self.flower.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        request = wire.EnrolRequest(
            party=self.party,
            role=ROLES[self.role],
            certificate_request=create_request(self.tls, self.party),
            identity_key=self.identity.public_key().public_bytes_raw(),
            flower_key=flower,
        )
        for name, value in changes.items():
            setattr(request, name, value)
        request.signature = self.identity.sign(request.SerializeToString(deterministic=True))
        return request


def refusal(caught: pytest.ExceptionInfo[grpc.RpcError]) -> str:
    metadata = dict(caught.value.trailing_metadata())
    return metadata.get(CODE_METADATA, caught.value.code().name)


def test_an_invited_party_gets_a_certificate_with_its_name_and_role(coordinator: Coordinator) -> None:
    node = Node()
    response = coordinator.enrol(coordinator.invite(), node.request())
    named = read_client(response.certificate)
    assert (named.common_name, named.role) == ("tax", "feature_holder")
    assert response.certificate_authority == coordinator.ca_certificate
    assert [party.identity_key for party in response.parties] == [
        node.identity.public_key().public_bytes_raw()
    ]
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
    request.identity_key = Node().identity.public_key().public_bytes_raw()
    with pytest.raises(grpc.RpcError, match="a signature does not verify") as caught:
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
