"""Threads of a serving run: what goes wrong in one of them ends the run, whatever it is."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from fedshare.errors import FedshareError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["start_threads"]

_log = logging.getLogger(__name__)


def start_threads(
    name: str,
    works: Iterable[Callable[[], None]],
    is_closed: Callable[[], bool],
    fail: Callable[[FedshareError], None],
) -> None:
    """Start one thread for each of ``works``.

    Args:
        name: of the threads.
        works: what each does until it returns or raises.
        is_closed: whether the run is over, so that errors are only its end.
        fail: told the error of a thread otherwise.
    """

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except FedshareError as error:
            if not is_closed():
                fail(error)
        except Exception:  # noqa: BLE001 - a defect must end the run at every party, not only here
            _log.exception("%s: a serving thread failed unexpectedly", name)
            fail(FedshareError("serving failed unexpectedly; the node's log says why"))

    for number, work in enumerate(works):
        threading.Thread(target=guarded, args=(work,), name=f"{name}-{number}", daemon=True).start()
