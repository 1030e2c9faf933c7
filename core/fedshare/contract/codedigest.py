"""The code digest: which code a contract is for."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["code_digest"]


def code_digest(packages: Iterable[Path]) -> str:
    """Return a SHA-256 over the Python files of installed packages, hexadecimal.

    The digest is over one line per file, ``sha256  package/relative/path``, sorted by path: the same as
    ``sha256sum`` would print. Caches and other files do not count.

    Args:
        packages: the packages' own folders, e.g. ``.../site-packages/fedshare``.
    """
    lines = []
    for package in packages:
        for path in package.rglob("*.py"):
            name = f"{package.name}/{path.relative_to(package).as_posix()}"
            lines.append((name, hashlib.sha256(path.read_bytes()).hexdigest()))
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(lines))
    return hashlib.sha256(text.encode()).hexdigest()
