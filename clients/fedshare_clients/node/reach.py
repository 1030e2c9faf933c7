"""Whether the coordinator can be reached: what the SuperNode keeps to itself and the node's operator has to know.

Flower's SuperNode connects, and reconnects, by itself for as long as it takes. So the node looks at the port on its
own: ``await_coordinator`` at the start, with growing pauses up to a limit, and a ``Watch`` afterwards, which says in the
log when the coordinator goes and when it is back.
"""

from __future__ import annotations

import logging
import socket
import time
from typing import TYPE_CHECKING, Final

from fedshare.errors import UnavailableError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

__all__ = ["Watch", "await_coordinator", "probe"]

_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 30.0
_PROBE_SECONDS: Final = 3.0

_log = logging.getLogger(__name__)


def probe(address: str) -> str:
    """Return why no TCP connection to ``host:port`` can be made; empty if one can."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PROBE_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def await_coordinator(
    address: str, timeout_seconds: float, stopping: threading.Event, probe: Callable[[str], str] = probe
) -> None:
    """Return when the coordinator can be reached, or ``stopping`` is set.

    Raises:
        UnavailableError: it cannot be reached within ``timeout_seconds``.
    """
    deadline, pause = time.monotonic() + timeout_seconds, _FIRST_PAUSE_SECONDS
    while not stopping.is_set() and (cause := probe(address)):
        left = deadline - time.monotonic()
        if left <= 0:
            raise UnavailableError(
                f"the coordinator at {address} could not be reached for {timeout_seconds:g} seconds ({cause}): check "
                "that it runs, that the address is the invitation's, and that this host may connect to it"
            )
        _log.warning("the coordinator at %s cannot be reached (%s); trying again", address, cause)
        stopping.wait(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


class Watch:
    """Says in the log when the coordinator goes and when it is back; ``look`` as often as you like."""

    def __init__(
        self,
        address: str,
        *,
        probe: Callable[[str], str] = probe,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._probe = probe
        self._clock = clock
        self._gone_since: float | None = None
        self._pause = _LONGEST_PAUSE_SECONDS
        self._next = clock() + self._pause

    def look(self) -> None:
        """Try the port if it is time, and say what has changed."""
        now = self._clock()
        if now < self._next:
            return
        cause = self._probe(self._address)
        if cause and self._gone_since is None:
            self._gone_since, self._pause = now, _FIRST_PAUSE_SECONDS
            _log.warning(
                "the coordinator at %s cannot be reached (%s); this node goes on trying", self._address, cause
            )
        elif cause:
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        elif self._gone_since is not None:
            _log.warning(
                "the coordinator at %s can be reached again, after %.0f s",
                self._address,
                now - self._gone_since,
            )
            self._gone_since, self._pause = None, _LONGEST_PAUSE_SECONDS
        self._next = now + self._pause
