"""The search of several banks: the leading bank asks for the loss at a point, the others answer under masks.

The leader runs the search (``fedshare.training``) and reaches the others through ``OtherBanks``; every other bank
follows with ``Follower`` until the leader says where the iteration settled. What the leader says is checked as far as
it can be: sizes, finite numbers, weights that partial scores can hold, and how often it may ask.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fedshare.errors import ProtocolError
from fedshare.privacy.leaks import MAX_POINTS
from fedshare.training.customers import Evaluation, Totals
from fedshare.training.scorecard import Step
from fedshare.wire.v1 import payload_pb2 as payload

from .feature_holder import WEIGHT_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from fedshare.training.customers import Customers

    from .bank_sums import BankSums
    from .channel import Channel

__all__ = ["LOSS_BITS", "WEIGHT_BITS", "Follower", "OtherBanks", "sum_totals"]

LOSS_BITS = 32
"""Fixed-point bits of losses and gradients: with 10 banks, magnitudes below 1e8 at each, steps of 2e-10."""

WEIGHT_BITS = 20
"""Fixed-point bits of customers' weights: with 10 banks, up to 4e11 customers at each, steps of 1e-6."""

_REASONS = ("improving", "converged", "held-out loss", "iteration limit")


def sum_totals(channel: Channel, sums: BankSums, customers: Customers) -> Totals | None:
    """Return the weights of the customers of all banks, at the leading bank only."""
    own = customers.totals().to_vector()
    total = sums.total_at_leader(channel, "weights of customers", own, WEIGHT_BITS, customers.totals_of)
    return None if total is None else Totals.from_vector(total)


class OtherBanks:
    """All banks of one run as its leader reaches them."""

    def __init__(self, sums: BankSums, totals: Totals) -> None:
        """Reach the others through ``sums``; ``totals`` are those of all banks."""
        self.totals = totals
        self.resolution = sums.roundings * 2.0 ** -(LOSS_BITS + 1)
        self._sums = sums
        self._channel: Channel
        self._asked = 0

    def enter(self, channel: Channel) -> None:
        """Talk over ``channel`` from now on."""
        self._channel = channel

    def evaluate(
        self, point: NDArray[np.float64], own: Callable[[NDArray[np.float64]], Evaluation]
    ) -> Evaluation:
        """Return the loss at ``point``, summed over all banks."""
        self._tell(payload.SharedPoint(point=point.tolist()))
        vector = own(point).to_vector()
        total = self._sums.total_at_leader(
            self._channel, f"the loss at point {self._asked}", vector, LOSS_BITS
        )
        if total is None:
            raise ProtocolError("only the leading bank asks for the loss of all")
        return Evaluation.from_vector(total)

    def settle(self, point: NDArray[np.float64], step: Step) -> None:
        """Tell the others where the iteration ended."""
        self._tell(
            payload.SharedPoint(
                point=point.tolist(),
                settled=True,
                stop=step.stop,
                reason=step.reason,
                train_loss=step.train_loss,
                holdout_loss=np.nan if step.holdout_loss is None else step.holdout_loss,
            )
        )

    def _tell(self, message: payload.SharedPoint) -> None:
        for bank in self._sums.others:
            self._channel.send(bank, message, self._asked)
        self._asked += 1


class Follower:
    """A bank that the leader asks."""

    def __init__(self, sums: BankSums, customers: Customers, max_iterations: int, *, cone: bool) -> None:
        """Answer for ``customers``; in a ``cone`` run coefficients must not be negative."""
        self._sums = sums
        self._customers = customers
        self._max_iterations = max_iterations
        self._cone = cone
        self._answered = 0

    def follow(self, channel: Channel) -> Step:
        """Answer the leader's points until an iteration settles, move there, and return its outcome.

        Raises:
            ProtocolError: the leader sends a point that cannot be one, or asks too often.
            ParameterError: the own loss is outside the range of the sum.
        """
        leader = self._sums.leader
        for _ in range(MAX_POINTS + 1):
            message = channel.receive(leader, payload.SharedPoint, self._answered)
            self._answered += 1
            point = self._checked(np.array(message.point, dtype=np.float64))
            if message.settled:
                return self._settle(point, message)
            vector = self._customers.evaluate(point).to_vector()
            self._sums.total_at_leader(
                channel,
                f"the loss at point {self._answered}",
                vector,
                LOSS_BITS,
                partial(self._customers.evaluation_of, point),
            )
        raise ProtocolError(f"{leader} asks for more than {MAX_POINTS} points in one iteration")

    def _settle(self, point: NDArray[np.float64], message: payload.SharedPoint) -> Step:
        if message.reason not in _REASONS or not np.isfinite(message.train_loss):
            raise ProtocolError(f"{self._sums.leader} settled an iteration without a reason or a loss")
        if not message.stop and self._customers.direction_count == self._max_iterations:
            raise ProtocolError(
                f"{self._sums.leader} goes on after the contract's {self._max_iterations} iterations"
            )
        self._customers.move_to(point)
        return Step(
            coefficients=self._customers.coefficients,
            objective=np.nan,
            train_loss=message.train_loss,
            holdout_loss=message.holdout_loss if np.isfinite(message.holdout_loss) else None,
            stop=message.stop,
            reason=message.reason,
        )

    def _checked(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ``point`` if a model can stand there; its size and that it is finite are checked where it is used."""
        count = self._customers.direction_count
        if self._cone and (point[:count] < 0.0).any():
            raise ProtocolError(f"{self._sums.leader} sent a coefficient that would leave the monotone cone")
        if (np.abs(point[count:]) >= WEIGHT_LIMIT).any():
            raise ProtocolError(f"{self._sums.leader} sent weights that no partial score can hold")
        return point
