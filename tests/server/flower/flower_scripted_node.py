"""A node whose part in a run is a script, by contract digest; started with a JSON file of settings."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from fedshare_clients.node.executor import run_node
from fedshare_clients.node.supernode import SuperNodeSettings


class ScriptedService:
    def __init__(self, party: str, behaviour: dict[str, dict[str, str]], journal: Path) -> None:
        self._party = party
        self._behaviour = behaviour
        self._journal = journal

    def handle_phase(self, run_id: int, phase: str, content: dict[str, Any]) -> dict[str, Any]:
        line = {
            "run": run_id,
            "phase": phase,
            "reason": content.get("reason", ""),
            "hellos": [hello.decode() for hello in content.get("hellos", [])],
        }
        with self._journal.open("a") as journal:
            journal.write(json.dumps(line) + "\n")
        todo = self._behaviour.get(content["contract_digest"], {}).get(phase, "ok")
        if todo == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if todo == "refuse":
            return {"status": "refused", "code": "contract_expired", "reason": "the contract ended yesterday"}
        reply: dict[str, Any] = {"status": "ok", "party": self._party}
        if phase == "hello":
            reply["hello"] = f"hello of {self._party}".encode()
        return reply


def main() -> None:
    words = json.loads(Path(sys.argv[1]).read_text())
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    run_node(
        SuperNodeSettings(words["fleet"], Path(words["ca"]), Path(words["key"]), Path(words["folder"])),
        ScriptedService(words["party"], words["behaviour"], Path(words["journal"])),
        stopping,
        lambda supernode: Path(words["ready"]).write_text(str(supernode.pid)),
    )


if __name__ == "__main__":
    main()
