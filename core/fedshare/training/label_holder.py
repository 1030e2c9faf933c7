"""The bank that drives the search: the minimum over all that the holders have released.

It is the only bank, or the leading one of several, which minimises the loss of all banks' customers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedshare.errors import ProtocolError

from .customers import Customers, Evaluation
from .newton import minimise
from .objective import SpanObjective
from .penalty import monotone_cone, penalty_matrix
from .pooled import PooledLoss

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedshare.credit.bins import Design

    from .newton import ConvexFunction
    from .penalty import ModelSettings
    from .pooled import Banks

__all__ = ["LabelHolderModel", "Step"]

# How exactly each subspace is minimised, as a share of the decrease at which training stops.
_PRECISION = 1e-4
# The same where every evaluation is a round of messages between banks, and how many times the resolution of their sums at
# least: what is finer than these is noise, along which no search finds anything.
_PRECISION_BETWEEN_BANKS = 1e-2
_RESOLUTIONS = 16.0
# Decimals of a mean loss over banks.
_TOLD_DIGITS = 6
# Solves in a row without progress before training stops: one weak direction is no sign of convergence.
_CALM_STEPS = 2


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one minimisation.

    Attributes:
        coefficients: of every direction so far, for the holders, shape ``[t]``.
        objective: loss of the training customers plus penalty, per unit of training weight, in nats; it
            never rises.
        train_loss: mean weighted log loss of the training customers, in nats; over several banks to six decimals.
        holdout_loss: of the held-out customers; ``None`` if there are none.
        stop: whether training ends here.
        reason: ``improving``, or why it ends: ``converged``, ``held-out loss`` (the weights are then those at which it was
            lowest) or ``iteration limit``.
    """

    coefficients: NDArray[np.float64]
    objective: float
    train_loss: float
    holdout_loss: float | None
    stop: bool
    reason: str


