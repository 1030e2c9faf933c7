"""The coordinator's Flower: a stock SuperLink and a stock executor, as children of this process.

The SuperLink listens on loopback only, with a certificate made at every start; ``FleetGate`` stands in
front of its fleet endpoints. Nodes authenticate with keys registered here; the executor knows a secret that
is drawn at every start. Both children run in process groups of their own and end when this process ends,
however it does.

Example::

    with Superlink(SuperlinkSettings(...)) as superlink:
        superlink.register_node(public_key)
        run_id = superlink.start_run(contract_digest)

Another process of the same host and user may build the same object, not start it, and use the control
calls.
"""

from __future__ import annotations

import hashlib
import io
import ipaddress
import os
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from shutil import disk_usage
from typing import TYPE_CHECKING, Final

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from fedshare.errors import ProtocolError, StorageError, UnavailableError
from fedshare_server.app import DATABASE_VARIABLE, canonical_key
from fedshare_server.superlink_gate import FleetGate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Self

__all__ = ["Superlink", "SuperlinkSettings", "build_bundle"]

_ENVIRONMENT: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
}
_START_SECONDS: Final = 60.0
_GRACE_SECONDS: Final = 5.0
# With less, SQLite and the logs cannot be written.
_ROOM_BYTES: Final = 1 << 20
_PYPROJECT: Final = """\
[project]
name = "fedshare"
version = "{version}"
description = "Settings of a fedshare run; the code is what each institution installed"

[tool.flwr.app]
publisher = "fedshare"
fab-include = ["/README.md"]

[tool.flwr.app.components]
serverapp = "fedshare_server.app:app"
clientapp = "fedshare_clients.node.app:app"

[tool.flwr.app.config]
contract_digest = ""
model_run = ""
"""
_README: Final = "This bundle carries settings. The code is what each institution installed and reviewed.\n"


@dataclass(frozen=True, slots=True)
class SuperlinkSettings:
    """Where Flower listens and what it keeps.

    Attributes:
        folder: Flower's own state, logs and the loopback certificate; created with mode 0700.
        database_url: the coordinator's records, for the ServerApp.
        certificate: the coordinator's certificate, PEM file; its names must include how nodes address it.
        key: its key, PEM file.
        fleet_port: reachable from outside.
        superlink_port: all of Flower's endpoints, on loopback only.
        bind: local address of the fleet port.
    """

    folder: Path
    database_url: str = field(repr=False)
    certificate: Path
    key: Path
    fleet_port: int
    superlink_port: int
    bind: str = "0.0.0.0"  # noqa: S104  nodes authenticate, and only fleet methods pass the gate


def build_bundle() -> bytes:
    """Return the Flower bundle of every run: a ZIP file with settings and no code, always the same.

    The format is Flower's: the files, and a manifest ``.info/CONTENT`` with a line ``path,sha256,bits`` for
    each (flwr 1.41 ``cli/build.py``).
    """
    files = {"pyproject.toml": _PYPROJECT.format(version=version("fedshare")), "README.md": _README}
    manifest = "\n".join(
        f"{name},{hashlib.sha256(text.encode()).hexdigest()},{len(text.encode()) * 8}"
        for name, text in files.items()
    )
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w") as archive:
        for name, text in (files | {".info/CONTENT": manifest}).items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return bundle.getvalue()


