"""A coordinator and the nodes of its federation over real mutual TLS on loopback, without Flower.

Everything of the audit log is real: the database, the notary, the gRPC service, enrolment, contracts, witnesses,
gates and trails, each party in a state folder of its own. A test makes the coordinator lie in one line.
"""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedshare.audit.policy import Policy
from fedshare.audit.storage import FolderSource
from fedshare.wire.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server
from fedshare.wire.v1.contracts_pb2_grpc import add_ContractServiceServicer_to_server
from fedshare.wire.v1.enrolment_pb2_grpc import add_EnrolmentServiceServicer_to_server
from fedshare_clients.auditor.verify import verify_log
from fedshare_clients.auditor.witness import Witness
from fedshare_clients.node.audit_client import AuditClient
from fedshare_clients.node.config import parse_config
from fedshare_clients.node.contracts import ContractClient, decide, revoke, tls_identity
from fedshare_clients.node.enrolment import enrol, read_invitation
from fedshare_clients.node.gate import PhaseGate
from fedshare_clients.node.state import NodeState
from fedshare_clients.node.trail import Trail
from fedshare_clients.node.witness_link import WitnessLink
from fedshare_server.authority import create_invitation, initialise, load_authority, load_tls
from fedshare_server.config import ServerConfig, StateFolder
from fedshare_server.drafting import complete
from fedshare_server.log_keys import LogKeys
from fedshare_server.notary import Notary
from fedshare_server.service import start_grpc
from fedshare_server.service_audit import AuditService
from fedshare_server.service_contracts import ContractService
from fedshare_server.service_enrolment import EnrolmentService
from fedshare_server.storage import InvitationRecord, Store, open_store

if TYPE_CHECKING:
    from fedshare.audit.notes import NoteKey
    from fedshare.audit.publication import WitnessClient
    from fedshare.contract.model import Contract
    from fedshare_clients.auditor.verify import Report

PARTIES = {"bank": "label_holder", "court": "feature_holder", "tax": "feature_holder"}
CODE = "c0" * 32
RUN = 2**64 - 3


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Party:
    """One institution: its state, and its parts of the audit log while it is online."""

    name: str
    folder: Path
    address: str
    stack: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        label = "\n  label: bad" if PARTIES[self.name] == "label_holder" else ""
        text = (
            f"party: {self.name}\nrole: {PARTIES[self.name]}\n"
            f'coordinator: {{address: "{self.address}", fleet: "127.0.0.1:1"}}\n'
            "limits: {connect_timeout_seconds: 5}\n"
            "data:\n  source: csv\n  path: rows.csv\n  identifier: code\n  identifier_kind: opaque\n"
            f"  columns: {{x: {{kind: numeric}}}}{label}\n"
        )
        self.folder.mkdir()
        (self.folder / "node.yaml").write_text(text)
        self.config = parse_config(text, self.folder / "node.yaml")
        self.state = NodeState(self.config.state)
        self.state.create(PARTIES[self.name], os.urandom)

    @property
    def client(self) -> AuditClient:
        return AuditClient(self.address, tls_identity(self.config, self.state))

    @property
    def gate(self) -> PhaseGate:
        return PhaseGate(self.client, self.state, self.name)

    def approve(self, contract: Contract) -> None:
        client = ContractClient(self.config, self.state)
        fetched = client.fetch(contract.digest())
        decide(fetched, self.config, self.state, client, verdict="approve", reason="", now=now())

    def revoke(self, contract: Contract) -> None:
        revoke(contract, self.config, self.state, self.client, reason="changed our mind", now=now())

    def online(self, log_key: NoteKey) -> None:
        """Be a witness, and have a trail."""
        signer = self.state.witness_signer(self.name)
        witness = self.stack.enter_context(
            Witness(self.state.witness_folder, signer, [log_key], lambda: now().timestamp())
        )
        self.stack.enter_context(WitnessLink(self.address, tls_identity(self.config, self.state), witness))
        self.trail = self.stack.enter_context(
            Trail(
                self.name,
                self.state.identity(),
                self.state.private_log_folder,
                self.state.private_log_signer(self.name),
                self.client.submit,
                lambda: now().timestamp(),
            )
        )

    def offline(self) -> None:
        self.stack.close()


