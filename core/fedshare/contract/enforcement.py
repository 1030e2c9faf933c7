"""What a node checks against the contract it signed, before anything is computed.

Each refusal has its own code.

====================== ==========================================================================
``contract_unsigned``   a party's approval is missing
``contract_rejected``   a party rejected the contract
``contract_not_yet_valid``, ``contract_expired``
``party_unknown``       this party is not in the contract
``party_key_differs``   the contract names another identity key for this party
``role_differs``        the contract gives this party another role
``columns_differ``      the configured columns are not the contract's
``code_digest_differs`` the installed code is not the contract's
``log_differs``         the contract names another audit log, or another witness key for this party
``contract_revoked``    a party took its approval back
``configuration_differs`` a setting of the node contradicts the contract
``quota_exceeded``      a bank asks for more identifiers than agreed, over all runs
``runs_exhausted``      every run that the contract allows has begun
``scoring_not_agreed``  the contract does not say how its model may be used
``model_unknown``       this party has no part of the model that is to be used
====================== ==========================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedshare.errors import ProtocolError, RefusedError

from .signing import verify_decision

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime

    from .model import Column, Contract, Role
    from .scoring import Scoring

__all__ = [
    "verify_columns",
    "verify_log",
    "verify_model",
    "verify_not_revoked",
    "verify_party",
    "verify_quota",
    "verify_ready",
    "verify_runs",
    "verify_scoring",
    "verify_setting",
    "verify_signed",
    "verify_valid",
]


def verify_ready(
    contract: Contract,
    decisions: Mapping[str, bytes],
    *,
    party: str,
    identity_key: bytes,
    code_digest: str,
    now: datetime,
) -> None:
    """Check that ``party`` may take part in a run of ``contract`` now.

    Args:
        contract: as this party signed it.
        decisions: signed decision by party id; untrusted.
        party: this party.
        identity_key: its public key.
        code_digest: of the installed code.
        now: with its zone.

    Raises:
        RefusedError: see the module.
    """
    verify_party(contract, party, identity_key)
    verify_signed(contract, decisions, party)
    verify_valid(contract, party, now)
    if code_digest != contract.code_digest:
        raise RefusedError(
            "code_digest_differs",
            f"the contract is for code {contract.code_digest[:12]}, installed is {code_digest[:12]}: install "
            "that version, or sign a new contract",
            party=party,
        )


def verify_valid(contract: Contract, party: str, now: datetime) -> None:
    """Check that the contract is in force at ``now``, which carries its zone.

    Raises:
        RefusedError: see the module.
    """
    if now < contract.valid_from:
        raise RefusedError(
            "contract_not_yet_valid",
            f"the contract is valid from {contract.valid_from:%Y-%m-%d %H:%M} UTC",
            party=party,
        )
    if now >= contract.valid_until:
        raise RefusedError(
            "contract_expired",
            f"the contract ended at {contract.valid_until:%Y-%m-%d %H:%M} UTC",
            party=party,
        )


def verify_party(contract: Contract, party: str, identity_key: bytes, role: Role | None = None) -> None:
    """Check that the contract knows ``party`` by this key and, if given, in this role.

    Raises:
        RefusedError: see the module.
    """
    named = next((each for each in contract.parties if each.id == party), None)
    if named is None:
        raise RefusedError(
            "party_unknown", f"the contract {contract.name} does not name {party}", party=party
        )
    if named.identity_key_bytes() != identity_key:
        raise RefusedError(
            "party_key_differs",
            "the contract names another identity key for this party: enrol again and draft a new contract",
            party=party,
        )
    if role is not None and named.role != role:
        raise RefusedError(
            "role_differs",
            f"the contract has this party as {named.role}, its configuration as {role}",
            party=party,
        )


def verify_signed(contract: Contract, decisions: Mapping[str, bytes], party: str) -> None:
    """Check that every party approved this very contract.

    Raises:
        RefusedError: an approval is missing, of another contract, or a rejection.
    """
    missing, digest = [], contract.digest()
    for each in contract.parties:
        try:
            decision = verify_decision(decisions[each.id], each.id, each.identity_key_bytes())
        except (KeyError, ProtocolError):
            missing.append(each.id)
            continue
        if decision.contract_digest != digest:
            missing.append(each.id)
        elif decision.verdict != "approve":
            raise RefusedError("contract_rejected", f"{each.id} rejected the contract", party=party)
    if missing:
        raise RefusedError(
            "contract_unsigned", f"the contract lacks a valid approval of {', '.join(missing)}", party=party
        )


def verify_not_revoked(contract: Contract, party: str, revoked_by: Collection[str]) -> None:
    """Check that no party took its approval back.

    Raises:
        RefusedError: one did.
    """
    if revoked_by:
        raise RefusedError(
            "contract_revoked",
            f"{', '.join(sorted(revoked_by))} took the approval of contract {contract.name} back",
            party=party,
        )


def verify_log(
    contract: Contract, party: str, *, log_key: str, coordinator_key: str, witness_key: str
) -> None:
    """Check that the contract's audit log is the one that ``party`` knows, and counts its own witness.

    Args:
        contract: what is to be signed or run.
        party: this party.
        log_key: verifier key of the log, from enrolment.
        coordinator_key: of what the coordinator states, base64, from enrolment.
        witness_key: verifier key of this party's witness.

    Raises:
        RefusedError: it is another one.
    """
    terms = contract.log
    if (terms.key, terms.coordinator_key) != (log_key, coordinator_key):
        raise RefusedError(
            "log_differs",
            "the contract names other keys of the audit log than enrolment brought: ask the operator why",
            party=party,
        )
    if terms.witnesses.get(party) != witness_key:
        raise RefusedError(
            "log_differs",
            "the contract does not name this node's own witness key: enrol again and draft a new contract",
            party=party,
        )


def verify_columns(contract: Contract, party: str, columns: Iterable[Column]) -> None:
    """Check that the columns a node would use are the contract's, in name, kind, bins and direction.

    Raises:
        RefusedError: they differ; the message names the first difference.
    """
    agreed = {column.name: column for column in contract.party(party).columns}
    own = {column.name: column for column in columns}
    for name in sorted(agreed.keys() - own.keys()):
        raise RefusedError(
            "columns_differ", f"the contract has column {name}, the configuration does not", party=party
        )
    for name, column in agreed.items():
        for field in ("kind", "bins", "monotone"):
            if getattr(column, field) != getattr(own[name], field):
                raise RefusedError(
                    "columns_differ",
                    f"column {name}: the contract says {field} {getattr(column, field)}, the configuration "
                    f"{getattr(own[name], field)}",
                    party=party,
                )


def verify_setting(party: str, name: str, agreed: object, configured: object) -> None:
    """Check one setting of the node that the contract also fixes.

    Raises:
        RefusedError: they differ.
    """
    if agreed != configured:
        raise RefusedError(
            "configuration_differs", f"{name}: the contract says {agreed}, the node {configured}", party=party
        )


def verify_runs(contract: Contract, party: str, begun: int) -> None:
    """Check that another run may begin after ``begun`` of them.

    Raises:
        RefusedError: the contract allows no more.
    """
    if begun >= contract.max_runs:
        raise RefusedError(
            "runs_exhausted",
            f"{begun} runs have begun under the contract, which allows {contract.max_runs}: sign a new contract",
            party=party,
        )


def verify_scoring(contract: Contract, party: str) -> Scoring:
    """Return what the contract says about using its model.

    Raises:
        RefusedError: nothing.
    """
    if contract.scoring is None:
        raise RefusedError(
            "scoring_not_agreed",
            "the contract has no section `scoring`: sign one that says how the model may be used",
            party=party,
        )
    return contract.scoring


def verify_model(
    contract: Contract, party: str, run_id: int, saved: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """Return what this party kept of a training run, if it is one of this contract.

    Raises:
        RefusedError: it kept nothing, or the run was of another contract or trained nothing.
    """
    if saved is None or saved.get("contract_digest") != contract.digest() or "weights" not in saved:
        raise RefusedError(
            "model_unknown",
            f"this party keeps no completed training run {run_id} of this contract: name another run",
            party=party,
        )
    return saved


def verify_quota(contract: Contract, party: str, bank: str, asked: int, earlier: int) -> None:
    """Check how many identifiers a bank asks for, which asked for ``earlier`` of them in runs before.

    Raises:
        RefusedError: together more than the contract allows.
    """
    if earlier + asked > contract.alignment.quota:
        raise RefusedError(
            "quota_exceeded",
            f"{bank} asks for {asked} identifiers after {earlier} in earlier runs, the contract allows "
            f"{contract.alignment.quota} in all",
            party=party,
        )
