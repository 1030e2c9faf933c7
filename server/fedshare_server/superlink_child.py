"""Runs Flower's stock SuperLink, ended when its parent (first argument: its process id) ends."""

from __future__ import annotations

import sys

from flwr.supercore.app_utils import start_parent_process_monitor
from flwr.superlink.cli import flower_superlink

if __name__ == "__main__":
    start_parent_process_monitor(int(sys.argv.pop(1)))
    flower_superlink()
