"""From what an author writes to a contract that parties can sign: keys, code digest and nonce are filled in.

Nothing else is changed, and nothing that enrolment knows may be written by hand: a key in the file is refused, so
that a contract never names a key that its institution did not bring itself.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fedshare.contract.model import Contract
from pydantic import ValidationError

from fedshare.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from fedshare_server.storage import PartyRecord

__all__ = ["DEFAULT_RETENTION_DAYS", "DEFAULT_VALIDITY", "complete"]

DEFAULT_VALIDITY = timedelta(days=90)
"""How long a contract is valid if its author does not say; it begins with the draft."""

DEFAULT_RETENTION_DAYS = 365
"""How long a node keeps what a run left if the author does not say."""

_FROM_ENROLMENT = ("identity_key", "flower_key", "certificate")


def complete(
    document: object,
    enrolled: Mapping[str, PartyRecord],
    code_digest: str,
    now: datetime,
    randomness: Callable[[int], bytes],
) -> Contract:
    """Return the contract that ``document`` asks for.

    Args:
        document: what the author's YAML says.
        enrolled: the parties by id.
        code_digest: of the installed code, used if the author names none.
        now: when the validity begins by default.
        randomness: gives the nonce.

    Raises:
        ConfigError: a party is not enrolled or has another role, the author wrote a key or a nonce, or the whole is
            no valid contract; the message names the field.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("parties"), list):
        raise ConfigError("expected a contract: a mapping with a list of parties")
    if "nonce" in document:
        raise ConfigError("nonce: is drawn when the contract is drafted: leave it out")
    begin = now.replace(microsecond=0)
    filled = {
        "version": 1,
        "valid_from": begin.isoformat(),
        "valid_until": (begin + DEFAULT_VALIDITY).isoformat(),
        "retention_days": DEFAULT_RETENTION_DAYS,
        "code_digest": code_digest,
        **document,
        "parties": [_with_keys(party, enrolled) for party in document["parties"]],
        "nonce": randomness(32).hex(),
    }
    try:
        return Contract.model_validate(filled)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{field + ': ' if field else ''}{first['msg']}") from error


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
        "identity_key": base64.b64encode(record.identity_key).decode(),
        "flower_key": record.flower_key,
        "certificate": record.certificate_digest,
    }
