"""The coordinator's certificate authority: who may speak to it, and for how long.

The authority vouches for connections only. It cannot read or forge a payload, because those are sealed under
keys that the parties sign in the contract.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fedshare.errors import ConfigError
from fedshare.identity.certificates import (
    Authority,
    create_authority,
    invitation_name,
    issue_client,
    issue_server,
    key_to_pem,
    public_key_digest,
    read_authority,
    read_key,
    to_pem,
)
from fedshare_server.config import replace_file, write_new_file
from fedshare_server.log_keys import LogKeys

if TYPE_CHECKING:
    from pathlib import Path

    from fedshare_server.config import ServerConfig, StateFolder

__all__ = [
    "Invitation",
    "TlsFiles",
    "create_invitation",
    "initialise",
    "load_authority",
    "load_tls",
    "renew_server",
]

_AUTHORITY_LIFETIME = timedelta(days=3650)
_RENEWAL = timedelta(days=30)
# An invitation's certificate outlives the invitation, so that an expired one meets a clear refusal from
# enrolment instead of a failed handshake.
_GRACE = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The server's side of TLS, PEM."""

    ca_certificate: bytes
    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Invitation:
    """A one-time invitation.

    Attributes:
        document: the JSON that the institution receives over a private way; it holds a secret key.
        key_digest: by which enrolment recognises it.
        expires_at: until when it can be used.
    """

    document: bytes = field(repr=False)
    key_digest: str
    expires_at: datetime


def initialise(
    folder: StateFolder, settings: ServerConfig, now: datetime, imported: tuple[Path, Path] | None = None
) -> None:
    """Create the authority, or take the imported pair, the server's certificate and the audit log's keys.

    Raises:
        ConfigError: the imported pair is not a valid authority, or a file exists.
        StorageError: the disk refused.
    """
    authority = _read_pair(imported, now) if imported else _new_authority(settings.name, now)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _server_certificate(authority, key, settings, now)
    pairs = (
        (folder.authority_files, authority.certificate, authority.key),
        (folder.server_files, certificate, key),
    )
    for (certificate_file, key_file), issued, secret in pairs:
        write_new_file(key_file, key_to_pem(secret))
        write_new_file(certificate_file, to_pem(issued), mode=0o644)
    LogKeys.create(folder, settings.name, os.urandom)


def renew_server(folder: StateFolder, settings: ServerConfig, now: datetime) -> bool:
    """Issue the server's certificate anew if it ends soon or is for another name; return whether it was.

    The keys stay. Institutions notice nothing: they trust the authority, not the certificate.

    Raises:
        ConfigError: a file is missing or damaged, or the authority is no longer valid.
        StorageError: the disk refused.
    """
    certificate_file, key_file = folder.server_files
    try:
        current = x509.load_pem_x509_certificate(_read(certificate_file))
    except ValueError as error:
        raise ConfigError(
            f"{certificate_file}: expected a certificate in PEM, found something else"
        ) from error
    key = read_key(_read(key_file))
    fresh = _server_certificate(load_authority(folder, now), key, settings, now)
    names = x509.SubjectAlternativeName
    same = [one.extensions.get_extension_for_class(names).value for one in (current, fresh)]
    if same[0] == same[1] and current.not_valid_after_utc - now > _RENEWAL:
        return False
    replace_file(certificate_file, to_pem(fresh), mode=0o644)
    return True


def load_authority(folder: StateFolder, now: datetime) -> Authority:
    """Return the authority kept in ``folder``.

    Raises:
        ConfigError: it is missing, damaged or no longer valid.
    """
    return _read_pair(folder.authority_files, now)


def load_tls(folder: StateFolder) -> TlsFiles:
    """Return what the server needs to speak TLS.

    Raises:
        ConfigError: a file is missing.
    """
    certificate, key = folder.server_files
    return TlsFiles(_read(folder.authority_files[0]), _read(certificate), _read(key))


def create_invitation(
    authority: Authority, settings: ServerConfig, party: str, role: str, now: datetime
) -> Invitation:
    """Return an invitation for ``party`` that can be used once within the configured days."""
    key = ec.generate_private_key(ec.SECP256R1())
    expires_at = now + timedelta(days=settings.invitation_days)
    certificate = issue_client(
        authority, key.public_key(), invitation_name(party), role, now, expires_at - now + _GRACE, os.urandom
    )
    document = {
        "version": 1,
        "party": party,
        "role": role,
        "grpc_address": f"{settings.name}:{settings.grpc_port}",
        "fleet_address": f"{settings.name}:{settings.fleet_port}",
        "expires": expires_at.isoformat(timespec="seconds"),
        "ca_certificate": to_pem(authority.certificate).decode(),
        "certificate": to_pem(certificate).decode(),
        "key": key_to_pem(key).decode(),
    }
    return Invitation(
        json.dumps(document, indent=2).encode() + b"\n", public_key_digest(key.public_key()), expires_at
    )


def _server_certificate(
    authority: Authority, key: ec.EllipticCurvePrivateKey, settings: ServerConfig, now: datetime
) -> x509.Certificate:
    hosts = list(dict.fromkeys([settings.name, "localhost", "127.0.0.1"]))
    lifetime = timedelta(days=settings.certificate_days)
    return issue_server(authority, key.public_key(), hosts, now, lifetime, os.urandom)


def _new_authority(name: str, now: datetime) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    return create_authority(key, f"fedshare coordinator {name}", now, _AUTHORITY_LIFETIME, os.urandom)


def _read_pair(files: tuple[Path, Path], now: datetime) -> Authority:
    certificate, key = files
    return read_authority(_read(certificate), _read(key), now)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
