"""The log on a disk: a folder of tiles that any web server can serve and anyone can copy.

Rules it keeps, whatever kills the process and whenever:

1. nothing is signed that is not durable: bundles and tiles first, then the checkpoint, each synchronised;
2. a file that a signed checkpoint needs is never rewritten: a larger tree writes other paths;
3. what `AuditLog.append` has returned is in every later tree.

A log without witnesses publishes each checkpoint itself. One with witnesses keeps the signed head in
``checkpoint.pending`` until enough of them have cosigned it, so that ``checkpoint`` always satisfies the
policy.

::

    with AuditLog.open(folder, signer) as log:
        places = log.append([entry, another])       # durable when this returns
        log.submission(old_size)                    # what to ask a witness
        log.publish([cosignature_line, ...])        # what the witnesses answered
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from typing import TYPE_CHECKING, Self

from fedshare.audit.checkpoint import Checkpoint
from fedshare.audit.hashing import EMPTY_ROOT, HASH_BYTES, MAX_TREE_SIZE, edge_root, leaf_hash, perfect_root
from fedshare.audit.notes import Note, open_note, parse_note, parse_signature_lines
from fedshare.audit.proofs import consistency_proof
from fedshare.audit.storage import FolderSource, make_folder, move_file, sync_folders, write_file
from fedshare.audit.tiles import (
    CHECKPOINT_PATH,
    MAX_ENTRY_BYTES,
    TILE_WIDTH,
    Tiles,
    bundle_path,
    encode_bundle,
    read_bundle,
    tile_path,
)
from fedshare.audit.witnessing import Submission
from fedshare.errors import ConfigError, ParameterError, ProtocolError, StorageError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from types import TracebackType

    from fedshare.audit.notes import NoteKey, NoteSigner
    from fedshare.audit.policy import Policy

__all__ = ["PENDING_PATH", "AuditLog"]

PENDING_PATH = "checkpoint.pending"
_LOCK_PATH = ".lock"
_RESTART = "restore the folder from where it was last good; do not let the log sign on"


class AuditLog:
    """The one writer of a log's folder. Use `open`; not safe for threads."""

    def __init__(self, folder: Path, signer: NoteSigner, policy: Policy | None, lock: int) -> None:
        self._folder = folder
        self._signer = signer
        self._policy = policy
        self._lock = lock
        self._source = FolderSource(folder)
        self._head = b""
        self._checkpoint = Checkpoint(signer.key.name, 0, EMPTY_ROOT)
        self._tail: list[bytes] = []  # the entries of the rightmost, partial bundle
        self._edges: list[list[bytes]] = [[]]  # the hashes of the rightmost, partial tile of every level
        self._outgrown: set[Path] = set()  # folders of partial tiles whose full tile is written

    @classmethod
    def open(cls, folder: Path, signer: NoteSigner, policy: Policy | None = None) -> Self:
        """Open the log in ``folder``, or begin one, and take it for this process alone.

        Args:
            folder: created if it is not there.
            signer: the log's key; its name is the log's origin.
            policy: the witnesses that must cosign before a checkpoint is published; ``None`` if none must.

        Raises:
            ConfigError: the policy is for another log.
            StorageError: another process has it, the disk refused, or the folder is not the log that it
                signed.
        """
        if policy is not None:
            _expect_own(policy, signer)
        make_folder(folder)
        lock = os.open(folder / _LOCK_PATH, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise StorageError("another process has this log open: there is one writer") from error
        log = cls(folder, signer, policy, lock)
        try:
            log._recover()
        except BaseException:
            log.close()
            raise
        return log

    def close(self) -> None:
        """Give the folder up. What was appended is durable already."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether it takes entries: not after `close`, nor after the disk has refused."""
        return self._lock >= 0

    @property
    def key(self) -> NoteKey:
        """The key that signs its heads."""
        return self._signer.key

    @property
    def checkpoint(self) -> Checkpoint:
        """The head of everything appended, published or not."""
        return self._checkpoint

    @property
    def head(self) -> bytes:
        """The head as the note that this log signed, with the cosignatures it has."""
        return self._head

    def require(self, policy: Policy) -> None:
        """From here on, publish a head only when it satisfies ``policy``.

        Raises:
            ConfigError: the policy is for another log.
        """
        _expect_own(policy, self._signer)
        self._policy = policy

    def append(self, entries: Sequence[bytes]) -> range:
        """Append ``entries`` durably, all or none, and return their indices.

        Args:
            entries: at least one, at most 65,535 bytes each.

        Raises:
            ParameterError: an entry is too long, or there are none.
            StorageError: the disk refused; the log must be opened again.
        """
        size = self._checkpoint.size
        if not entries or any(len(entry) > MAX_ENTRY_BYTES for entry in entries):
            raise ParameterError(f"expected entries of at most {MAX_ENTRY_BYTES} bytes, at least one")
        if size + len(entries) > MAX_TREE_SIZE or self._lock < 0:
            raise StorageError("the log is full or closed: open it again")
        try:
            self._write_tiles(entries)
            self._sign(Checkpoint(self._checkpoint.origin, size + len(entries), edge_root(self._edges)))
        except BaseException:
            self.close()  # memory and disk may differ now: only recovery may go on
            raise
        return range(size, size + len(entries))

    def submission(self, old_size: int) -> bytes:
        """Return the ``add-checkpoint`` request for a witness that has seen the tree of ``old_size``.

        Raises:
            ParameterError: the witness has seen more than this log has: the log was rolled back.
        """
        size = self._checkpoint.size
        proof = consistency_proof(old_size, size, Tiles(self._source, size))
        return Submission(old_size, tuple(proof), self._head).to_bytes()

    def publish(self, cosignatures: Iterable[str]) -> bool:
        """Add witnesses' signature lines to the head; publish it if the policy is satisfied, and say so.

        Lines of keys that the policy does not name are left out, and so are bad ones, because a faulty
        witness must not stop the others.

        Raises:
            StorageError: the disk refused.
        """
        note = parse_note(self._head)
        lines = {(line.name, line.key_id): line for line in note.lines}
        keys = [witness.key for witness in self._policy.witnesses.values()] if self._policy else []
        for text in cosignatures:
            with contextlib.suppress(ProtocolError):
                for line in parse_signature_lines(text):
                    for key in filter(line.is_by, keys):
                        key.verify(note.text, line.signature)
                        lines[line.name, line.key_id] = line
        self._head = str(Note(note.text, tuple(lines.values()))).encode()
        return self._publish()

    def _publish(self) -> bool:
        """Store the head, in public if the policy is satisfied."""
        is_public = True
        if self._policy is not None:
            _, cosigners, _ = self._policy.open(self._head)
            is_public = self._policy.is_met_by(cosigners)
        # Durable first and public second: nobody may see a head that a power cut could still take back.
        write_file(self._folder / PENDING_PATH, self._head)
        sync_folders([self._folder])
        if is_public:
            move_file(self._folder / PENDING_PATH, self._folder / CHECKPOINT_PATH)
            self._drop_partials()
        return is_public

    def _sign(self, checkpoint: Checkpoint) -> None:
        line = self._signer.sign(checkpoint.text)
        self._head = f"{checkpoint.text}\n{line}".encode()
        self._publish()
        self._checkpoint = checkpoint

    def _write_tiles(self, entries: Sequence[bytes]) -> None:
        """Write every bundle and tile that ``entries`` complete or widen, and make them durable."""
        files: dict[str, bytes] = {}
        first, tail = self._checkpoint.size // TILE_WIDTH, [*self._tail, *entries]
        for at in range(0, len(tail), TILE_WIDTH):
            bundle = tail[at : at + TILE_WIDTH]
            files[bundle_path(first + at // TILE_WIDTH, len(bundle))] = encode_bundle(bundle)
            self._note_outgrown(bundle_path(first + at // TILE_WIDTH), len(bundle))
        self._tail = tail[len(tail) // TILE_WIDTH * TILE_WIDTH :]
        carry, level, below = [leaf_hash(entry) for entry in entries], 0, self._checkpoint.size
        while carry:
            if level == len(self._edges):
                self._edges.append([])
            hashes, index = [*self._edges[level], *carry], below // TILE_WIDTH
            carry = []
            for at in range(0, len(hashes), TILE_WIDTH):
                tile = hashes[at : at + TILE_WIDTH]
                files[tile_path(level, index + at // TILE_WIDTH, len(tile))] = b"".join(tile)
                self._note_outgrown(tile_path(level, index + at // TILE_WIDTH), len(tile))
                if len(tile) == TILE_WIDTH:
                    carry.append(perfect_root(tile))
            self._edges[level] = hashes[len(hashes) // TILE_WIDTH * TILE_WIDTH :]
            level, below = level + 1, below // TILE_WIDTH
        folders = {(self._folder / path).parent for path in files}
        for folder in folders:
            make_folder(folder)
        for path, data in files.items():
            write_file(self._folder / path, data)
        sync_folders(folders)

    def _note_outgrown(self, path: str, width: int) -> None:
        if width == TILE_WIDTH:
            self._outgrown.add(self._folder / (path + ".p"))

    def _drop_partials(self) -> None:
        """Remove partial tiles whose full tile the published checkpoint covers (C2SP tlog-tiles)."""
        for folder in self._outgrown:
            shutil.rmtree(folder, ignore_errors=True)
        self._outgrown.clear()

    def _recover(self) -> None:
        """Continue the tree of the newest signed head, or sign an empty one."""
        heads = [head for path in (CHECKPOINT_PATH, PENDING_PATH) if (head := self._read_head(path))]
        if not heads:
            if (self._folder / "tile").exists():
                raise StorageError(f"the log's folder has tiles but no signed checkpoint: {_RESTART}")
            self._sign(self._checkpoint)
            return
        self._checkpoint, self._head = max(heads, key=lambda head: head[0].size)
        size, tiles = self._checkpoint.size, Tiles(self._source, self._checkpoint.size)
        try:
            if width := size % TILE_WIDTH:
                self._tail = read_bundle(self._source, size // TILE_WIDTH, width)
            level = 0
            self._edges = []
            while size >> (8 * level) or not self._edges:
                index, width = divmod(size >> (8 * level), TILE_WIDTH)
                data = tiles.tile(level, index) if width else b""
                self._edges.append([data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)])
                level += 1
        except (ProtocolError, UnavailableError) as error:
            raise StorageError(f"the log's right edge cannot be read: {error}; {_RESTART}") from error
        if (
            edge_root(self._edges) != self._checkpoint.root
            or list(map(leaf_hash, self._tail)) != self._edges[0]
        ):
            raise StorageError(f"the log's tiles do not lead to its signed checkpoint: {_RESTART}")
        if (self._folder / PENDING_PATH).exists():
            self._publish()  # all that is missing may be the renaming

    def _read_head(self, path: str) -> tuple[Checkpoint, bytes] | None:
        try:
            data = self._source.read(path)
        except UnavailableError:
            return None
        try:
            checkpoint = Checkpoint.parse(open_note(data, [self._signer.key]).text)
        except ProtocolError as error:
            raise StorageError(f"the log's {path} is not signed by its key: {error}; {_RESTART}") from error
        if checkpoint.origin != self._signer.key.name:
            raise StorageError(f"the log's {path} is of another log: {_RESTART}")
        return checkpoint, data


def _expect_own(policy: Policy, signer: NoteSigner) -> None:
    if signer.key not in [log.key for log in policy.logs]:
        raise ConfigError("expected a policy that names this log's key: correct the policy file")
