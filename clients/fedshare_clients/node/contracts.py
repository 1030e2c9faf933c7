"""Contracts at the node: fetched from the coordinator, checked against this node's own configuration, signed.

The coordinator stores contracts and is believed in nothing: a contract must have the digest that was asked
for, decisions count only with their signatures, and a node approves only what its own ``node.yaml`` and keys
say too.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from fedshare.audit.entries import Entry, EntrySigner, EntryVerifier
from fedshare.audit.statements import Approval, Rejection, Revocation
from fedshare.contract.enforcement import verify_columns, verify_log, verify_party, verify_setting
from fedshare.contract.model import Column, parse_contract
from fedshare.contract.signing import Decision, sign_decision, verify_decision
from fedshare.errors import ConfigError, ProtocolError, RefusedError
from fedshare.identity.certificates import public_key_digest
from fedshare.wire.v1 import contracts_pb2 as wire
from fedshare.wire.v1.contracts_pb2_grpc import ContractServiceStub

from .data.loading import roster_digest
from .enrolment import TlsIdentity, connect, with_retries
from .privacy import verify_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from fedshare.contract.model import Contract
    from fedshare.contract.signing import Verdict

    from .audit_client import AuditClient
    from .config import NodeConfig
    from .state import NodeState

__all__ = [
    "ContractClient",
    "ContractSummary",
    "FetchedContract",
    "decide",
    "own_columns",
    "revoke",
    "tls_identity",
    "verify_approvable",
    "verify_own_part",
]

T = TypeVar("T")
_CALL_SECONDS = 20.0
_MIN_DIGEST_DIGITS = 8
# Of the reason in an entry of the audit log.
_MAX_REASON = 500


@dataclass(frozen=True, slots=True)
class ContractSummary:
    """One line about a contract, in the coordinator's word."""

    digest: str
    name: str
    status: str
    approved_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FetchedContract:
    """A contract with the digest that was asked for.

    Attributes:
        contract: parsed.
        status: where it stands, in the coordinator's word.
        decisions: signed decision by party id; untrusted until verified against the keys in the contract.
        revocations: entries by which parties took their approval back; untrusted likewise.
    """

    contract: Contract
    status: str
    decisions: Mapping[str, bytes]
    revocations: tuple[bytes, ...] = ()

    def verdicts(self) -> dict[str, str]:
        """Return what each party has validly said, by party id; "no decision" if nothing."""
        found = {}
        for party in self.contract.parties:
            found[party.id] = "no decision"
            envelope = self.decisions.get(party.id)
            if envelope is None:
                continue
            try:
                decision = verify_decision(envelope, party.id, party.identity_key_bytes())
            except ProtocolError:
                found[party.id] = "a decision whose signature does not verify"
                continue
            if decision.contract_digest == self.contract.digest():
                found[party.id] = decision.verdict
        return found | dict.fromkeys(self.revoked_by(), "revoke")

    def revoked_by(self) -> list[str]:
        """Return the parties that have validly taken their approval back."""
        keys = {party.id: party.identity_key_bytes() for party in self.contract.parties}
        found = []
        for data in self.revocations:
            with suppress(ProtocolError):
                entry = Entry.parse(data)
                said = entry.statement
                if isinstance(said, Revocation) and said.contract_digest == self.contract.digest():
                    EntryVerifier().verify(entry, keys.get(said.issuer, b""))
                    found.append(said.issuer)
        return found


