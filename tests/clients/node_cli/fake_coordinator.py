"""A coordinator of a few lines behind real mutual TLS, which tests can make lie."""

from __future__ import annotations

import json
import os
from concurrent import futures
from datetime import UTC, datetime, timedelta

import grpc
from cryptography.hazmat.primitives.asymmetric import ec

from fedshare.audit.entries import Entry
from fedshare.audit.notes import COSIGNATURE, NoteSigner
from fedshare.contract.model import Contract
from fedshare.identity.certificates import (
    create_authority,
    invitation_name,
    issue_client,
    issue_server,
    key_to_pem,
    public_key_digest,
    read_request,
    to_pem,
)
from fedshare.identity.keys import IdentityKey, encode_public_key
from fedshare.wire.v1 import audit_pb2, contracts_pb2, enrolment_pb2
from fedshare.wire.v1.audit_pb2_grpc import AuditServiceServicer, add_AuditServiceServicer_to_server
from fedshare.wire.v1.contracts_pb2_grpc import ContractServiceServicer, add_ContractServiceServicer_to_server
from fedshare.wire.v1.enrolment_pb2_grpc import (
    EnrolmentServiceServicer,
    add_EnrolmentServiceServicer_to_server,
)

DAY = timedelta(days=1)


class FakeCoordinator(EnrolmentServiceServicer, ContractServiceServicer, AuditServiceServicer):
    def __init__(self):
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.authority = create_authority(
            ec.generate_private_key(ec.SECP256R1()), "test", self.now, 30 * DAY, os.urandom
        )
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = issue_server(self.authority, key.public_key(), ["127.0.0.1"], self.now, DAY, os.urandom)
        self.ca = to_pem(self.authority.certificate)
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        add_EnrolmentServiceServicer_to_server(self, self._server)
        add_ContractServiceServicer_to_server(self, self._server)
        add_AuditServiceServicer_to_server(self, self._server)
        credentials = grpc.ssl_server_credentials([(key_to_pem(key), to_pem(certificate))], self.ca, True)
        self.address = f"127.0.0.1:{self._server.add_secure_port('127.0.0.1:0', credentials)}"
        self.enrolled = {}
        self.witnesses = {}
        self.log_key = IdentityKey.generate(os.urandom)
        self.submitted = []
        self.contracts = {}
        self.decisions = {}
        self.revocations = []
        self.failures_left = 0
        self._server.start()

    def stop(self):
        self._server.stop(0).wait()

    def invitation(self, party, role):
        key = ec.generate_private_key(ec.SECP256R1())
        name = invitation_name(party)
        certificate = issue_client(self.authority, key.public_key(), name, role, self.now, DAY, os.urandom)
        return json.dumps(
            {
                "version": 1,
                "party": party,
                "role": role,
                "grpc_address": self.address,
                "fleet_address": "127.0.0.1:1",
                "expires": (self.now + DAY).isoformat(),
                "ca_certificate": self.ca.decode(),
                "certificate": to_pem(certificate).decode(),
                "key": key_to_pem(key).decode(),
            }
        )

    def draft(self, name, columns, **changes):
        """Store a contract between the enrolled bank-a and a holder that has no node."""
        bank = self.enrolled["bank-a"]
        holder_key = IdentityKey.generate(os.urandom).public_bytes()
        contract = Contract.model_validate(
            {
                "name": name,
                "purpose": "test",
                "parties": [
                    {"id": "bank-a", "role": "label_holder", "columns": columns, **bank},
                    {
                        "id": "tax",
                        "role": "feature_holder",
                        "identity_key": encode_public_key(holder_key),
                        "flower_key": "ab" * 32,
                        "columns": [{"name": "turnover"}],
                    },
                ],
                "alignment": {"identifier": "opaque", "quota": 10},
                "valid_from": self.now.isoformat(),
                "valid_until": (self.now + DAY).isoformat(),
                "code_digest": "cd" * 32,
                "log": {
                    "key": NoteSigner("fake/log", self.log_key.signing_key).key.vkey,
                    "coordinator_key": encode_public_key(self.log_key.public_bytes()),
                    "witnesses": {
                        **self.witnesses,
                        "tax": NoteSigner("t", self.log_key.signing_key, COSIGNATURE).key.vkey,
                    },
                    "quorum": 2,
                },
                "nonce": os.urandom(32).hex(),
            }
            | changes
        )
        self.contracts[contract.digest()] = contract
        return contract

    def Enrol(self, request, context):  # noqa: N802
        if self.failures_left:
            self.failures_left -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        if request.party in self.enrolled:
            context.set_trailing_metadata((("fedshare-code", "invitation_used"),))
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "the invitation is used [invitation_used]")
        key = read_request(request.certificate_request, request.party)
        role = enrolment_pb2.Role.Name(request.role).removeprefix("ROLE_").lower()
        certificate = issue_client(self.authority, key, request.party, role, self.now, DAY, os.urandom)
        from cryptography.hazmat.primitives.serialization import load_ssh_public_key  # noqa: PLC0415

        self.enrolled[request.party] = {
            "identity_key": encode_public_key(request.identity_key),
            "flower_key": public_key_digest(load_ssh_public_key(request.flower_key)),
        }
        self.witnesses[request.party] = Entry.parse(request.audit_entry).statement.witness_key
        own = enrolment_pb2.EnrolledParty(
            party=request.party, role=request.role, identity_key=request.identity_key
        )
        return enrolment_pb2.EnrolResponse(
            certificate=to_pem(certificate),
            certificate_authority=self.ca,
            parties=[own],
            log_key=NoteSigner("fake/log", self.log_key.signing_key).key.vkey,
            coordinator_key=self.log_key.public_bytes(),
        )

    def ListContracts(self, request, context):  # noqa: N802
        summaries = [
            contracts_pb2.ContractSummary(digest=digest, name=contract.name, status=1)
            for digest, contract in self.contracts.items()
        ]
        return contracts_pb2.ListContractsResponse(contracts=summaries)

    def GetContract(self, request, context):  # noqa: N802
        decisions = [
            contracts_pb2.SignedDecision(party="bank-a", decision=1, envelope=envelope)
            for digest, envelope in self.decisions.items()
            if digest == request.digest
        ]
        contract = self.contracts[request.digest]
        return contracts_pb2.GetContractResponse(
            contract=contract.canonical(), status=1, decisions=decisions, revocations=self.revocations
        )

    def SubmitDecision(self, request, context):  # noqa: N802
        if request.digest in self.decisions:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "decided already")
        self.decisions[request.digest] = request.envelope
        self.submitted.append(Entry.parse(request.audit_entry).statement)
        return contracts_pb2.SubmitDecisionResponse(status=contracts_pb2.CONTRACT_STATUS_PROPOSED)

    def SubmitEntries(self, request, context):  # noqa: N802
        said = [Entry.parse(entry).statement for entry in request.entries]
        self.submitted += said
        self.revocations += [
            entry for entry, each in zip(request.entries, said, strict=True) if each.kind == "revocation"
        ]
        return audit_pb2.SubmitEntriesResponse(indices=range(len(request.entries)))
