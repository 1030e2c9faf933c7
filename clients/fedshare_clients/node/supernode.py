"""The node's SuperNode: Flower's stock program as a child, in a process group of its own.

It keeps the connection to the coordinator (TLS, the node's Flower key), and with ``--isolation process`` it
starts nothing: tasks wait at its runtime API, on loopback, for whoever knows the secret, which is the
executor beside it. The child ends when this process does, however it does: its standard input is a pipe from
here. The secret is drawn at every start and lives in the state folder (mode 0600).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fedshare.errors import ConfigError, StorageError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

__all__ = ["FLOWER_ENVIRONMENT", "SuperNode", "SuperNodeSettings"]

FLOWER_ENVIRONMENT: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
_GRACE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class SuperNodeSettings:
    """How the node reaches the coordinator's fleet port.

    Attributes:
        fleet_address: ``host:port``.
        ca_certificate: PEM file with which the coordinator's certificate is verified.
        private_key: the node's Flower key, ECDSA on a NIST curve, OpenSSH form without passphrase.
        folder: where Flower keeps its files, and the log; created with mode 0700.
        connect_timeout_seconds: how long the coordinator may be out of reach when the node starts.
        runtime_port: on loopback; 0 takes a free one.
    """

    fleet_address: str
    ca_certificate: Path
    private_key: Path
    folder: Path
    connect_timeout_seconds: float = 60.0
    runtime_port: int = 0


class SuperNode:
    """A running SuperNode; ``start`` and ``stop`` it, or use it as a context manager."""

    def __init__(self, settings: SuperNodeSettings, randomness: Callable[[int], bytes] = os.urandom) -> None:
        self._settings = settings
        self._randomness = randomness
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self.secret = b""

    @property
    def runtime_address(self) -> str:
        """Where tasks wait."""
        return f"127.0.0.1:{self._port}"

    @property
    def log_file(self) -> Path:
        """What the SuperNode says."""
        return self._settings.folder / "supernode.log"

    @property
    def pid(self) -> int | None:
        """The child's process id, which is also its group's."""
        return None if self._process is None else self._process.pid

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    def start(self) -> None:
        """Start the child; it connects in the background.

        Raises:
            ConfigError: a file is missing.
            StorageError: the folder cannot be written.
        """
        settings = self._settings
        for file in (settings.ca_certificate, settings.private_key):
            if not file.is_file():
                raise ConfigError(f"{file}: expected a file, found none: enrol this node first")
        self.secret = self._randomness(32)
        self._port = settings.runtime_port or _free_port()
        try:
            settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            secret_file = settings.folder / "executor.secret"
            secret_file.unlink(missing_ok=True)
            secret_file.touch(mode=0o600, exist_ok=False)
            secret_file.write_bytes(self.secret)
            with self.log_file.open("wb") as log:
                self._process = subprocess.Popen(
                    self._command(secret_file),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ | FLOWER_ENVIRONMENT | {"FLWR_HOME": str(settings.folder.resolve())},
                    start_new_session=True,
                )
        except OSError as error:
            raise StorageError(f"{settings.folder}: cannot be written ({error.strerror})") from error

    def verify_alive(self) -> None:
        """Return if the child runs.

        Raises:
            UnavailableError: it has ended; its log says why.
        """
        if self._process is None or self._process.poll() is not None:
            raise UnavailableError(
                f"the SuperNode has ended; the coordinator at {self._settings.fleet_address} cannot be "
                f"reached or does not know this node's Flower key: see {self.log_file}"
            )

    def stop(self) -> None:
        """End the child and whatever is in its group; returns when it has gone."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def _command(self, secret_file: Path) -> list[str]:
        settings = self._settings
        return [
            *(sys.executable, "-m", "fedshare_clients.node._flwr_runtime"),
            *("--superlink", settings.fleet_address),
            *("--root-certificates", str(settings.ca_certificate)),
            *("--auth-supernode-private-key", str(settings.private_key)),
            *("--isolation", "process"),
            *("--host", "127.0.0.1", "--port", str(self._port)),
            *("--superexec-auth-secret-file", str(secret_file)),
        ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