class Superlink:
    """A SuperLink with its gate and executor; ``start`` and ``stop`` it, or use it as a context manager."""

    def __init__(self, settings: SuperlinkSettings) -> None:
        self._settings = settings
        self._children: list[subprocess.Popen[bytes]] = []
        self._gate: FleetGate | None = None

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    @property
    def log_file(self) -> Path:
        """What Flower says at the coordinator."""
        return self._settings.folder / "superlink.log"

    def start(self) -> None:
        """Start the children and the gate; returns when nodes can connect.

        Raises:
            StorageError: the folder cannot be written.
            UnavailableError: a port is taken, or the SuperLink did not start.
        """
        try:
            self._settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_loopback_certificate(self._ca, self._key, datetime.now(UTC))
            _write_private(self._secret, os.urandom(32))
            self._spawn(self._superlink_command())
            self._await_superlink()
            self._spawn(self._executor_command())
        except OSError as error:
            self.stop()
            raise StorageError(f"{self._settings.folder}: cannot be written ({error.strerror})") from error
        except BaseException:
            self.stop()
            raise
        self._gate = FleetGate(
            bind=self._settings.bind,
            port=self._settings.fleet_port,
            certificate=self._settings.certificate,
            key=self._settings.key,
            superlink=f"https://{self._address}",
            superlink_ca=self._ca,
        )
        try:
            self._gate.start()
        except UnavailableError:
            self.stop()
            raise

    def stop(self) -> None:
        """Close the gate, then end the children and all in their groups; returns when they have gone."""
        if self._gate is not None:
            self._gate.stop()
            self._gate = None
        for child in reversed(self._children):
            _end(child)
        self._children = []

    def verify_alive(self) -> None:
        """Return if every part runs.

        Raises:
            StorageError: one has ended, and the disk is full.
            UnavailableError: one has ended; the log says why.
        """
        parts_run = [child.poll() is None for child in self._children]
        if not parts_run or not all(parts_run) or self._gate is None or not self._gate.is_alive:
            if disk_usage(self._settings.folder).free < _ROOM_BYTES:
                raise StorageError(
                    f"{self._settings.folder}: the disk is full, which has ended a part of Flower and every run under way: "
                    "make room and start the coordinator again"
                )
            raise UnavailableError(f"a part of Flower has ended: see {self.log_file}")

    def register_node(self, public_key: str | bytes) -> int:
        """Let the node with this key connect, and return its Flower id; a key that is known stays known.

        Args:
            public_key: ECDSA on a NIST curve, PEM or OpenSSH.

        Raises:
            ConfigError: it is no such key.
            UnavailableError: the SuperLink does not answer.
        """
        key = canonical_key(public_key)
        with self._control() as control:
            for node in control.ListNodes(ListNodesRequest()).nodes_info:
                if node.public_key == key and not node.unregistered_at:
                    return int(node.node_id)
            return int(control.RegisterNode(RegisterNodeRequest(public_key=key)).node_id)

    def heartbeats(self) -> dict[bytes, float]:
        """Return until when each registered node counts as online, by its public key; Unix seconds.

        Raises:
            UnavailableError: the SuperLink does not answer.
        """
        with self._control() as control:
            nodes = control.ListNodes(ListNodesRequest()).nodes_info
        return {node.public_key: node.online_until for node in nodes if not node.unregistered_at}

    def start_run(self, contract_digest: str, model_run: int | None = None) -> int:
        """Start a run of a contract and return its id.

        Args:
            contract_digest: of the contract.
            model_run: the training run whose model is to be served; without it the run trains.

        Raises:
            UnavailableError: the SuperLink does not answer.
            ProtocolError: it does not take our bundle.
        """
        return self._submit(build_bundle(), contract_digest, "" if model_run is None else str(model_run))

    def _submit(self, bundle: bytes, contract_digest: str, model_run: str = "") -> int:
        request = StartRunRequest(fab=Fab(content=bundle))
        request.override_config["contract_digest"].string = contract_digest
        request.override_config["model_run"].string = model_run
        with self._control() as control:
            response = control.StartRun(request)
        if not response.HasField("run_id") or not response.run_id:
            raise ProtocolError(f"the SuperLink did not start the run: see {self.log_file}")
        return int(response.run_id)

    def stop_run(self, run_id: int) -> None:
        """End a run at Flower; its record is the caller's to end.

        Raises:
            UnavailableError: the SuperLink does not answer or does not know the run.
        """
        with self._control() as control:
            control.StopRun(StopRunRequest(run_id=run_id))

    def run_status(self, run_id: int) -> str:
        """Return what Flower says of a run: ``running``, ``finished:completed``, ``finished:failed: why`` ...

        Raises:
            UnavailableError: the SuperLink does not answer or does not know the run.
        """
        with self._control() as control:
            run = control.ListRuns(ListRunsRequest(run_id=run_id)).run_dict[run_id]
        parts = [run.status.status, run.status.sub_status]
        return ":".join(part for part in parts if part) + (
            f": {run.status.details}" if run.status.details else ""
        )

    @property
    def _address(self) -> str:
        return f"127.0.0.1:{self._settings.superlink_port}"

    @property
    def _ca(self) -> Path:
        return self._settings.folder / "loopback.pem"

    @property
    def _key(self) -> Path:
        return self._settings.folder / "loopback.key"

    @property
    def _secret(self) -> Path:
        return self._settings.folder / "executor.secret"

    def _superlink_command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "fedshare_server.superlink_child", "superlink"),
            *("--host", "127.0.0.1", "--port", str(self._settings.superlink_port)),
            # The older gRPC endpoints start as well and cannot be turned off: loopback, any free port.
            *("--control-api-address", "127.0.0.1:0", "--fleet-api-address", "127.0.0.1:0"),
            *(
                "--ssl-ca-certfile",
                str(self._ca),
                "--ssl-certfile",
                str(self._ca),
                "--ssl-keyfile",
                str(self._key),
            ),
            *("--enable-supernode-auth", "--isolation", "process"),
            *("--superexec-auth-secret-file", str(self._secret)),
            *("--database", str(self._settings.folder.resolve() / "flower.db")),
        ]

    def _executor_command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "fedshare_server.superlink_child", "superexec"),
            *("--runtime-api-address", self._address, "--root-certificates", str(self._ca)),
            *("--superexec-auth-secret-file", str(self._secret)),
        ]

    def _spawn(self, command: Sequence[str]) -> None:
        scripts = os.path.dirname(sys.executable)  # noqa: PTH120  where flwr-serverapp is; symlinks stay
        environment = os.environ | _ENVIRONMENT
        environment |= {
            DATABASE_VARIABLE: self._settings.database_url,
            "FLWR_HOME": str(self._settings.folder.resolve()),
            "PATH": os.pathsep.join([scripts, environment.get("PATH", os.defpath)]),
        }
        with self.log_file.open("ab") as log:
            self._children.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            )

    def _await_superlink(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._children[0].poll() is not None:
                break
            with suppress(UnavailableError), self._control() as control:
                control.ListNodes(ListNodesRequest())
                return
            time.sleep(0.1)
        raise UnavailableError(
            f"the SuperLink did not start on {self._address}; another process may have the port, or the disk be full: "
            f"see {self.log_file}"
        )

    @contextmanager
    def _control(self) -> Iterator[ControlHttpClient]:
        """Yield Flower's control client; what goes wrong with it is one of our errors."""
        try:
            with ControlHttpClient.from_server_address(
                self._address,
                insecure=False,
                root_certificates=self._ca.read_bytes(),
                interceptors=[RuntimeVersionHttpInterceptor(component_name="fedshare-server")],
            ) as client:
                yield client
        except FileNotFoundError as error:
            raise UnavailableError("the coordinator does not run here: `fedshare-server run`") from error
        except httpx.HTTPStatusError as error:
            raise UnavailableError(
                f"the SuperLink answered {error.response.status_code}: see {self.log_file}"
            ) from error
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"the SuperLink at {self._address} does not answer: `fedshare-server run`"
            ) from error


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child, then whatever is left of its group."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(_GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdin is not None:
        child.stdin.close()


def _write_loopback_certificate(certificate: Path, key_file: Path, now: datetime) -> None:
    """Write a certificate for 127.0.0.1 that is its own authority; only this host's processes see it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fedshare loopback")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_private(certificate, made.public_bytes(serialization.Encoding.PEM))
    _write_private(
        key_file,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def _write_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(content)