class LabelHolderModel(Customers):
    """One bank's customers, the weights of its own bins and the combination of the holders' directions."""

    def __init__(
        self,
        labels: NDArray[np.float64],
        weights: NDArray[np.float64],
        design: Design,
        training: NDArray[np.bool_],
        settings: ModelSettings,
        *,
        cone: bool = False,
        personal_intercept: bool = False,
        banks: Banks | None = None,
    ) -> None:
        """Prepare the model; call ``solve`` for the optimum of the own columns before any direction.

        Args:
            labels: 0 or 1 per customer, or debiased noisy labels, shape ``[c]``.
            weights: at least 0 per customer, shape ``[c]``.
            design: the customers' own binned columns, ``c`` rows.
            training: which customers train, shape ``[c]``; the others are held out.
            settings: the contract's model.
            cone: whether any holder's column in the contract is monotone, so that coefficients must not be
                negative.
            personal_intercept: whether every bank has an intercept of its own.
            banks: all banks, if there are several and this one leads.

        Raises:
            DataError: a label is not finite, or the training customers have one outcome only.
            ParameterError: shapes differ, a weight is not finite and at least 0, or the penalty is refused.
        """
        super().__init__(labels, weights, design, training, personal_intercept=personal_intercept)
        self._settings, self._cone, self._banks = settings, cone, banks
        self._own_cone = monotone_cone(design)
        self._penalty = penalty_matrix(design, settings)
        self._direction_penalty = np.empty((0, 0))
        self._totals = banks.totals if banks else self.totals()
        self._variables = np.zeros(self.point_size)
        if not personal_intercept:
            defaults = self._totals.default_weight
            start = np.log(defaults / (self._totals.training_weight - defaults))
            # Other banks are told: the exact log-odds of two whole numbers would tell them both.
            self._variables[-1] = start if banks is None else np.round(start, 1)
        self._objectives: list[float] = []
        self._holdout_losses: list[float] = []
        self._best = self._variables

    def add_direction(self, scores: NDArray[np.float64], penalty_row: NDArray[np.float64]) -> None:
        """Take the holders' next direction into the search.

        Args:
            scores: its partial scores summed over holders, per customer, shape ``[c]``.
            penalty_row: its penalty inner products with all directions, itself last, summed over holders,
                shape ``[t + 1]``.

        Raises:
            ProtocolError: a shape is wrong or a number not finite.
        """
        count = self.direction_count
        if penalty_row.shape != (count + 1,) or not np.isfinite(penalty_row).all():
            raise ProtocolError(f"expected {count + 1} finite penalties, found {penalty_row.shape}")
        self.add_scores(scores)
        grown = np.empty((count + 1, count + 1))
        grown[:count, :count] = self._direction_penalty
        grown[count, :] = grown[:, count] = penalty_row
        self._direction_penalty = grown
        self._variables = np.insert(self._variables, count, 0.0)

    def solve(self) -> Step:
        """Minimise over directions, own weights and intercept together, and say whether to go on."""
        loss = self._loss()
        objective = SpanObjective(loss, self._direction_penalty, self._own_cone.basis, self._penalty)
        bounded = np.zeros(len(self._variables), dtype=np.bool_)
        bounded[: self.direction_count] = self._cone
        bounded[self.direction_count : self.direction_count + len(self._penalty)] = self._own_cone.nonnegative
        total = self._totals.training_weight
        self._variables = minimise(objective, self._variables, bounded, self._precision())
        self._objectives.append(objective.value(self._variables) / total)
        found = self._found(loss, objective.plain(self._variables))
        self._holdout_losses.append(self._holdout_mean(found))
        if self._holdout_losses[-1] <= min(self._holdout_losses):
            self._best = self._variables
        reason = self._stop_reason()
        if reason == "held-out loss":
            self._return_to_best()
            found = self._found(loss, objective.plain(self._variables))
        self.move_to(objective.plain(self._variables))
        holdout_loss = self._holdout_mean(found)
        return Step(
            coefficients=self.coefficients,
            objective=self._objectives[-1],
            train_loss=self._told(found.training / total),
            holdout_loss=self._told(holdout_loss) if np.isfinite(holdout_loss) else None,
            stop=bool(reason),
            reason=reason or "improving",
        )

    def _precision(self) -> float:
        """Return to within how many nats times weight a subspace is minimised."""
        decrease = max(self._settings.tolerance, 1e-12) * self._totals.training_weight
        if self._banks is None:
            return _PRECISION * decrease
        return max(_PRECISION_BETWEEN_BANKS * decrease, _RESOLUTIONS * self._banks.resolution)

    def _loss(self) -> ConvexFunction:
        return self.training_loss() if self._banks is None else PooledLoss(self._banks, self)

    def _found(self, loss: ConvexFunction, point: NDArray[np.float64]) -> Evaluation:
        return loss.evaluate(point) if isinstance(loss, PooledLoss) else self.evaluate(point)

    def _holdout_mean(self, found: Evaluation) -> float:
        """Return the mean held-out loss, infinite if no customer with weight is held out."""
        weight = self._totals.holdout_weight
        return found.holdout / weight if weight > 0.0 else np.inf

    def _told(self, loss: float) -> float:
        """Return a mean loss as others may know it: a sum in fixed point by a whole number tells that number."""
        return loss if self._banks is None else round(loss, _TOLD_DIGITS)

    def _stop_reason(self) -> str:
        """Return why training ends now, empty if it goes on."""
        decreases = -np.diff(self._objectives[-_CALM_STEPS - 1 :])
        if len(decreases) == _CALM_STEPS and (decreases < self._settings.tolerance).all():
            return "converged"
        if len(self._objectives) > self._settings.max_iterations:
            return "iteration limit"
        patience = self._settings.patience
        since_best = len(self._holdout_losses) - 1 - int(np.argmin(self._holdout_losses))
        if patience and since_best >= patience and np.isfinite(self._holdout_losses[-1]):
            return "held-out loss"
        return ""

    def _return_to_best(self) -> None:
        """Go back to the variables with the lowest held-out loss; directions that came later get zero."""
        later = len(self._variables) - len(self._best)
        at = self.direction_count - later
        self._variables = np.insert(self._best, [at] * later, 0.0)
