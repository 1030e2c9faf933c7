"""Runs one of Flower's stock programs for the coordinator, and ends it when the coordinator ends.

``python -m fedshare_server.superlink_child superlink|superexec ARGUMENTS``, with standard input a pipe whose
other end only the parent holds: it closes when the parent ends, however it does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

_GRACE_SECONDS = 5.0


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


def _main() -> None:
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    if sys.argv.pop(1) == "superlink":
        from flwr.superlink.cli import flower_superlink  # noqa: PLC0415  one program per process

        flower_superlink()
    else:
        from flwr.supercore.cli import flower_superexec  # noqa: PLC0415

        flower_superexec()


if __name__ == "__main__":
    _main()
