"""The one module at the node that touches Flower's internal API; written against flwr 1.41.

It speaks the SuperNode's runtime API: acquire a task, pull its input, push its reply, report how it ended,
keep it alive meanwhile. ``flwr/supernode/runtime/run_clientapp.py`` is what it stands in for, with two
differences: a bundle is handed over as bytes and never written to disk or put on the path, and a task that
the SuperNode gave up ends the task, not the process. Run as ``python -m``, it is the SuperNode itself,
ended when its parent ends.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import httpx
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.version import package_version
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message

from fedshare.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

    from flwr.app import Context
    from flwr.supercore.protobuf.client import ProtobufClientInterceptor

__all__ = ["Runtime", "Task", "TaskInput", "error_reply", "require_supported_flwr"]

SUPPORTED_FLWR: Final = "1.41."
_ACQUIRE: Final = "/flwr.proto.Runtime/AcquireTask"
_HEARTBEAT_SECONDS: Final = 10.0
_GRACE_SECONDS: Final = 5.0


def require_supported_flwr(version: str = package_version) -> None:
    """Refuse to run on a Flower whose internal API this module was not written against.

    Raises:
        ConfigError: another minor version is installed.
    """
    if not version.startswith(SUPPORTED_FLWR):
        raise ConfigError(
            f"expected flwr {SUPPORTED_FLWR}x, found {version}: install the version fedshare is pinned to"
        )


@dataclass(frozen=True, slots=True)
class TaskInput:
    """What the coordinator sent for one task.

    Attributes:
        message: the request.
        run_id: Flower's run id.
        fab: the bundle, bytes of a ZIP file, not checked.
        fab_hash: its SHA-256 as the run states it.
        run_config: the run's configuration: the bundle's defaults with what the run overrides.
    """

    message: Message
    run_id: int
    fab: bytes
    fab_hash: str
    run_config: Mapping[str, object]


class Runtime:
    """A SuperNode's runtime API, on loopback.

    Args:
        address: ``127.0.0.1:PORT``.
        secret: shared with the SuperNode; without it nobody on the host can take a task.
    """

    def __init__(self, address: str, secret: bytes) -> None:
        self._address = address
        self._client = self._connect(
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=frozenset({_ACQUIRE})),
        )

    def acquire(self) -> Task | None:
        """Return the oldest task that waits for a ClientApp, or ``None``.

        Raises:
            UnavailableError: the SuperNode does not answer or does not accept the secret.
        """
        with _boundary():
            response = self._client.AcquireTask(
                AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
            )
        if not response.HasField("task") or not response.token:
            return None
        return Task(
            self._connect(
                RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
                RuntimeTokenHttpInterceptor(response.token),
            )
        )

    def close(self) -> None:
        """Disconnect."""
        self._client.close()

    def _connect(self, *interceptors: ProtobufClientInterceptor) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self._address, insecure=True, root_certificates=None, interceptors=interceptors
        )


class Task:
    """One acquired task; a context manager that keeps it alive and tells the SuperNode how it ended."""

    def __init__(self, client: RuntimeHttpClient) -> None:
        self._client = client
        self._context: Context | None = None
        self._stopping = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="task-heartbeat", daemon=True)
        self._failure = "the executor ended before the task did"

    def __enter__(self) -> Self:
        """Start the heartbeat."""
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Report the end of the task and disconnect."""
        self._stopping.set()
        self._heart.join()
        status = SubStatus.FAILED if self._failure else SubStatus.COMPLETED
        try:
            self._client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=self._failure))
        except httpx.HTTPError:
            pass  # The SuperNode has gone or given the task up: there is nobody left to tell.
        finally:
            self._client.close()

    def pull(self) -> TaskInput:
        """Return the input of the task; nothing in it is checked.

        Raises:
            UnavailableError: the SuperNode does not answer.
        """
        with _boundary():
            message, self._context, run, fab = pull_task_input(self._client)
        return TaskInput(message, run.run_id, fab.content, run.fab_hash, dict(self._context.run_config))

    def reply(self, message: Message, failure: str = "") -> None:
        """Send the reply; with ``failure``, the task counts as failed at the SuperNode.

        Raises:
            UnavailableError: the SuperNode does not answer.
        """
        if self._context is None:
            raise ConfigError("a task's input must be pulled before its reply is sent")
        with _boundary():
            push_message(self._client, message, self._context)
        self._failure = failure

    def _beat(self) -> None:
        while not self._stopping.wait(_HEARTBEAT_SECONDS):
            try:
                self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
            except httpx.HTTPError:
                continue  # One may be missed; if the SuperNode has gone, the executor's loop notices.


def error_reply(message: Message, code: str, reason: str) -> Message:
    """Return a Flower error reply whose reason reads ``code: reason``; the ServerApp parses it."""
    return Message(Error(code=ErrorCode.INVALID_FAB, reason=f"{code}: {reason}"), reply_to=message)


@contextmanager
def _boundary() -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, RuntimeError) as error:
        raise UnavailableError(
            f"the SuperNode's runtime API does not answer ({type(error).__name__})"
        ) from error


def _end_with_parent() -> None:
    """End this process when its parent does: standard input is a pipe that only the parent holds."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


def _run_supernode() -> None:
    """Run the stock SuperNode with this process's arguments."""
    from flwr.supernode.cli import flower_supernode  # noqa: PLC0415  only this process is a SuperNode

    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    flower_supernode()


if __name__ == "__main__":
    _run_supernode()
