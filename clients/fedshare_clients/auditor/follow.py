"""Following a log: fetch what is new, refuse what does not continue what was seen, keep a verifiable copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedshare.audit.checkpoint import Checkpoint
from fedshare.audit.hashing import EMPTY_ROOT, HASH_BYTES, leaf_hash
from fedshare.audit.proofs import consistency_proof, verify_consistency
from fedshare.audit.storage import FolderSource, make_folder, sync_folders, write_file
from fedshare.audit.tiles import (
    CHECKPOINT_PATH,
    TILE_WIDTH,
    Tiles,
    bundle_path,
    encode_bundle,
    read_bundle,
    tile_path,
)
from fedshare.errors import ProtocolError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from fedshare.audit.policy import Policy
    from fedshare.audit.tiles import Source

__all__ = ["Step", "follow_once"]


@dataclass(frozen=True, slots=True)
class Step:
    """What one look at the log brought: the checkpoint now, and the entries since the last one."""

    checkpoint: Checkpoint
    new: range


def follow_once(source: Source, folder: Path, policy: Policy) -> Step:
    """Bring the copy in ``folder`` up to the log's checkpoint.

    Source: C2SP tlog-tiles, "Log entries", on clients that tail a log.

    Raises:
        ProtocolError: the checkpoint does not satisfy the policy, does not continue the copy, or the files do
            not belong to it. Keep the copy: it is the evidence.
        UnavailableError: the log cannot be read now.
        StorageError: the disk refused.
    """
    note = source.read(CHECKPOINT_PATH)
    checkpoint = policy.verify(note)
    seen = _seen(folder, checkpoint.origin, policy)
    if checkpoint.size < seen.size:
        raise ProtocolError(
            f"the log had {seen.size} entries and shows {checkpoint.size}: it was rolled back"
        )
    tiles = Tiles(source, checkpoint.size)
    proof = consistency_proof(seen.size, checkpoint.size, tiles)
    verify_consistency(seen.size, seen.root, checkpoint.size, checkpoint.root, proof)
    _copy(source, folder, checkpoint.size, seen.size, tiles)
    write_file(folder / CHECKPOINT_PATH, note)
    sync_folders([folder])
    return Step(checkpoint, range(seen.size, checkpoint.size))


def _seen(folder: Path, origin: str, policy: Policy) -> Checkpoint:
    make_folder(folder)
    try:
        checkpoint, _, _ = policy.open(FolderSource(folder).read(CHECKPOINT_PATH))
    except UnavailableError:
        return Checkpoint(origin, 0, EMPTY_ROOT)
    if checkpoint.origin != origin:
        raise ProtocolError("the folder is a copy of another log: give every log its own")
    return checkpoint


def _copy(source: Source, folder: Path, size: int, seen: int, tiles: Tiles) -> None:
    """Write the bundles and tiles from entry ``seen`` on; entries have to hash to their tiles."""
    folders: set[Path] = set()

    def write(path: str, data: bytes) -> None:
        make_folder((folder / path).parent)
        write_file(folder / path, data)
        folders.add((folder / path).parent)

    for index in range(seen // TILE_WIDTH, -(-size // TILE_WIDTH)):
        width = min(TILE_WIDTH, size - index * TILE_WIDTH)
        entries, tile = read_bundle(source, index, width), tiles.tile(0, index)
        if [tile[at : at + HASH_BYTES] for at in range(0, len(tile), HASH_BYTES)] != [
            *map(leaf_hash, entries)
        ]:
            raise ProtocolError(
                f"entries from {index * TILE_WIDTH} on do not hash to their tile: refuse them"
            )
        write(bundle_path(index, width), encode_bundle(entries))
    level = 0
    while size >> (8 * level):
        count, first = size >> (8 * level), (seen >> (8 * level)) // TILE_WIDTH
        for index in range(first, -(-count // TILE_WIDTH)):
            write(
                tile_path(level, index, min(TILE_WIDTH, count - index * TILE_WIDTH)), tiles.tile(level, index)
            )
        level += 1
    sync_folders(folders)
