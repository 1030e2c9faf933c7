"""The leak ledger: every entry, in the order of a run; what the coordinator can read comes last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import alignment, coordinator, serving, sums, training

if TYPE_CHECKING:
    from .entry import Leak

__all__ = ["LEDGER"]

LEDGER: tuple[Leak, ...] = (
    *alignment.ENTRIES,
    *training.ENTRIES,
    *sums.ENTRIES,
    *serving.ENTRIES,
    *coordinator.ENTRIES,
)
