"""What the commands about consents and profiles do; ``cli`` parses and prints."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.json_format import MessageToDict

from fedshare.credit.identifiers import normalise_identifiers
from fedshare.errors import ConfigError, ProtocolError, RefusedError, UnavailableError
from fedshare.scoring.consent import (
    Consent,
    Withdrawal,
    consent_digest,
    sign_consent,
    sign_withdrawal,
    verify_consent,
)
from fedshare.wire.v1 import scoring_pb2 as wire
from fedshare.wire.v1.scoring_pb2_grpc import ScoreServiceStub

from .cli_scores import own_channel
from .consents import ConsentDesk, consent_key
from .score_wire import answer_from_wire, not_served
from .state import write_private

if TYPE_CHECKING:
    from pathlib import Path

    from fedshare.contract.model import Contract

    from .config import NodeConfig
    from .state import NodeState

__all__ = ["apply_withdrawal", "grant", "show_profile", "withdraw"]


def grant(
    config: NodeConfig,
    state: NodeState,
    contract: str,
    bank: str,
    enterprise: str,
    evidence: Path,
    until: datetime,
    out: Path,
) -> tuple[dict[str, Any], str]:
    """Write an enterprise's consent, signed by this node's identity key; return what to print.

    Raises:
        ConfigError: the contract is unknown here, has no such bank, the consent would be over already, or the
            evidence cannot be read.
        RefusedError: the contract shows no profiles, or names another key for consents.
    """
    agreed = state.find_approved(contract)
    _verify_own_key(agreed, state, config.party)
    if agreed.party(bank).role != "label_holder":
        raise ConfigError(
            f"consents are given to a bank, a label_holder: {bank} is none in contract {contract}"
        )
    now = datetime.now(UTC).replace(microsecond=0)
    if until <= now:
        raise ConfigError(
            f"--until {until:%Y-%m-%d}: such a consent is over already; expected a day from tomorrow on"
        )
    (name,) = _normalised(agreed, enterprise, config.party)
    consent = Consent(
        contract_digest=agreed.digest(),
        bank=bank,
        enterprise=name,
        evidence=hashlib.sha256(_read(evidence)).hexdigest(),
        given_at=now,
        expires_at=until,
        nonce=os.urandom(32).hex(),
    )
    write_private(out, sign_consent(consent, state.identity()))
    digest = consent_digest(consent)
    text = f"consent {digest[:12]} to {bank} until {until:%Y-%m-%d} is in {out}; keep the evidence"
    return {"consent": digest, "bank": bank, "expires_at": until.isoformat(), "out": str(out)}, text


def withdraw(
    config: NodeConfig, state: NodeState, contract: str, consent_file: Path, out: Path
) -> tuple[dict[str, Any], str]:
    """Take a consent back: sign it, note it here, tell every holder, and write it for whoever was not reached.

    Raises:
        ConfigError: the contract is unknown here, or the file cannot be read.
        ProtocolError: the file is no consent under the contract.
        RefusedError: the contract names another key for consents.
    """
    agreed = state.find_approved(contract)
    _verify_own_key(agreed, state, config.party)
    consent = verify_consent(_read(consent_file), consent_key(agreed))
    digest, now = consent_digest(consent), datetime.now(UTC).replace(microsecond=0)
    withdrawal = Withdrawal(
        contract_digest=agreed.digest(), consent=digest, enterprise=consent.enterprise, withdrawn_at=now
    )
    envelope = sign_withdrawal(withdrawal, state.identity())
    write_private(out, envelope)
    return _apply(config, state, agreed, envelope, out)


def apply_withdrawal(
    config: NodeConfig, state: NodeState, contract: str, withdrawal: Path
) -> tuple[dict[str, Any], str]:
    """Note a withdrawal that was signed elsewhere, and tell every holder if this is a bank. Raises as ``withdraw``."""
    return _apply(config, state, state.find_approved(contract), _read(withdrawal), withdrawal)


def show_profile(
    config: NodeConfig, state: NodeState, contract: str, consent_file: Path, out: Path
) -> tuple[dict[str, Any], str]:
    """Write the profile of the enterprise that consented, as the running node assembles it; return what to print.

    Raises:
        ConfigError: this node has no score service, or does not serve the contract.
        ProtocolError: the file is no consent.
        RefusedError: the consent does not count.
        UnavailableError: there is no serving run, or a holder does not answer.
    """
    request = wire.ShowProfileRequest(contract=contract, consent=_read(consent_file))
    with own_channel(config, state) as channel:
        try:
            response = ScoreServiceStub(channel).ShowProfile(request)
        except grpc.RpcError as error:
            raise _error(error) from error
    shown = MessageToDict(
        response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    # Not the message's own JSON, which has whole points as text.
    document = {"answer": asdict(answer_from_wire(response.answer)), "holders": shown["holders"]}
    write_private(out, json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n")
    lines = [f"profile of {response.answer.enterprise}: {response.answer.status} by the model; in {out}"]
    lines += [
        f"  {name}: {f'refused ({part.refusal})' if part.refusal else 'known' if part.known else 'not known'}"
        for name, part in sorted(response.holders.items())
    ]
    return document, "\n".join(lines)


def _apply(
    config: NodeConfig, state: NodeState, contract: Contract, envelope: bytes, file: Path
) -> tuple[dict[str, Any], str]:
    withdrawal = ConsentDesk(contract, state, lambda: datetime.now(UTC)).withdraw(envelope)
    reached = "noted here; the enterprise enters no training under the contract from now on"
    told = False
    if config.scoring is None:
        reached = (
            f"{reached}; NOBODY ELSE was told: send {file} to the banks, whose nodes tell every holder while they serve, "
            "and otherwise to the holders (`fedshare-node consent apply`)"
        )
    else:
        try:
            with own_channel(config, state) as channel:
                request = wire.WithdrawConsentRequest(contract=contract.digest(), withdrawal=envelope)
                ScoreServiceStub(channel).WithdrawConsent(request)
            told, reached = True, f"{reached}, and every holder was told"
        except grpc.RpcError as error:
            reached = f"{reached}; NO HOLDER was told ({_error(error)}): send them {file}"
    document = {"consent": withdrawal.consent, "holders_told": told, "file": str(file)}
    return document, f"consent {withdrawal.consent[:12]} is withdrawn: {reached}"


def _verify_own_key(contract: Contract, state: NodeState, party: str) -> None:
    if consent_key(contract, party) != state.identity().public_bytes():
        raise RefusedError(
            "consent_key_differs",
            "the contract names another key for consents: whoever holds that key signs them",
            party=party,
        )


def _normalised(contract: Contract, enterprise: str, party: str) -> list[str]:
    alignment = contract.alignment
    names = normalise_identifiers(
        [enterprise],
        alignment.identifier,
        check_digits=alignment.check_digits,
        party=party,
        source="the command line",
        field="--enterprise",
    )
    return [name.decode() for name in names]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error


def _error(error: grpc.RpcError) -> Exception:
    details = error.details() or ""
    match error.code():
        case grpc.StatusCode.PERMISSION_DENIED:
            code = details.rpartition("[")[2].rstrip("]")
            return RefusedError(code, details.rpartition(" [")[0])
        case grpc.StatusCode.FAILED_PRECONDITION:
            return not_served(details)
        case grpc.StatusCode.INVALID_ARGUMENT:
            return ProtocolError(details)
        case _:
            return UnavailableError(
                f"the score service does not answer ({error.code().name}: {details}): `fedshare-node run` must be running, "
                "and a serving run must have begun"
            )
