"""Where the command ``fedshare-server`` starts: what it needs is checked before it is imported."""

from __future__ import annotations

import sys

from fedshare.errors import ConfigError
from fedshare.installation import verify_extra

__all__ = ["server"]


def server() -> int:
    """Run ``fedshare-server``."""
    try:
        verify_extra("server", torch=False)
    except ConfigError as error:
        print(f"fedshare-server: {error}", file=sys.stderr)
        return error.exit_code
    from .cli import main  # noqa: PLC0415 - see the module

    return main()
