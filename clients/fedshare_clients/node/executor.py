"""The gate: takes the tasks of the node's SuperNode and runs installed code only.

A Flower bundle comes from the coordinator. A stock executor unpacks it, puts it first on the path and
imports what its app table names, so whoever runs the coordinator would run code at every institution. This
executor reads the bundle as data, in memory, and

1. refuses one that is not the bundle the run states (hash) or holds anything but ``pyproject.toml``,
   ``README.md`` and Flower's own manifest;
2. refuses one whose app table names other components, or whose table says anything else that we do not
   expect;
3. refuses a run whose configuration says more than which contract is meant, and which training run's model if it is
   to be served;
4. hands the message to the *installed* ``fedshare_clients.node.app.handle``, in this process.

A refusal goes back as an error reply that the ServerApp shows; see docs/adr/0001-executor-gate.md.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import tomllib
import zipfile
from typing import TYPE_CHECKING, Any, Final

from fedshare.errors import RefusedError, UnavailableError

from ._flwr_runtime import Runtime, error_reply, require_supported_flwr
from .app import RunConfig, handle
from .reach import Watch, await_coordinator
from .supernode import SuperNode

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping

    from ._flwr_runtime import Task, TaskInput
    from .app import PhaseHandler
    from .supernode import SuperNodeSettings

__all__ = ["COMPONENTS", "execute", "run_node", "verify_bundle", "verify_run_config"]

COMPONENTS: Final = {"serverapp": "fedshare_server.app:app", "clientapp": "fedshare_clients.node.app:app"}
_FILES: Final = frozenset({"pyproject.toml", "README.md", ".info/CONTENT"})
_APP_TABLE: Final = frozenset({"publisher", "components", "config", "fab-include"})
_PROJECT_TABLE: Final = frozenset(
    {"name", "version", "description", "readme", "license", "license-files", "requires-python"}
)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_MODEL_RUN: Final = re.compile(r"(?:[1-9][0-9]{0,19})?")
_CONFIG: Final = frozenset({"contract_digest", "model_run"})
_MAX_BUNDLE_BYTES: Final = 2**18
_MAX_FILE_BYTES: Final = 2**18
_POLL_SECONDS: Final = 0.1
# A SuperNode needs some seconds to start; its runtime API answers before it has connected.
_START_POLLS: Final = 600

_log = logging.getLogger(__name__)


def run_node(
    settings: SuperNodeSettings,
    service: PhaseHandler,
    stopping: threading.Event,
    ready: Callable[[SuperNode], None] = lambda _: None,
) -> None:
    """Serve the coordinator's runs until ``stopping`` is set.

    Args:
        settings: how to reach the coordinator.
        service: the institution's part in a run.
        stopping: set it from a signal handler or another thread.
        ready: called once when tasks can be taken.

    Raises:
        UnavailableError: the coordinator cannot be reached, or the SuperNode ended because it does not know this node.
    """
    require_supported_flwr()
    await_coordinator(settings.fleet_address, settings.connect_timeout_seconds, stopping)
    watch = Watch(settings.fleet_address)
    with SuperNode(settings) as supernode:
        runtime = Runtime(supernode.runtime_address, supernode.secret)
        try:
            _await_start(supernode, runtime, service, stopping)
            ready(supernode)
            while not stopping.is_set():
                if not _serve_one(runtime, supernode, service):
                    watch.look()
                    stopping.wait(_POLL_SECONDS)
        finally:
            runtime.close()


def _await_start(
    supernode: SuperNode, runtime: Runtime, service: PhaseHandler, stopping: threading.Event
) -> None:
    for _ in range(_START_POLLS):
        supernode.verify_alive()
        if stopping.wait(_POLL_SECONDS):
            return
        try:
            task = runtime.acquire()
        except UnavailableError:
            continue
        if task is not None:
            execute(task, service)
        return
    raise UnavailableError(f"the SuperNode did not start within a minute: see {supernode.log_file}")


def _serve_one(runtime: Runtime, supernode: SuperNode, service: PhaseHandler) -> bool:
    """Return whether there was a task."""
    try:
        task = runtime.acquire()
        if task is None:
            supernode.verify_alive()
            return False
        execute(task, service)
    except UnavailableError as error:
        supernode.verify_alive()
        _log.warning("a task could not be finished: %s", error)
        return False
    return True


def execute(task: Task, service: PhaseHandler) -> None:
    """Take one task through the gate and answer it.

    Raises:
        UnavailableError: the SuperNode does not answer.
    """
    with task:
        request = task.pull()
        try:
            config = _pass_gate(request)
        except RefusedError as error:
            _log.error("run %d: refused before anything ran: %s", request.run_id, error)
            task.reply(error_reply(request.message, error.code, str(error)), failure=error.code)
            return
        task.reply(handle(request.message, config, service))


def _pass_gate(request: TaskInput) -> RunConfig:
    """Return the run's configuration."""
    verify_bundle(request.fab, request.fab_hash)
    return verify_run_config(request.run_config)


