"""A coordinator's gRPC port on loopback and nodes that speak to it, without Flower."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedshare.audit.entries import EntrySigner
from fedshare.audit.notes import COSIGNATURE, NoteSigner
from fedshare.audit.statements import Approval, Enrolment, Rejection
from fedshare.contract.signing import Decision, sign_decision
from fedshare.errors import UnavailableError
from fedshare.identity.certificates import create_request, key_to_pem
from fedshare.identity.keys import IdentityKey, encode_public_key
from fedshare.wire.v1 import contracts_pb2, enrolment_pb2
from fedshare.wire.v1.contracts_pb2_grpc import ContractServiceStub, add_ContractServiceServicer_to_server
from fedshare.wire.v1.enrolment_pb2_grpc import EnrolmentServiceStub, add_EnrolmentServiceServicer_to_server
from fedshare_server.authority import create_invitation, load_authority, load_tls
from fedshare_server.config import ServerConfig, StateFolder
from fedshare_server.interceptor import CODE_METADATA
from fedshare_server.log_keys import LogKeys
from fedshare_server.service import start_grpc
from fedshare_server.service_contracts import ContractService
from fedshare_server.service_enrolment import ROLES, EnrolmentService
from fedshare_server.storage import InvitationRecord, Store, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

    from fedshare.identity.certificates import Authority


@dataclass
class Coordinator:
    store: Store
    authority: Authority
    log_keys: LogKeys
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

    def admit(self, node: Node) -> Node:
        """Invite and enrol ``node``."""
        response = self.enrol(self.invite(node.party, node.role), node.request())
        node.certificate = response.certificate
        return node

    @contextmanager
    def contracts(self, node: Node) -> Iterator[ContractServiceStub]:
        """The contracts service as ``node`` sees it."""
        credentials = grpc.ssl_channel_credentials(
            self.ca_certificate, key_to_pem(node.tls), node.certificate
        )
        with grpc.secure_channel(f"localhost:{self.port}", credentials) as channel:
            yield ContractServiceStub(channel)

    def decide(self, node: Node, digest: str, **changes: object) -> contracts_pb2.SubmitDecisionResponse:
        with self.contracts(node) as contracts:
            return contracts.SubmitDecision(node.decision(digest, **changes), timeout=10)

    def call(
        self, certificate: str, key: str, request: enrolment_pb2.EnrolRequest
    ) -> enrolment_pb2.EnrolResponse:
        credentials = grpc.ssl_channel_credentials(self.ca_certificate, key.encode(), certificate.encode())
        with grpc.secure_channel(f"localhost:{self.port}", credentials) as channel:
            return EnrolmentServiceStub(channel).Enrol(request, timeout=10)

    def enrol(
        self, invitation: dict[str, str], request: enrolment_pb2.EnrolRequest
    ) -> enrolment_pb2.EnrolResponse:
        return self.call(invitation["certificate"], invitation["key"], request)


@contextmanager
def serving(folder: StateFolder, database: Path, port: int) -> Iterator[Coordinator]:
    """Serve enrolment and contracts on ``port`` of loopback."""
    authority = load_authority(folder, datetime.now(UTC))
    coordinator = Coordinator(
        None, authority, LogKeys.load(folder), port, folder.authority_files[0].read_bytes()
    )
    coordinator.store = store = open_store(f"sqlite:///{database}", coordinator.now)
    enrolment = EnrolmentService(
        store,
        authority,
        ServerConfig(),
        LogKeys.load(folder),
        coordinator.register_node,
        coordinator.now,
    )
    contracts = ContractService(store, coordinator.now)
    server = start_grpc(
        f"127.0.0.1:{port}",
        load_tls(folder),
        store,
        [
            lambda server: add_EnrolmentServiceServicer_to_server(enrolment, server),
            lambda server: add_ContractServiceServicer_to_server(contracts, server),
        ],
    )
    try:
        yield coordinator
    finally:
        server.stop(None).wait()
        store.close()


class Node:
    def __init__(self, party: str = "tax", role: str = "feature_holder") -> None:
        self.party, self.role = party, role
        self.tls, self.identity = ec.generate_private_key(ec.SECP256R1()), IdentityKey.generate(os.urandom)
        self.flower = ec.generate_private_key(ec.SECP384R1())
        self.witness = NoteSigner(
            f"{party}/witness", IdentityKey.generate(os.urandom).signing_key, COSIGNATURE
        )
        self.certificate = b""

    def request(self, **changes: object) -> enrolment_pb2.EnrolRequest:
        flower = self.flower.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        request = enrolment_pb2.EnrolRequest(
            party=self.party,
            role=ROLES[self.role],
            certificate_request=create_request(self.tls, self.party),
            identity_key=self.identity.public_bytes(),
            flower_key=flower,
        )
        for name, value in changes.items():
            setattr(request, name, value)
        if "audit_entry" not in changes:
            request.audit_entry = self.enrolment(request)
        request.signature = self.identity.sign(request.SerializeToString(deterministic=True))
        return request

    def enrolment(self, request: enrolment_pb2.EnrolRequest, **changes: object) -> bytes:
        """The entry with which this node enters the audit log."""
        fields = {
            "issuer": self.party,
            "issued_at": int(datetime.now(UTC).timestamp()),
            "role": self.role,
            "identity_key": encode_public_key(request.identity_key),
            "flower_key": request.flower_key.decode(),
            "witness_key": self.witness.key.vkey,
        }
        return EntrySigner(self.identity).sign(Enrolment(**fields | changes))

    def decision(
        self, digest: str, verdict: str = "approve", **changes: object
    ) -> contracts_pb2.SubmitDecisionRequest:
        signed = {
            "contract_digest": digest,
            "party": self.party,
            "verdict": verdict,
            "time": datetime.now(UTC),
        }
        return contracts_pb2.SubmitDecisionRequest(
            digest=digest,
            decision=contracts_pb2.DECISION_APPROVE
            if verdict == "approve"
            else contracts_pb2.DECISION_REJECT,
            envelope=sign_decision(Decision.model_validate(signed | changes), self.identity),
            audit_entry=EntrySigner(self.identity).sign(
                (Approval if verdict == "approve" else Rejection)(
                    issuer=self.party, issued_at=int(datetime.now(UTC).timestamp()), contract_digest=digest
                )
            ),
        )


def refusal(caught: pytest.ExceptionInfo[grpc.RpcError]) -> str:
    metadata = dict(caught.value.trailing_metadata())
    return metadata.get(CODE_METADATA, caught.value.code().name)
