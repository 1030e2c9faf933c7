"""Certificates between a bank's node and the bank's own systems: an authority of the bank's own, in its state folder.

    scoring/ca.pem, ca-key.pem     the authority, made when the service starts for the first time

The coordinator's authority has no part in it: whoever runs the coordinator cannot ask a bank for scores.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec

from fedshare.errors import ConfigError, StorageError
from fedshare.identity.certificates import (
    create_authority,
    issue_client,
    issue_server,
    key_to_pem,
    read_authority,
    to_pem,
)

from .enrolment import TlsIdentity
from .state import write_private

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from fedshare.identity.certificates import Authority

__all__ = ["client_identity", "open_authority", "server_identity"]

_AUTHORITY_LIFETIME: Final = timedelta(days=3650)
_LIFETIME: Final = timedelta(days=398)
_ROLE: Final = "score_client"


def open_authority(state_folder: Path, now: datetime, *, create: bool) -> Authority:
    """Return the bank's authority for its score service, made on first use if ``create``.

    Raises:
        ConfigError: it is not there, or damaged.
        StorageError: the disk refused.
    """
    folder = state_folder / "scoring"
    certificate, key = folder / "ca.pem", folder / "ca-key.pem"
    if create and not certificate.exists():
        fresh = ec.generate_private_key(ec.SECP256R1())
        made = create_authority(fresh, "fedshare scores", now, _AUTHORITY_LIFETIME, os.urandom)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{folder}: cannot be made ({error.strerror})") from error
        write_private(key, key_to_pem(fresh))
        write_private(certificate, to_pem(made.certificate))
    try:
        return read_authority(certificate.read_bytes(), key.read_bytes(), now)
    except OSError as error:
        raise ConfigError(
            f"{folder}: no authority for the score service; set `scoring` in node.yaml and start `fedshare-node run`"
        ) from error


def server_identity(authority: Authority, names: Sequence[str], now: datetime) -> TlsIdentity:
    """Return a fresh key and certificate of the service for the host ``names``."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = issue_server(authority, key.public_key(), names, now, _LIFETIME, os.urandom)
    return TlsIdentity(to_pem(authority.certificate), to_pem(certificate), key_to_pem(key))


def client_identity(
    authority: Authority, name: str, now: datetime, lifetime: timedelta = _LIFETIME
) -> TlsIdentity:
    """Return a fresh key and certificate for one of the bank's systems."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = issue_client(authority, key.public_key(), name, _ROLE, now, lifetime, os.urandom)
    return TlsIdentity(to_pem(authority.certificate), to_pem(certificate), key_to_pem(key))
