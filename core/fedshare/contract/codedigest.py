"""The code digest: which code a contract is for.

It is over what Python would import. The interpreter and the libraries under the code are not part of it.
"""

from __future__ import annotations

import hashlib
from importlib.machinery import all_suffixes
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fedshare.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PACKAGES", "code_digest", "installed_code_digest"]

#: What one wheel installs.
PACKAGES = ("fedshare", "fedshare_clients", "fedshare_server")

# A compiled module beside a source file is imported instead of it, or without one.
_IMPORTED = tuple(all_suffixes())


def code_digest(packages: Iterable[Path]) -> str:
    """Return a SHA-256 over the importable files of installed packages, hexadecimal.

    The digest is over one line per file, ``sha256  package/relative/path``, sorted by path: the same as
    ``sha256sum`` would print. Caches (``__pycache__``) and other files do not count.

    Args:
        packages: the packages' own folders, e.g. ``.../site-packages/fedshare``.
    """
    lines = []
    for package in packages:
        for path in package.rglob("*"):
            if not path.name.endswith(_IMPORTED) or path.parent.name == "__pycache__":
                continue
            name = f"{package.name}/{path.relative_to(package).as_posix()}"
            lines.append((name, hashlib.sha256(path.read_bytes()).hexdigest()))
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(lines))
    return hashlib.sha256(text.encode()).hexdigest()


def installed_code_digest() -> str:
    """Return the code digest of the distribution that runs here, the three packages of one wheel.

    Raises:
        ConfigError: one of them is missing.
    """
    folders = []
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(f"the package {name} is not installed here: install the whole distribution")
        folders.append(Path(spec.submodule_search_locations[0]))
    return code_digest(folders)
