"""What the coordinator remembers: parties, invitations, contracts, decisions, runs, progress and events.

SQLite in the state folder by default, PostgreSQL by URL. Nothing here is secret from the operator and nothing
carries data: identifiers, public keys, digests, signed decisions and counts. Contracts and decisions are only
ever added; the database itself refuses to change or delete them. What belongs into the audit log is stored
with what it is about, in one transaction, and moved into the log by `fedshare_server.notary`.

Example::

    store = open_store("sqlite:////var/lib/fedshare/fedshare.db")
    store.parties()
"""

from fedshare_server.storage.records import (
    ContractRecord,
    DecisionRecord,
    EventRecord,
    InvitationRecord,
    LogRecord,
    PartyRecord,
    ProgressRecord,
    RunRecord,
)
from fedshare_server.storage.store import Store, open_store

__all__ = [
    "ContractRecord",
    "DecisionRecord",
    "EventRecord",
    "InvitationRecord",
    "LogRecord",
    "PartyRecord",
    "ProgressRecord",
    "RunRecord",
    "Store",
    "open_store",
]
