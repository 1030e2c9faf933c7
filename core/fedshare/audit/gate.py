"""The gate before a phase: a node goes on only once its opening is in a log that everyone else sees too.

The coordinator sends an `Opening`; the node keeps the last checkpoint that it accepted, in its own state, and
calls `verify_opening`. Whatever is missing or wrong raises: the node fails closed.

::

    opening = prove_opening(FolderSource(log_folder), index, size_that_the_node_has_seen)      # coordinator
    seen, statement = verify_opening(opening, policy, coordinator_key, seen)                   # node; store
    seen
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedshare.audit.entries import Entry, EntryVerifier
from fedshare.audit.hashing import EMPTY_ROOT
from fedshare.audit.proofs import consistency_proof, verify_consistency
from fedshare.audit.receipts import Receipt, make_receipt
from fedshare.audit.statements import COORDINATOR, PhaseOpened, RunOpened
from fedshare.audit.tiles import Tiles
from fedshare.errors import ProtocolError

if TYPE_CHECKING:
    from fedshare.audit.checkpoint import Checkpoint
    from fedshare.audit.policy import Policy
    from fedshare.audit.tiles import Source

__all__ = ["Opening", "prove_opening", "verify_opening"]


@dataclass(frozen=True, slots=True)
class Opening:
    """What the coordinator shows a node.

    Attributes:
        receipt: of the opening entry, under the published checkpoint, as `Receipt.to_bytes` writes it.
        consistency: the proof from the tree that the node has seen to that checkpoint's.
    """

    receipt: bytes
    consistency: tuple[bytes, ...]


def prove_opening(source: Source, index: int, seen_size: int) -> Opening:
    """Return the opening that entry ``index`` is, for a node that has seen the tree of ``seen_size``.

    Raises:
        ParameterError: the published log has no such entry, or fewer entries than the node has seen.
        UnavailableError: nothing is published, or a file is missing.
    """
    receipt = make_receipt(source, index)
    size = receipt.unverified_checkpoint().size
    return Opening(receipt.to_bytes(), tuple(consistency_proof(seen_size, size, Tiles(source, size))))


def verify_opening(
    opening: Opening, policy: Policy, coordinator_key: bytes, seen: Checkpoint | None
) -> tuple[Checkpoint, RunOpened | PhaseOpened]:
    """Return the checkpoint to remember and the opening that is in the log under it.

    Args:
        opening: from the coordinator; not trusted.
        policy: the witnesses that the contract asks for.
        coordinator_key: the coordinator's identity key, 32 bytes.
        seen: the last checkpoint that this node accepted, or ``None`` if this is its first.

    Raises:
        ProtocolError: the entry is not included, the checkpoint lacks its quorum or does not continue
            ``seen``, or the entry is not an opening signed by the coordinator.
    """
    receipt = Receipt.parse(opening.receipt)
    checkpoint = receipt.verify(receipt.extra, policy)
    size, root = (seen.size, seen.root) if seen else (0, EMPTY_ROOT)
    if seen is not None and seen.origin != checkpoint.origin:
        raise ProtocolError("the opening is in another log than the one this node has followed so far")
    verify_consistency(size, root, checkpoint.size, checkpoint.root, opening.consistency)
    entry = Entry.parse(receipt.extra)
    EntryVerifier().verify(entry, coordinator_key)
    statement = entry.statement
    if statement.issuer != COORDINATOR or not isinstance(statement, RunOpened | PhaseOpened):
        raise ProtocolError("expected the coordinator's opening of a run or a phase, found another entry")
    return checkpoint, statement
