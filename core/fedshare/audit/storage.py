"""Files that survive a kill: written whole, renamed into place, synchronised to the disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fedshare.errors import StorageError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["MAX_FILE_BYTES", "FolderSource", "make_folder", "move_file", "sync_folders", "write_file"]

# No tile, bundle or checkpoint is longer: 256 entries of 65,535 bytes with their lengths.
MAX_FILE_BYTES = 256 * (2**16 + 1)


class FolderSource:
    """A log's folder as a `Source`: a copy on a disk, or the log's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str) -> bytes:
        """Return the file's bytes.

        Raises:
            UnavailableError: there is no such file, or it cannot be read, or is longer than any file of a
                log.
        """
        try:
            with (self._folder / path).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise UnavailableError(f"the log's folder has no readable file {path}") from error
        if len(data) > MAX_FILE_BYTES:
            raise UnavailableError(f"the log's file {path} is longer than any file of a log can be")
        return data


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write ``data`` to ``path`` so that a crash leaves the old file or the new one, never a part.

    The data is on the disk when this returns; the name is once `sync_folders` has run on the folder.

    Raises:
        StorageError: the disk refused.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"could not write {path.name}: {error.strerror}") from error


def move_file(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target`` in the same folder, durably.

    Raises:
        StorageError: the disk refused.
    """
    try:
        source.replace(target)
    except OSError as error:
        raise StorageError(f"could not rename {source.name}: {error.strerror}") from error
    sync_folders([target.parent])


def make_folder(folder: Path) -> None:
    """Create ``folder`` and its parents, each durably named in its parent.

    Raises:
        StorageError: the disk refused.
    """
    missing = [folder]
    while not missing[-1].parent.is_dir():
        missing.append(missing[-1].parent)
    try:
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(f"could not create {folder.name}: {error.strerror}") from error
    sync_folders(path.parent for path in missing)


def sync_folders(folders: Iterable[Path]) -> None:
    """Make the names in ``folders`` durable.

    Raises:
        StorageError: the disk refused.
    """
    try:
        for folder in set(folders):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise StorageError(f"could not synchronise a folder: {error.strerror}") from error