def verify_bundle(fab: bytes, fab_hash: str) -> None:
    """Return if the bundle is what our coordinator builds: settings, no code.

    Args:
        fab: a Flower bundle, a ZIP file; read in memory, never unpacked.
        fab_hash: SHA-256 that the run states, hex.

    Raises:
        RefusedError: ``bundle_carries_code`` if it holds an unexpected file, else ``bundle_differs``.
    """
    if len(fab) > _MAX_BUNDLE_BYTES:
        raise _differs(f"it has {len(fab)} bytes, at most {_MAX_BUNDLE_BYTES} are expected")
    if hashlib.sha256(fab).hexdigest() != fab_hash:
        raise _differs("its SHA-256 is not the one that the run states")
    try:
        with zipfile.ZipFile(io.BytesIO(fab)) as archive:
            _verify_files(archive)
            table = tomllib.loads(archive.read("pyproject.toml").decode())
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        RuntimeError,
        NotImplementedError,
        EOFError,
        OSError,
    ) as error:
        raise _differs("it is not a readable ZIP file") from error
    except (ValueError, KeyError, RecursionError) as error:
        raise _differs("its pyproject.toml is missing or not TOML in UTF-8") from error
    _verify_table(table)


def _verify_files(archive: zipfile.ZipFile) -> None:
    names = [info.filename for info in archive.infolist()]
    unexpected = [name for name in names if name not in _FILES]
    if unexpected:
        shown = ", ".join(repr(name[:80]) for name in unexpected[:3])
        raise RefusedError(
            "bundle_carries_code",
            f"the bundle holds {len(unexpected)} file(s) besides pyproject.toml and README.md ({shown}); "
            "nothing of it was run: the coordinator must start runs with `fedshare-server train`",
        )
    if len(set(names)) != len(names):
        raise _differs("it holds a file twice")
    if any(info.file_size > _MAX_FILE_BYTES for info in archive.infolist()):
        raise _differs(f"a file in it is larger than {_MAX_FILE_BYTES} bytes")


def _verify_table(table: dict[str, Any]) -> None:
    flower = _table(_table(table, "tool"), "flwr")
    app = _table(flower, "app")
    if (
        table.keys() - {"project", "tool"}
        or _table(table, "tool").keys() != {"flwr"}
        or flower.keys() != {"app"}
    ):
        raise _differs("its pyproject.toml has tables besides [project] and [tool.flwr.app]")
    if _table(app, "components") != COMPONENTS:
        raise _differs("its app table does not name the components that are installed here")
    unknown = (app.keys() - _APP_TABLE) | (_table(table, "project").keys() - _PROJECT_TABLE)
    if unknown:
        raise _differs(f"its pyproject.toml says more than expected: {', '.join(sorted(unknown))[:100]}")
    if _table(app, "config").keys() != _CONFIG:
        raise RefusedError(
            "run_config_differs",
            "a bundle's configuration names contract_digest and model_run and nothing else",
        )


def _table(table: dict[str, Any], name: str) -> dict[str, Any]:
    value = table.get(name)
    if not isinstance(value, dict):
        raise _differs(f"its pyproject.toml has no table {name}")
    return value


def verify_run_config(run_config: Mapping[str, object]) -> RunConfig:
    """Return the contract, and the training run whose model is served: all that a run may be configured with.

    Raises:
        RefusedError: ``run_config_differs``: there is another key, or a value is no digest or no number.
    """
    digest, model_run = run_config.get("contract_digest"), run_config.get("model_run")
    if (
        run_config.keys() != _CONFIG
        or not isinstance(digest, str)
        or not isinstance(model_run, str)
        or not _DIGEST.fullmatch(digest)
        or not _MODEL_RUN.fullmatch(model_run)
    ):
        raise RefusedError(
            "run_config_differs",
            "expected a run configuration with contract_digest, 64 hexadecimal digits, and model_run, empty or the "
            "number of a training run, and nothing else",
        )
    return RunConfig(digest, int(model_run) if model_run else None)


def _differs(what: str) -> RefusedError:
    return RefusedError("bundle_differs", f"the bundle is not the one that fedshare-server builds: {what}")