class ContractClient:
    """Talks to the coordinator's contracts as this party; every method may raise ``UnavailableError``."""

    def __init__(self, config: NodeConfig, state: NodeState) -> None:
        self._address = config.coordinator.address
        self._tls = tls_identity(config, state)
        self._timeout_seconds = config.limits.connect_timeout_seconds

    def summaries(self) -> tuple[ContractSummary, ...]:
        """Return the contracts that name this party, newest first."""
        response = self._call(
            lambda stub: stub.ListContracts(wire.ListContractsRequest(), timeout=_CALL_SECONDS)
        )
        return tuple(
            ContractSummary(each.digest, each.name, _status(each.status), tuple(each.approved_by))
            for each in response.contracts
        )

    def find(self, name: str) -> FetchedContract:
        """Return the contract with this name, this digest, or a digest that begins so (8 digits or more).

        Raises:
            ConfigError: none or more than one is meant.
            ProtocolError: the coordinator sent another contract.
        """
        found = [
            each.digest
            for each in self.summaries()
            if name == each.name or (len(name) >= _MIN_DIGEST_DIGITS and each.digest.startswith(name))
        ]
        if not found:
            raise ConfigError(
                f"no contract called {name} names this party; see 'fedshare-node contract list'"
            )
        if len(found) > 1:
            digests = ", ".join(digest[:12] for digest in found)
            raise ConfigError(f"{len(found)} contracts are called {name}; give the digest instead: {digests}")
        return self.fetch(found[0])

    def fetch(self, digest: str) -> FetchedContract:
        """Return the contract with this digest.

        Raises:
            ProtocolError: the coordinator sent another contract.
            RefusedError: no contract with this digest names this party.
        """
        response = self._call(
            lambda stub: stub.GetContract(wire.GetContractRequest(digest=digest), timeout=_CALL_SECONDS)
        )
        contract = parse_contract(response.contract)
        if contract.digest() != digest:
            raise ProtocolError(
                f"asked for contract {digest[:12]}, found {contract.digest()[:12]}; report it to the operator"
            )
        decisions = {each.party: each.envelope for each in response.decisions}
        return FetchedContract(contract, _status(response.status), decisions, tuple(response.revocations))

    def submit(self, digest: str, verdict: Verdict, envelope: bytes, entry: bytes) -> str:
        """Hand in this party's signed decision and return where the contract stands now.

        Raises:
            RefusedError: the contract has expired or has another decision of this party.
        """
        decision = wire.DECISION_APPROVE if verdict == "approve" else wire.DECISION_REJECT
        request = wire.SubmitDecisionRequest(
            digest=digest, decision=decision, envelope=envelope, audit_entry=entry
        )
        try:
            response = self._call(lambda stub: stub.SubmitDecision(request, timeout=_CALL_SECONDS))
        except RefusedError:
            # An earlier try may have arrived although its answer was lost.
            fetched = self.fetch(digest)
            if envelope not in fetched.decisions.values():
                raise
            return fetched.status
        return _status(response.status)

    def _call(self, call: Callable[[ContractServiceStub], T]) -> T:
        with connect(self._address, self._tls) as channel:
            stub = ContractServiceStub(channel)
            return with_retries(lambda: call(stub), self._address, self._timeout_seconds)


def tls_identity(config: NodeConfig, state: NodeState) -> TlsIdentity:
    """Return this node's side of mutual TLS.

    Raises:
        ConfigError: the node is not enrolled.
    """
    certificate = state.certificate_pem()
    try:
        authority = config.coordinator.ca_certificate.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{config.coordinator.ca_certificate}: cannot be read ({error.strerror})"
        ) from error
    return TlsIdentity(authority, certificate, state.tls_key_pem())


def own_columns(config: NodeConfig) -> tuple[Column, ...]:
    """Return what ``node.yaml`` lets contracts use, as a contract would say it."""
    return tuple(
        Column(name=name, kind=column.kind, bins=column.bins, monotone=column.monotone)
        for name, column in config.data.columns.items()
    )


