"""Where the commands ``fedshare-node`` and ``fedshare-local`` start: what they need is checked before it is imported."""

from __future__ import annotations

import sys

from fedshare.errors import ConfigError
from fedshare.installation import verify_extra

__all__ = ["local", "node"]


def node() -> int:
    """Run ``fedshare-node``."""
    if (code := _refusal("node")) is not None:
        return code
    from .node.cli import main  # noqa: PLC0415 - see the module

    return main()


def local() -> int:
    """Run ``fedshare-local``."""
    if (code := _refusal("local")) is not None:
        return code
    from .local.cli import main  # noqa: PLC0415 - see the module

    return main()


def _refusal(extra: str) -> int | None:
    """Return the exit code if something is missing, after saying what."""
    try:
        verify_extra(extra, torch=True)
    except ConfigError as error:
        print(f"fedshare-{extra}: {error}", file=sys.stderr)
        return error.exit_code
    return None
