"""Child processes of the local harness: each in a group of its own, logged to a file, ended with its group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from fedshare.errors import FedshareError, RunFailedError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

__all__ = ["Processes"]

_GRACE_SECONDS = 15.0


class Processes:
    """The processes of one federation; leaving the context ends all of them, whatever happened, the first one last."""

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs = logs
        self._environment = {**os.environ, **environment}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = list(self._running.values())
        # The coordinator last: a node that cannot take its leave of it would be refused for a minute after a new start.
        _end(running[1:])
        _end(running[:1])

    def call(self, name: str, command: Sequence[str]) -> str:
        """Run ``command`` to its end and return what it printed.

        Raises:
            RunFailedError: it failed; the message is the last line of its error output.
        """
        done = subprocess.run(
            _own_command(command), env=self._environment, capture_output=True, text=True, check=False
        )
        with (self._logs / f"{name}.log").open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}")
        if done.returncode:
            raise _failure(name, done.stderr or done.stdout, done.returncode)
        return done.stdout

    def start(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start ``command`` in a process group of its own and keep it until the context is left."""
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                _own_command(command),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running[name] = process
        return process

    def has_ended(self, name: str) -> bool:
        """Whether a process that was started has ended, in whatever way."""
        return self._running[name].poll() is not None

    def verify_alive(self, but: Collection[str] = ()) -> str:
        """Return which process was killed by a signal, empty if all run; those in ``but`` may end as they like.

        Raises:
            RunFailedError: one of them ended by itself; with the last line of its log.
        """
        for name, process in self._running.items():
            if name in but:
                continue
            code = process.poll()
            if code is not None and code < 0:
                return f"{name}: its process was killed by {signal.Signals(-code).name}"
            if code is not None:
                text = (self._logs / f"{name}.log").read_text(encoding="utf-8", errors="replace")
                raise _failure(name, text, code)
        return ""


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes with their groups, by force if they take too long."""
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal_group(process, signal.SIGKILL)
            process.wait()


def _own_command(command: Sequence[str]) -> list[str]:
    """Return ``command`` with a command of this installation named by its place beside the interpreter."""
    beside = os.path.join(os.path.dirname(sys.executable), command[0])  # noqa: PTH118, PTH120
    return [beside if os.path.exists(beside) else command[0], *command[1:]]  # noqa: PTH110


def _failure(name: str, output: str, code: int) -> FedshareError:
    lines = [line for line in output.strip().splitlines() if line.strip()]
    cause = lines[-1] if lines else f"it printed nothing and exited with {code}"
    cause = cause.removeprefix("fedshare-node: ").removeprefix("fedshare-server: ")
    error = RunFailedError(f"{name}: {cause}")
    if 1 < code < 10:
        error.exit_code = code
    return error


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