def verify_own_part(contract: Contract, config: NodeConfig, state: NodeState) -> None:
    """Check that what a contract says of this party is what its own configuration and keys say.

    Raises:
        DataError: the roster cannot be read.
        RefusedError: it is not; ``fedshare.contract.enforcement`` lists the codes.
    """
    party, data = config.party, config.data
    verify_party(contract, party, state.identity().public_bytes(), config.role)
    if contract.party(party).flower_key != public_key_digest(state.flower_public_key()):
        raise RefusedError(
            "party_key_differs",
            "the contract names another Flower key for this party: enrol again and draft a new contract",
            party=party,
        )
    trust = state.log_trust()
    verify_log(
        contract,
        party,
        log_key=trust.log_key,
        coordinator_key=trust.coordinator_key,
        witness_key=state.witness_signer(party).key.vkey,
    )
    verify_columns(contract, party, own_columns(config))
    alignment = contract.alignment
    verify_setting(party, "identifier_kind", alignment.identifier, data.identifier_kind)
    if alignment.identifier == "uscc":
        verify_setting(party, "check_digits", alignment.check_digits, data.check_digits)
    if config.role == "label_holder" and contract.portfolio is not None:
        verify_setting(party, "portfolio", "given", "given" if config.portfolio else "missing")
    if config.role == "feature_holder":
        found = None if data.roster is None else roster_digest(data.roster, party=party)
        verify_setting(party, "roster", alignment.roster_digest, found)


def verify_approvable(contract: Contract, config: NodeConfig, state: NodeState) -> None:
    """Check that a contract is this party's own, and that its own limits would not refuse every run of it.

    Raises:
        DataError: as ``verify_own_part``.
        RefusedError: as ``verify_own_part``; ``privacy_budget_exceeded`` or ``noise_missing``.
    """
    verify_own_part(contract, config, state)
    if config.role == "label_holder":
        verify_limits(contract, config.privacy, state.privacy_spent(), party=config.party)


def decide(
    fetched: FetchedContract,
    config: NodeConfig,
    state: NodeState,
    client: ContractClient,
    *,
    verdict: Verdict,
    reason: str,
    now: datetime,
) -> str:
    """Sign this party's decision, remember it, hand it in, and return where the contract stands.

    Asking again hands in the same bytes again.

    Raises:
        ConfigError: this party has decided otherwise, or taken its approval back.
        RefusedError: an approval that contradicts this node's own configuration, limits, keys or clock.
    """
    contract = fetched.contract
    digest = contract.digest()
    if state.revocation(digest) is not None:
        raise ConfigError(
            f"contract {digest[:12]}: this party has taken its approval back, which is final; draft a new contract"
        )
    if verdict == "approve":
        verify_approvable(contract, config, state)
        if now >= contract.valid_until:
            raise RefusedError(
                "contract_expired",
                f"it ended at {contract.valid_until:%Y-%m-%d %H:%M} UTC",
                party=config.party,
            )
    state.save_contract(contract, now)
    decision = Decision(contract_digest=digest, party=config.party, verdict=verdict, reason=reason, time=now)
    about = {"issuer": config.party, "issued_at": int(now.timestamp()), "contract_digest": digest}
    said = (
        Approval.model_validate(about)
        if verdict == "approve"
        else Rejection.model_validate({**about, "reason": reason[:_MAX_REASON]})
    )
    entry = EntrySigner(state.identity()).sign(said)
    state.save_decision(digest, verdict, sign_decision(decision, state.identity()), entry, now)
    stored = state.decision(digest)
    if stored is None:
        raise ConfigError("the decision was not stored; try again")
    return client.submit(digest, verdict, stored.envelope, stored.entry)


def revoke(
    contract: Contract,
    config: NodeConfig,
    state: NodeState,
    client: AuditClient,
    *,
    reason: str,
    now: datetime,
) -> None:
    """Take this party's approval back: from here on this node refuses, and then everyone else is told.

    Asking again hands in the same bytes again.

    Raises:
        ConfigError: this party has not approved the contract.
        RefusedError: the coordinator does not know of the approval.
        UnavailableError: the coordinator cannot be told; this node refuses all the same.
    """
    digest = contract.digest()
    if state.approved_contract(digest) is None:
        raise ConfigError(
            f"this party has not approved contract {digest[:12]}: there is nothing to take back"
        )
    said = Revocation(
        issuer=config.party,
        issued_at=int(now.timestamp()),
        contract_digest=digest,
        reason=reason[:_MAX_REASON],
    )
    client.submit([state.save_revocation(digest, EntrySigner(state.identity()).sign(said))])


def _status(number: wire.ContractStatus.ValueType) -> str:
    return wire.ContractStatus.Name(number).removeprefix("CONTRACT_STATUS_").lower()
