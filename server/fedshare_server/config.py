"""The coordinator's settings and the layout of its state folder.

::

    DIR/                 mode 0700
      server.yaml        the settings, see ``deploy/coordinator/server.yaml``
      ca.pem, ca.key     the certificate authority
      server.pem, server.key
      identity.pem       signs what the coordinator states in the audit log
      log.pem, log.vkey  sign the heads of the audit log
      log/               the audit log, to be served or copied as it is
      fedshare.db        the database, unless ``database`` names another
      superlink/         what Flower keeps
      ready              present while the server answers; holds its gRPC address

Private files have mode 0600. Nothing that exists is overwritten.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fedshare.audit.notes import COSIGNATURE, NoteKey
from fedshare.errors import ConfigError, ProtocolError, StorageError
from fedshare.problems import problems
from fedshare.settings import parse_yaml

__all__ = ["ServerConfig", "StateFolder", "WitnessConfig", "load_config", "replace_file", "write_new_file"]

Port = int


class WitnessConfig(BaseModel):
    """A witness of the audit log that is not a party."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    """Its verifier key, as `fedshare-audit witness` prints it."""

    url: str = Field(pattern=r"^https?://[^\s]+$")
    """Where it is asked to cosign (C2SP tlog-witness, submission prefix)."""

    @field_validator("key")
    @classmethod
    def _is_a_cosignature_key(cls, value: str) -> str:
        try:
            key = NoteKey.parse(value)
        except ProtocolError as error:
            raise ValueError(str(error)) from error
        if key.kind != COSIGNATURE:
            raise ValueError("expected the key of a witness, type 0x04")
        return value


class ServerConfig(BaseModel):
    """What ``server.yaml`` may say; unknown words are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="localhost", min_length=1)
    """The host name or IP address by which institutions reach the coordinator; in the server certificate."""

    bind: str = Field(default="0.0.0.0", min_length=1)  # noqa: S104  both ports authenticate their clients
    """The local address on which the fleet port and the gRPC port listen."""

    grpc_port: Port = Field(default=9443, ge=1, le=65535)
    """Enrolment, contracts and the exchange of envelopes, mutual TLS; reachable from outside."""

    fleet_port: Port = Field(default=9092, ge=1, le=65535)
    """Flower's fleet endpoint, TLS and node authentication; reachable from outside."""

    superlink_port: Port = Field(default=9093, ge=1, le=65535)
    """Flower's own port, control and runtime endpoints included; on 127.0.0.1 only."""

    database: str | None = None
    """A database URL such as ``postgresql://user@host/name``; SQLite in the state folder if absent."""

    invitation_days: int = Field(default=7, ge=1, le=90)
    """Days for which an invitation can be used."""

    certificate_days: int = Field(default=365, ge=1, le=3650)
    """Days for which a party's and the server's certificate are valid."""

    witnesses: dict[str, WitnessConfig] = {}
    """Witnesses beside the parties, by name: contracts drafted from now on name them, too."""

    @model_validator(mode="after")
    def _ports_differ(self) -> ServerConfig:
        if len({self.grpc_port, self.fleet_port, self.superlink_port}) < 3:
            raise ValueError("grpc_port, fleet_port and superlink_port must differ")
        return self


def load_config(path: Path) -> ServerConfig:
    """Return the settings in ``path``.

    Raises:
        ConfigError: the file is missing, is no YAML mapping, or says something unknown or out of range.
    """
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}): run `fedshare-server init`") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text; save the file as UTF-8") from error
    try:
        return ServerConfig.model_validate(raw or {})
    except ValidationError as error:
        raise ConfigError(f"{path}: {problems(error, ServerConfig, 'server.yaml')}") from error


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Where the coordinator keeps what it must not lose."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The settings."""
        return self.path / "server.yaml"

    @property
    def authority_files(self) -> tuple[Path, Path]:
        """The authority's certificate and key."""
        return self.path / "ca.pem", self.path / "ca.key"

    @property
    def server_files(self) -> tuple[Path, Path]:
        """The server's certificate and key."""
        return self.path / "server.pem", self.path / "server.key"

    @property
    def log_key_files(self) -> tuple[Path, Path, Path]:
        """The identity key, the log's key and its verifier key."""
        return self.path / "identity.pem", self.path / "log.pem", self.path / "log.vkey"

    @property
    def log_folder(self) -> Path:
        """The audit log."""
        return self.path / "log"

    @property
    def flower_folder(self) -> Path:
        """What Flower keeps."""
        return self.path / "superlink"

    @property
    def ready_file(self) -> Path:
        """Present while the server answers."""
        return self.path / "ready"

    def create(self) -> None:
        """Create the folder, or take an empty one.

        Raises:
            ConfigError: it holds a coordinator's state already, or others may enter it.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise ConfigError(
                    f"{self.path}: expected a new or empty folder, found files: nothing is overwritten"
                )
            self.path.chmod(0o700)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be created ({error.strerror})") from error

    def load(self) -> ServerConfig:
        """Return the settings after checking that only the operator can read the folder.

        Raises:
            ConfigError: there is no state here, or its mode lets others in.
        """
        settings = load_config(self.config_file)
        if self.path.stat().st_mode & 0o077:
            raise ConfigError(f"{self.path}: others can enter this folder; expected mode 0700: chmod 700 it")
        return settings

    def database_url(self, settings: ServerConfig) -> str:
        """Return where the coordinator's records are."""
        return settings.database or f"sqlite:///{self.path.resolve() / 'fedshare.db'}"


def write_new_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write ``content`` to a file that must not exist yet; it is complete or absent.

    Raises:
        ConfigError: the file exists.
        StorageError: the disk refused.
    """
    temporary = _write_beside(path, content, mode)
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists already and is never overwritten: move it away first") from error
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write ``content`` to ``path``, whole or not at all, over what was there.

    Raises:
        StorageError: the disk refused.
    """
    temporary = _write_beside(path, content, mode)
    try:
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from error


def _write_beside(path: Path, content: bytes, mode: int) -> Path:
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from error
    return temporary
