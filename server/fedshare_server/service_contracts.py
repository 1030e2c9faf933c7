"""Contracts: what is proposed to a party, and its signed, final decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedshare.audit.statements import Approval, Rejection
from fedshare.contract.model import parse_contract
from fedshare.contract.signing import verify_decision
from fedshare.errors import ProtocolError, RefusedError
from fedshare.wire.v1 import contracts_pb2 as wire
from fedshare.wire.v1.contracts_pb2_grpc import ContractServiceServicer
from fedshare_server.interceptor import peer
from fedshare_server.service_audit import verified_statement
from fedshare_server.standing import contract_status

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    import grpc

    from fedshare_server.storage import ContractRecord, Store

__all__ = ["ContractService"]

_STATUS = {
    "proposed": wire.CONTRACT_STATUS_PROPOSED,
    "approved": wire.CONTRACT_STATUS_APPROVED,
    "rejected": wire.CONTRACT_STATUS_REJECTED,
    "expired": wire.CONTRACT_STATUS_EXPIRED,
    "revoked": wire.CONTRACT_STATUS_REVOKED,
}


@dataclass(frozen=True, slots=True)
class ContractService(ContractServiceServicer):
    """Answers ``ListContracts``, ``GetContract`` and ``SubmitDecision``.

    Attributes:
        store: where contracts and decisions are kept.
        now: the clock.
    """

    store: Store
    now: Callable[[], datetime]

    def ListContracts(  # noqa: N802  gRPC's name
        self,
        request: wire.ListContractsRequest,  # noqa: ARG002  it is empty
        context: grpc.ServicerContext,
    ) -> wire.ListContractsResponse:
        """Return the contracts that name the caller, newest first."""
        return wire.ListContractsResponse(
            contracts=[self._summary(record) for record in self.store.contracts(peer(context).common_name)]
        )

    def GetContract(  # noqa: N802  gRPC's name
        self, request: wire.GetContractRequest, context: grpc.ServicerContext
    ) -> wire.GetContractResponse:
        """Return one contract and the decisions on it.

        Raises:
            RefusedError: no contract with this digest names the caller.
        """
        record = self._contract(request.digest, peer(context).common_name)
        decisions = self.store.decisions(record.digest)
        return wire.GetContractResponse(
            contract=record.canonical,
            status=_STATUS[contract_status(record, decisions, self.now())],
            decisions=[
                wire.SignedDecision(
                    party=decision.party,
                    decision=wire.DECISION_APPROVE if decision.approved else wire.DECISION_REJECT,
                    envelope=decision.envelope,
                )
                for decision in decisions
            ],
            revocations=self.store.revocations(record.digest).values(),
        )

    def SubmitDecision(  # noqa: N802  gRPC's name
        self, request: wire.SubmitDecisionRequest, context: grpc.ServicerContext
    ) -> wire.SubmitDecisionResponse:
        """Store the caller's decision after verifying its signature.

        Raises:
            ProtocolError: the envelope or the entry is not a decision of the caller on this contract.
            RefusedError: the contract is not the caller's, is expired, names an earlier key of the caller, or
                has its decision already.
        """
        party = peer(context).common_name
        record = self._contract(request.digest, party)
        if request.decision not in {wire.DECISION_APPROVE, wire.DECISION_REJECT}:
            raise ProtocolError("expected the decision to approve or to reject, found neither")
        approved = request.decision == wire.DECISION_APPROVE
        status = contract_status(record, self.store.decisions(record.digest), self.now())
        if status == "expired":
            raise RefusedError("contract_expired", f"contract {record.digest[:12]} is past its validity")
        self._verify_signature(record, party, approved, request)
        self.store.add_decision(record.digest, party, approved, request.envelope, request.audit_entry)
        status = contract_status(record, self.store.decisions(record.digest), self.now())
        return wire.SubmitDecisionResponse(status=_STATUS[status])

    def _contract(self, digest: str, party: str) -> ContractRecord:
        record = self.store.find_contract(digest)
        if record is None or party not in record.parties:
            # The same answer for both: a stranger does not learn which contracts exist.
            raise RefusedError("unknown_contract", f"no contract with the digest {digest[:64]} names {party}")
        return record

    def _summary(self, record: ContractRecord) -> wire.ContractSummary:
        decisions = self.store.decisions(record.digest)
        return wire.ContractSummary(
            digest=record.digest,
            name=record.name,
            status=_STATUS[contract_status(record, decisions, self.now())],
            approved_by=[decision.party for decision in decisions if decision.approved],
        )

    def _verify_signature(
        self, record: ContractRecord, party: str, approved: bool, request: wire.SubmitDecisionRequest
    ) -> None:
        key = parse_contract(record.canonical).party(party).identity_key_bytes()
        enrolled = self.store.find_party(party)
        if enrolled is None or enrolled.identity_key != key:
            raise RefusedError(
                "party_key_differs",
                f"contract {record.digest[:12]} names an earlier key of {party}: have it drafted again",
            )
        signed = verify_decision(request.envelope, party, key)
        if (signed.contract_digest, signed.verdict) != (record.digest, "approve" if approved else "reject"):
            raise ProtocolError("the signed decision is about another contract, or says something else")
        logged = verified_statement(request.audit_entry, party, key)
        if (
            not isinstance(logged, Approval if approved else Rejection)
            or logged.contract_digest != record.digest
        ):
            raise ProtocolError(
                "the entry for the audit log is about another contract, or says something else"
            )
