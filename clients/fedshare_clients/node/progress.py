"""What a role says about how far it is: shown at the node and, as far as the contract lets it, at the coordinator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Progress", "ProgressSink"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a phase.

    Attributes:
        phase: the phase of the run.
        iteration: 0 outside training, else the number of completed iterations.
        message: what was done, with counts and names of columns only.
        loss: mean training loss per unit of weight, at label holders only.
        holdout_loss: the same on the held-out customers.
    """

    phase: str
    iteration: int
    message: str
    loss: float | None = None
    holdout_loss: float | None = None


ProgressSink = Callable[[Progress], None]
