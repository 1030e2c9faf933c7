from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from exchange_world import World


@pytest.fixture
def world():
    world = World()
    with world.stack:
        yield world
