"""The coordinator's two keys of the audit log: one signs what it states, one the heads of the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedshare.audit.notes import NoteKey, NoteSigner
from fedshare.errors import ConfigError, ProtocolError
from fedshare.identity.keys import IdentityKey
from fedshare_server.config import write_new_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fedshare_server.config import StateFolder

__all__ = ["LogKeys"]


@dataclass(frozen=True, slots=True)
class LogKeys:
    """Both keys.

    Attributes:
        identity: signs statements as ``coordinator``.
        signer: signs the heads; its name is the log's origin.
    """

    identity: IdentityKey
    signer: NoteSigner

    @classmethod
    def create(cls, folder: StateFolder, name: str, randomness: Callable[[int], bytes]) -> None:
        """Make both keys; the log's origin is the coordinator's ``name`` of now and stays so.

        Raises:
            ConfigError: a file exists.
            StorageError: the disk refused.
        """
        identity_file, log_file, verifier_file = folder.log_key_files
        log_key = IdentityKey.generate(randomness)
        write_new_file(identity_file, IdentityKey.generate(randomness).to_pem())
        write_new_file(log_file, log_key.to_pem())
        signer = NoteSigner(f"{name}/log", log_key.signing_key)
        write_new_file(verifier_file, f"{signer.key.vkey}\n".encode(), mode=0o644)

    @classmethod
    def load(cls, folder: StateFolder) -> LogKeys:
        """Return the keys kept in ``folder``.

        Raises:
            ConfigError: a file is missing or damaged.
        """
        identity_file, log_file, verifier_file = folder.log_key_files
        try:
            key = NoteKey.parse(_read(verifier_file).decode().strip())
        except (ProtocolError, UnicodeDecodeError) as error:
            raise ConfigError(f"{verifier_file}: expected the log's verifier key") from error
        signer = NoteSigner(key.name, IdentityKey.from_pem(_read(log_file)).signing_key)
        if signer.key != key:
            raise ConfigError(f"{log_file}: is not the key of {verifier_file}: restore it")
        return cls(IdentityKey.from_pem(_read(identity_file)), signer)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