class World:
    """The federation. ``stop`` and ``start`` are the coordinator's; ``state`` is what an operator could copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = StateFolder(folder / "coordinator")
        self.state.path.mkdir()
        initialise(self.state, ServerConfig(), now())
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.keys = LogKeys.load(self.state)
        self.outside: dict[str, str] = {}
        self.outside_clients: dict[str, WitnessClient] = {}
        self.ended: list[tuple[str, str]] = []
        self.start()
        self.parties = {name: Party(name, folder / name, f"localhost:{self.port}") for name in PARTIES}

    def start(self, state: StateFolder | None = None) -> None:
        """Serve, from a copy of the state if it is given."""
        state = state or self.state
        self.stack = ExitStack()
        self.store: Store = open_store(f"sqlite:///{state.path / 'fedshare.db'}")
        self.stack.callback(self.store.close)
        self.notary = self.stack.enter_context(
            Notary(state.log_folder, self.keys, self.store, self.outside_clients)
        )
        enrolment = EnrolmentService(
            self.store, load_authority(self.state, now()), ServerConfig(), self.keys, lambda _: None, now
        )
        audit = AuditService(
            self.store, self.notary, lambda digest, reason: self.ended.append((digest, reason))
        )
        contracts = ContractService(self.store, now)
        server = start_grpc(
            f"127.0.0.1:{self.port}",
            load_tls(self.state),
            self.store,
            [
                lambda server: add_EnrolmentServiceServicer_to_server(enrolment, server),
                lambda server: add_ContractServiceServicer_to_server(contracts, server),
                lambda server: add_AuditServiceServicer_to_server(audit, server),
            ],
        )
        self.stack.callback(lambda: server.stop(None).wait())

    def stop(self) -> None:
        self.stack.close()

    def copy_state(self, name: str) -> StateFolder:
        """Return a copy of what the coordinator has now, as a backup would be."""
        self.stop()
        copy = StateFolder(Path(shutil.copytree(self.state.path, self.folder / name)))
        self.start()
        return copy

    def close(self) -> None:
        for party in self.parties.values():
            party.offline()
        self.stop()

    def enrol(self) -> None:
        for party in self.parties.values():
            invitation = create_invitation(
                load_authority(self.state, now()), ServerConfig(), party.name, PARTIES[party.name], now()
            )
            self.store.add_invitation(
                InvitationRecord(
                    invitation.key_digest, party.name, PARTIES[party.name], False, invitation.expires_at
                )
            )
            file = party.folder / "invitation.json"
            file.write_bytes(invitation.document)
            enrol(read_invitation(file), party.config, party.state)

    def draft(self, **changes: Any) -> Contract:
        document = {
            "name": "credit",
            "purpose": "a test",
            "parties": [
                {"id": name, "role": role, "columns": [{"name": "x"}]} for name, role in PARTIES.items()
            ],
            "alignment": {"identifier": "opaque", "quota": 10},
            **changes,
        }
        enrolled = {party.party: party for party in self.store.parties()}
        contract = complete(document, enrolled, CODE, self.keys, self.outside, now(), os.urandom)
        self.store.add_contract(contract.digest(), contract.name, contract.canonical(), list(PARTIES))
        return contract

    def agree(self) -> Contract:
        contract = self.draft()
        for party in self.parties.values():
            party.approve(contract)
        return contract

    def online(self) -> None:
        for party in self.parties.values():
            party.online(self.keys.signer.key)

    def ready(self) -> Contract:
        """Enrol, agree, and bring every node online."""
        self.enrol()
        contract = self.agree()
        self.online()
        return contract

    def open_phase(self, contract: Contract, phase: str = "hello", run_id: int = RUN) -> None:
        self.store.open_run(run_id, contract.digest())
        self.store.set_phase(run_id, phase)

    def await_logged(self) -> None:
        """Return when everything that was said is in the log."""
        pending = [record.number for record in self.store.pending_entries(1000)]
        self.notary.await_places(pending, 20)

    def verify(self, contract: Contract, folder: Path | None = None) -> Report:
        policy = Policy.parse(contract.log.policy_text().encode())
        return verify_log(FolderSource(folder or self.state.log_folder), policy)
