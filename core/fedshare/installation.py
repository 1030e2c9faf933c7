"""Whether what a command needs is installed: the library alone is enough to audit, and every role has an extra of its own.

It imports the standard library only, so that it can say what is missing where nothing else is there.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution, requires

from .errors import ConfigError

__all__ = ["verify_extra"]

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def verify_extra(extra: str, *, torch: bool) -> None:
    """Check that the packages of an extra of fedshare are installed.

    Args:
        extra: ``node``, ``server`` or ``local``.
        torch: whether the command needs torch, which no extra brings because its builds differ.

    Raises:
        ConfigError: one is not; the message says how to install them.
    """
    wanted = [
        match.group()
        for line in requires("fedshare") or ()
        if line.replace('"', "'").endswith(f"extra == '{extra}'") and (match := _NAME.match(line))
    ]
    missing = [name for name in wanted if not _is_installed(name)]
    steps = ['install torch first (README.md, "Install")'] if torch and not _is_installed("torch") else []
    if missing:
        steps.append(f'pip install ".[{extra}]" in the source folder brings {", ".join(missing)}')
    if steps:
        raise ConfigError(f"this command needs more than the audit library: {'; '.join(steps)}")


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
