"""Why a part of Flower has ended, as far as the coordinator can tell."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from fedshare.errors import StorageError, UnavailableError
from fedshare_server import superlink
from fedshare_server.superlink import Superlink, SuperlinkSettings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("free", "kind", "said"),
    [(0, StorageError, "the disk is full"), (1 << 30, UnavailableError, "a part of Flower has ended")],
)
def test_a_full_disk_is_the_cause_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, kind: type[Exception], said: str
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(superlink, "disk_usage", lambda _: usage)
    settings = SuperlinkSettings(tmp_path, "sqlite://", tmp_path / "cert", tmp_path / "key", 1, 2)
    with pytest.raises(kind, match=said):
        Superlink(settings).verify_alive()
