"""The audit log of a local federation: a copy to keep, the policy to check it by, and the check."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from fedshare.audit.policy import Policy
from fedshare.audit.storage import FolderSource
from fedshare.errors import UnavailableError
from fedshare_clients.auditor.verify import verify_log

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from .processes import Processes

__all__ = ["keep_log", "verify_copy"]

# Not part of a log's folder (docs/audit-log.md).
_PRIVATE = shutil.ignore_patterns(".lock", "checkpoint.pending", "*.tmp")
_PUBLISHED_SECONDS = 30.0
_POLL_SECONDS = 0.2


def keep_log(processes: Processes, config: Path, contract: str, out: Path, spared: Collection[str]) -> None:
    """Copy the log into ``out/log`` once the witnesses have seen the end of the run, and a party's policy beside it.

    The nodes must be running, but for those in ``spared``: they are the witnesses.

    Args:
        processes: of the federation.
        config: of the party whose policy is taken; it is the party's word, not the coordinator's.
        contract: its name.
        out: of the federation.
        spared: parties that the run goes on without.

    Raises:
        UnavailableError: the end of the run does not come into the log.
    """
    policy = out / "policy.txt"
    text = processes.call("audit", ["fedshare-node", "--config", str(config), "contract", "policy", contract])
    policy.write_text(text, encoding="utf-8")
    log, parsed = out / "coordinator" / "log", Policy.parse(text.encode())
    deadline = time.monotonic() + _PUBLISHED_SECONDS
    while verify_log(FolderSource(log), parsed).findings:
        if time.monotonic() > deadline:
            break  # the copy is evidence, too: what is wrong with it comes out in the check
        processes.verify_alive(spared)
        time.sleep(_POLL_SECONDS)
    if not (log / "checkpoint").exists():
        raise UnavailableError(
            "the witnesses have not cosigned the audit log; the coordinator's log says why"
        )
    shutil.rmtree(out / "log", ignore_errors=True)  # of an earlier run of the same federation
    shutil.copytree(log, out / "log", ignore=_PRIVATE)


def verify_copy(processes: Processes, out: Path, say: Callable[[str], None]) -> None:
    """Check the copy as an auditor would, with nothing but the copy and the policy, and show the result.

    Raises:
        RunFailedError: the log is not good; ``logs/audit.log`` has every finding.
    """
    command = ["fedshare-audit", "verify", str(out / "log"), "--policy", str(out / "policy.txt")]
    first, *_, last = processes.call("audit", command).splitlines()
    say(f"audit: {first}; {last}")
