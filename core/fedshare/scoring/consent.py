"""What an enterprise agreed to: that its holders show a bank a profile of it, for a time, until it takes that back.

The contract names the key that attests consents: a signature service's, or a party's own. A consent names the enterprise, so
a holder that is shown one learns that this enterprise deals with this bank: that is what it consented to. The
evidence itself (a signed form, a recording) stays where it was given; its digest stands in the consent. The consent's own
digest names it in logs: it covers a random nonce, so that nobody finds the enterprise by trying names.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import rfc8785
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from fedshare.errors import ProtocolError, RefusedError
from fedshare.identity import dsse

if TYPE_CHECKING:
    from fedshare.identity.keys import IdentityKey

__all__ = [
    "Consent",
    "Withdrawal",
    "consent_digest",
    "sign_consent",
    "sign_withdrawal",
    "verify_consent",
    "verify_in_force",
    "verify_withdrawal",
]

_CONSENT_TYPE = "application/vnd.fedshare.consent.v1+json"
_WITHDRAWAL_TYPE = "application/vnd.fedshare.consent-withdrawal.v1+json"
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Enterprise = Annotated[str, Field(min_length=1, max_length=1000)]
_M = TypeVar("_M", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Consent(_Strict):
    """See the module.

    Attributes:
        contract_digest: under which contract.
        bank: to which bank of it.
        enterprise: identifier in its one spelling.
        scope: what may be shown.
        evidence: SHA-256 of the document in which the enterprise consented, hexadecimal.
        given_at: when.
        expires_at: until when, exclusive.
        nonce: 32 random bytes, hexadecimal.
    """

    version: Literal[1] = 1
    contract_digest: _Digest
    bank: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    enterprise: _Enterprise
    scope: Literal["profile"] = "profile"
    evidence: _Digest
    given_at: AwareDatetime
    expires_at: AwareDatetime
    nonce: _Digest


class Withdrawal(_Strict):
    """That an enterprise takes a consent back.

    Attributes:
        contract_digest: under which contract it was given.
        consent: digest of the consent, ``consent_digest``.
        enterprise: identifier in its one spelling.
        withdrawn_at: when.
    """

    version: Literal[1] = 1
    contract_digest: _Digest
    consent: _Digest
    enterprise: _Enterprise
    withdrawn_at: AwareDatetime


def sign_consent(consent: Consent, key: IdentityKey) -> bytes:
    """Return ``consent`` in a signed envelope."""
    return dsse.sign(_canonical(consent), _CONSENT_TYPE, key)


def sign_withdrawal(withdrawal: Withdrawal, key: IdentityKey) -> bytes:
    """Return ``withdrawal`` in a signed envelope."""
    return dsse.sign(_canonical(withdrawal), _WITHDRAWAL_TYPE, key)


def verify_consent(envelope: bytes, public_key: bytes) -> Consent:
    """Return the consent in untrusted bytes.

    Raises:
        ProtocolError: it is not signed by the key, or no consent.
    """
    return _parse(Consent, dsse.verify(envelope, _CONSENT_TYPE, public_key))


def verify_withdrawal(envelope: bytes, public_key: bytes) -> Withdrawal:
    """Return the withdrawal in untrusted bytes. Raises as ``verify_consent``."""
    return _parse(Withdrawal, dsse.verify(envelope, _WITHDRAWAL_TYPE, public_key))


def consent_digest(consent: Consent) -> str:
    """Return the SHA-256 of a consent's canonical form, hexadecimal."""
    return hashlib.sha256(_canonical(consent)).hexdigest()


def verify_in_force(
    consent: Consent, contract_digest: str, bank: str, now: datetime, *, withdrawn: bool
) -> None:
    """Check that a consent, whose signature is verified, lets ``bank`` see a profile now.

    Raises:
        RefusedError: ``consent_differs`` (another contract or bank), ``consent_withdrawn``, or ``consent_expired`` (over, or
            not begun).
    """
    if (consent.contract_digest, consent.bank) != (contract_digest, bank):
        raise RefusedError("consent_differs", "the consent is for another contract or another bank")
    if withdrawn:
        raise RefusedError("consent_withdrawn", "the enterprise has taken its consent back")
    if not consent.given_at <= now < consent.expires_at:
        raise RefusedError("consent_expired", "the consent is not in force at this time")


def _canonical(document: BaseModel) -> bytes:
    plain = document.model_dump(mode="json")
    for name, value in document:
        if isinstance(value, datetime):
            plain[name] = value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return rfc8785.dumps(plain)


def _parse(kind: type[_M], payload: bytes) -> _M:
    try:
        return kind.model_validate_json(payload)
    except ValidationError as error:
        raise ProtocolError(f"expected a signed {kind.__name__.lower()}, found something else") from error
