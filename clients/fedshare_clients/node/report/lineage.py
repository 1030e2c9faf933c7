"""What the institution's own log says about a run, for the report's lineage."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from fedshare.audit.checkpoint import Checkpoint
from fedshare.audit.entries import Entry
from fedshare.audit.notes import parse_note
from fedshare.audit.receipts import make_receipt
from fedshare.audit.statements import PrivateEvent
from fedshare.audit.storage import FolderSource
from fedshare.audit.tiles import CHECKPOINT_PATH, TILE_WIDTH, read_bundle

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["own_statements"]


def own_statements(folder: Path, run_id: int) -> dict[str, Any] | None:
    """Return the log's head, how many statements of each kind it holds about one run, and the receipts of those.

    Events that are kept for this institution alone have no receipt here.

    The log is this institution's own and is not verified here; ``fedshare-audit`` does that.

    Args:
        folder: the private log.
        run_id: of the run.

    Returns:
        ``None`` if there is no log.

    Raises:
        ProtocolError: the log is damaged.
        UnavailableError: a part of it is missing.
    """
    path = folder / CHECKPOINT_PATH
    if not path.exists():
        return None
    head = Checkpoint.parse(parse_note(path.read_bytes()).text)
    source, kinds, receipts = FolderSource(folder), Counter[str](), []
    for first in range(0, head.size, TILE_WIDTH):
        bundle = read_bundle(source, first // TILE_WIDTH, min(TILE_WIDTH, head.size - first))
        for offset, entry in enumerate(bundle):
            statement = Entry.parse(entry).statement
            if getattr(statement, "run_id", "") == str(run_id):
                kinds[statement.kind] += 1
                if not isinstance(statement, PrivateEvent):
                    receipts.append(make_receipt(source, first + offset).to_bytes().decode())
    return {
        "log": head.origin,
        "size": head.size,
        "root": head.root.hex(),
        "statements": dict(sorted(kinds.items())),
        "receipts": receipts,
    }
