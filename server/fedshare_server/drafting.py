"""From what an author writes to a contract that parties can sign: keys, code digest and nonce filled in.

Nothing else is changed, and nothing that enrolment knows may be written by hand: a key in the file is
refused, so that a contract never names a key that its institution did not bring itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fedshare.contract.log import least_quorum
from fedshare.contract.model import parse_contract
from fedshare.errors import ConfigError
from fedshare.identity.certificates import public_key_digest, read_public_key
from fedshare.identity.keys import encode_public_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from fedshare.contract.model import Contract
    from fedshare_server.log_keys import LogKeys
    from fedshare_server.storage import PartyRecord

__all__ = ["DEFAULT_VALIDITY", "complete"]

DEFAULT_VALIDITY = timedelta(days=90)
"""How long a contract is valid if its author does not say; it begins with the draft."""

_FROM_ENROLMENT = ("identity_key", "flower_key")


def complete(
    document: object,
    enrolled: Mapping[str, PartyRecord],
    installed: str,
    log_keys: LogKeys,
    outside: Mapping[str, str],
    now: datetime,
    randomness: Callable[[int], bytes],
) -> Contract:
    """Return the contract that ``document`` asks for.

    Args:
        document: what the author's YAML says.
        enrolled: the parties by id.
        installed: the digest of the installed code, used if the author names none.
        log_keys: of the audit log in which the runs will stand.
        outside: verifier keys of its witnesses beside the parties, by name.
        now: when the validity begins by default.
        randomness: gives the nonce.

    Raises:
        ConfigError: a party is not enrolled or has another role, the author wrote a key or a nonce, or the
            whole is no valid contract; the message names the field.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("parties"), list):
        raise ConfigError("expected a contract: a mapping with a list of parties")
    if "nonce" in document:
        raise ConfigError("nonce: is drawn when the contract is drafted: leave it out")
    begin = now.replace(microsecond=0)
    parties = [_with_keys(party, enrolled) for party in document["parties"]]
    filled = {
        "valid_from": begin.isoformat(),
        "valid_until": (begin + DEFAULT_VALIDITY).isoformat(),
        "code_digest": installed,
        **_with_consent_key(document, parties),
        "parties": parties,
        "log": _log_terms(document, enrolled, log_keys, outside),
        "nonce": randomness(32).hex(),
    }
    return parse_contract(filled)


def _log_terms(
    document: Mapping[str, Any],
    enrolled: Mapping[str, PartyRecord],
    log_keys: LogKeys,
    outside: Mapping[str, str],
) -> dict[str, Any]:
    """Return the log's keys, every party and those outside as witnesses, and the least quorum if none is written."""
    written = document.get("log", {})
    if not isinstance(written, Mapping) or set(written) - {"quorum"}:
        raise ConfigError("log: expected nothing but quorum: keys and witnesses come from enrolment")
    parties = {party["id"]: enrolled[party["id"]].witness_key for party in document["parties"]}
    if both := sorted(parties.keys() & outside):
        raise ConfigError(
            f"{both[0]} is a party and a witness of the settings: give the witness another name"
        )
    witnesses = {**parties, **outside}
    return {
        "key": log_keys.signer.key.vkey,
        "coordinator_key": encode_public_key(log_keys.identity.public_bytes()),
        "witnesses": witnesses,
        "quorum": written.get("quorum", least_quorum(len(witnesses))),
    }


def _with_consent_key(document: Mapping[str, Any], parties: list[dict[str, Any]]) -> Mapping[str, Any]:
    """Return the document, with the identity key of the party that attests consents in the place of its id."""
    scoring = document.get("scoring")
    profile = scoring.get("profile") if isinstance(scoring, Mapping) else None
    if not (isinstance(scoring, Mapping) and isinstance(profile, Mapping)):
        return document
    named = profile.get("consent_key")
    keys = [party["identity_key"] for party in parties if party["id"] == named]
    if not keys:
        return document  # the key of somebody outside: the contract's own check tells whether it is one
    return {**document, "scoring": {**scoring, "profile": {**profile, "consent_key": keys[0]}}}


def _with_keys(party: object, enrolled: Mapping[str, PartyRecord]) -> dict[str, Any]:
    if not isinstance(party, Mapping) or not isinstance(party.get("id"), str):
        raise ConfigError("parties: expected for each party a mapping with its id")
    name = party["id"]
    written = [field for field in _FROM_ENROLMENT if field in party]
    if written:
        raise ConfigError(f"party {name}: {written[0]} comes from enrolment: leave it out")
    record = enrolled.get(name)
    if record is None:
        raise ConfigError(
            f"party {name} is not enrolled: invite it with `fedshare-server enrol {name}` first"
        )
    if party.get("role") != record.role:
        raise ConfigError(f"party {name} is enrolled as {record.role}: found another role in the contract")
    return {
        **party,
        "identity_key": encode_public_key(record.identity_key),
        "flower_key": public_key_digest(read_public_key(record.flower_key.encode())),
    }
