"""Receipts: one entry's inclusion under a witnessed checkpoint, in one file (C2SP tlog-proof).

The ``extra`` line of ours carries the entry itself, so that the file alone shows what was logged; it counts
only once the proof has led from it to the root.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedshare.audit.checkpoint import Checkpoint, parse_decimal
from fedshare.audit.hashing import HASH_BYTES, expect_size, leaf_hash
from fedshare.audit.notes import decode_base64, parse_note
from fedshare.audit.proofs import MAX_PROOF_HASHES, inclusion_proof, verify_inclusion
from fedshare.audit.tiles import CHECKPOINT_PATH, TILE_WIDTH, Tiles, read_bundle
from fedshare.errors import ProtocolError

if TYPE_CHECKING:
    from fedshare.audit.policy import Policy
    from fedshare.audit.tiles import Source

__all__ = ["Receipt", "make_receipt"]

_HEADER = "c2sp.org/tlog-proof@v1"
_MAX_RECEIPT_BYTES = 2_000_000


@dataclass(frozen=True, slots=True)
class Receipt:
    """A self-contained proof of logging.

    Attributes:
        index: of the entry.
        proof: the inclusion proof, from the leaf's sibling up.
        checkpoint: the signed note, verbatim.
        extra: opaque; ours is the entry. Empty if the line is absent.
    """

    index: int
    proof: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes = b""

    @classmethod
    def parse(cls, data: bytes) -> Receipt:
        """Read a receipt without checking it: `verify` does.

        Raises:
            ProtocolError: it is not one.
        """
        if len(data) > _MAX_RECEIPT_BYTES:
            raise ProtocolError(
                f"expected a receipt of at most {_MAX_RECEIPT_BYTES} bytes, found {len(data)}"
            )
        head, separator, checkpoint = data.partition(b"\n\n")
        try:
            header, *lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise ProtocolError("expected a receipt whose proof lines are ASCII") from error
        if header != _HEADER or not separator:
            raise ProtocolError(f"expected a receipt that starts with {_HEADER} and holds a checkpoint")
        extra = b""
        if lines and lines[0].startswith("extra "):
            extra = decode_base64(lines.pop(0).removeprefix("extra "), "the extra data")
        if not lines or not lines[0].startswith("index "):
            raise ProtocolError("expected an index line in the receipt")
        index = parse_decimal(lines.pop(0).removeprefix("index "), "an index")
        if len(lines) > MAX_PROOF_HASHES:
            raise ProtocolError(f"expected at most {MAX_PROOF_HASHES} proof lines, found {len(lines)}")
        proof = tuple(decode_base64(line, "a proof element") for line in lines)
        if any(len(element) != HASH_BYTES for element in proof):
            raise ProtocolError(f"expected proof elements of {HASH_BYTES} bytes")
        parse_note(checkpoint)
        return cls(index, proof, checkpoint, extra)

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        lines = [_HEADER]
        if self.extra:
            lines.append("extra " + base64.b64encode(self.extra).decode())
        lines.append(f"index {expect_size(self.index, 'an index')}")
        lines += [base64.b64encode(element).decode() for element in self.proof]
        return "\n".join(lines).encode() + b"\n\n" + self.checkpoint

    def unverified_checkpoint(self) -> Checkpoint:
        """Return what the note says, its signatures unchecked."""
        return Checkpoint.parse(parse_note(self.checkpoint).text)

    def verify(self, entry: bytes, policy: Policy) -> Checkpoint:
        """Return the checkpoint if it satisfies ``policy`` and ``entry`` is in the log under it.

        Raises:
            ProtocolError: it is not, or the checkpoint does not.
        """
        checkpoint = policy.verify(self.checkpoint)
        verify_inclusion(leaf_hash(entry), self.index, checkpoint.size, self.proof, checkpoint.root)
        return checkpoint


def make_receipt(source: Source, index: int) -> Receipt:
    """Return the receipt of entry ``index`` of the log in ``source``, under its published checkpoint.

    The source is not trusted: `Receipt.verify` shows whether the receipt is worth anything.

    Raises:
        ParameterError: the published log has no such entry.
        ProtocolError: a file of the log is malformed.
        UnavailableError: a file of the log is missing.
    """
    note = source.read(CHECKPOINT_PATH)
    size = Checkpoint.parse(parse_note(note).text).size
    proof = inclusion_proof(index, size, Tiles(source, size))
    bundle, offset = divmod(index, TILE_WIDTH)
    entries = read_bundle(source, bundle, min(TILE_WIDTH, size - bundle * TILE_WIDTH))
    return Receipt(index, tuple(proof), note, entries[offset])
