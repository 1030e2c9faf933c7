"""The coordinator and the nodes of a federation in one folder, as processes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fedshare.errors import RunFailedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from .processes import Processes

__all__ = ["node_command", "start_coordinator", "start_nodes"]

_READY_SECONDS = 120.0
_POLL_SECONDS = 0.1


def node_command(out: Path, party: str) -> list[str]:
    """Return how ``fedshare-node`` is called for a party of the federation in ``out``."""
    return ["fedshare-node", "--config", str(out / party / "node.yaml")]


def start_coordinator(processes: Processes, out: Path) -> None:
    """Start the coordinator whose state is in ``out/coordinator`` and wait until it answers.

    Raises:
        RunFailedError: it ended instead.
        UnavailableError: it does not answer.
    """
    ready = out / "coordinator-ready"
    ready.unlink(missing_ok=True)
    processes.start("coordinator", ["fedshare-server", "run", "--ready-file", str(ready)])
    deadline = time.monotonic() + _READY_SECONDS
    while not ready.exists():
        if killed := processes.verify_alive():
            raise RunFailedError(killed)
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"waited {_READY_SECONDS:.0f} s for the coordinator to answer; its log is in the output folder"
            )
        time.sleep(_POLL_SECONDS)


def start_nodes(processes: Processes, out: Path, parties: Iterable[str]) -> None:
    """Start every party's node."""
    for party in parties:
        processes.start(party, [*node_command(out, party), "run"])
