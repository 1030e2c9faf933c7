"""The whole store: one database, seen as parties, contracts and runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fedshare_server.storage.contracts import ContractStore
from fedshare_server.storage.database import connect
from fedshare_server.storage.parties import PartyStore
from fedshare_server.storage.runs import RunStore

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Store", "open_store"]


class Store(PartyStore, ContractStore, RunStore):
    """Everything the coordinator remembers; safe to use from several threads and processes."""


def open_store(url: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Store:
    """Return the store at a database URL, its tables created if the database is empty.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql://user@host/name``.
        now: the clock that stamps rows, aware.

    Raises:
        ConfigError: the URL is wrong or the database has another schema.
        StorageError: the database refused.
        UnavailableError: the database server cannot be reached.
    """
    return Store(connect(url), now)
