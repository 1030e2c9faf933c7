"""What this institution says about itself: signed, kept in its own log, and handed to the common one.

The private log has the format of the common one (``fedshare-audit show`` reads it) and holds more: every
statement that was handed in, and events that never leave the state folder.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from fedshare.audit.commitments import commit
from fedshare.audit.entries import Entry, EntrySigner
from fedshare.audit.log import AuditLog
from fedshare.audit.statements import PrivateEvent, PrivateHead
from fedshare.audit.storage import FolderSource
from fedshare.audit.tiles import TILE_WIDTH, read_bundle
from fedshare.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fedshare.audit.notes import NoteSigner
    from fedshare.audit.statements import Statement
    from fedshare.identity.keys import IdentityKey

__all__ = ["Trail"]


class Trail:
    """Signs statements of one party. Safe for threads; one process at a time.

    Args:
        party: the issuer of every statement.
        identity: its key.
        folder: of the private log.
        signer: of the private log.
        hand_in: takes the entries that belong into the common log, too.
        clock: answers POSIX seconds.

    Raises:
        StorageError: another process of this node runs, or the private log is damaged.
    """

    def __init__(
        self,
        party: str,
        identity: IdentityKey,
        folder: Path,
        signer: NoteSigner,
        hand_in: Callable[[list[bytes]], object],
        clock: Callable[[], float],
    ) -> None:
        self._party = party
        self._signer = EntrySigner(identity)
        self._hand_in = hand_in
        self._clock = clock
        self._guard = threading.Lock()
        self._private = AuditLog.open(folder, signer)
        self._latest = _latest_time(folder, self._private.checkpoint.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._private.close()

    def log(self, kind: type[Statement], **fields: Any) -> None:  # noqa: ANN401 - the statement checks them
        """Sign a statement about what this party did and log it, in the common log too unless it is private.

        It is durable here before it is handed in, and in the common log when this returns.

        Args:
            kind: one of ``fedshare.audit.statements``; the issuer and the time are filled in.
            fields: the rest of it. Nothing in it may identify an enterprise.

        Raises:
            ParameterError: the statement has no such fields, or not such values.
            RefusedError: it is about a run that is closed in the common log.
            StorageError: the disk refused.
            UnavailableError: the coordinator cannot be reached.
        """
        with self._guard:
            # Later than every time before: an auditor takes an equal one for a replay.
            issued_at = max(int(self._clock()), self._latest + 1)
            try:
                statement = kind(issuer=self._party, issued_at=issued_at, **fields)
            except ValidationError as error:
                raise ParameterError(f"expected the fields of {kind.__name__}, found others") from error
            self._latest = issued_at
            entry = self._signer.sign(statement)
            self._private.append([entry])
            if not isinstance(statement, PrivateEvent):
                self._hand_in([entry])  # in the order of the times, or an auditor takes one for a replay

    def note(self, event: str, run_id: int, **facts: str) -> None:
        """Keep an event in the private log only. Raises as ``log``."""
        self.log(PrivateEvent, event=event, run_id=str(run_id), facts=facts)

    def commit_head(self, run_id: int, randomness: Callable[[int], bytes]) -> None:
        """Pin the private log down in the common one, without showing it. Raises as ``log``."""
        head = self._private.checkpoint.text.encode()
        commitment, nonce = commit(head, randomness)
        self.note("head_committed", run_id, commitment=commitment, nonce=nonce.hex())
        self.log(PrivateHead, commitment=commitment)


def _latest_time(folder: Path, size: int) -> int:
    if not size:
        return 0
    bundle, offset = divmod(size - 1, TILE_WIDTH)
    last = read_bundle(FolderSource(folder), bundle, offset + 1)[offset]
    return Entry.parse(last).statement.issued_at
