"""A label holder's side of training: the exact minimum over all that the holders have released."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from fedshare.errors import DataError, ParameterError, ProtocolError

from .newton import minimise
from .objective import SpanObjective
from .onehot import OneHotMatrix
from .penalty import monotone_cone, penalty_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedshare.credit.bins import Design

    from .penalty import ModelSettings

__all__ = ["LabelHolderModel", "Step"]

# How exactly each subspace is minimised, as a share of the decrease at which training stops.
_PRECISION = 1e-4
# Solves in a row without progress before training stops: one weak direction is no sign of convergence.
_CALM_STEPS = 2


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one minimisation.

    Attributes:
        coefficients: of every direction so far, for the holders, shape ``[t]``.
        objective: loss of the training customers plus penalty, per unit of training weight, in nats; it
            never rises.
        train_loss: mean weighted log loss of the training customers, in nats.
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


class LabelHolderModel:
    """One bank's customers, its own weights and the combination of the holders' directions."""

    def __init__(
        self,
        labels: NDArray[np.float64],
        weights: NDArray[np.float64],
        design: Design,
        training: NDArray[np.bool_],
        settings: ModelSettings,
        *,
        cone: bool = False,
    ) -> None:
        """Prepare the model; call ``solve`` for the bank's own optimum before any direction.

        Args:
            labels: 0 or 1 per customer, shape ``[c]``.
            weights: at least 0 per customer, shape ``[c]``.
            design: the customers' own binned columns, ``c`` rows.
            training: which customers train, shape ``[c]``; the others are held out.
            settings: the contract's model.
            cone: whether any holder's column in the contract is monotone, so that coefficients must not be
                negative.

        Raises:
            DataError: a label is not 0 or 1, or the training customers have one outcome only.
            ParameterError: shapes differ, a weight is not finite and at least 0, or the penalty is refused.
        """
        outcome = np.asarray(labels, dtype=np.float64)
        weight = np.asarray(weights, dtype=np.float64)
        mask = np.asarray(training, dtype=np.bool_)
        if not len(outcome) == len(weight) == len(mask) == len(design.codes):
            raise ParameterError(
                f"labels, weights, training and rows must be as many: found {len(outcome)}, {len(weight)}, "
                f"{len(mask)} and {len(design.codes)}"
            )
        if not (np.isfinite(weight).all() and (weight >= 0).all()):
            raise ParameterError("customer weights must be finite and at least 0")
        if not ((outcome == 0) | (outcome == 1)).all():
            raise DataError("a label must be 0 or 1")
        if len(np.unique(outcome[mask & (weight > 0)])) < 2:
            raise DataError("the training customers need both outcomes, 0 and 1; found one")
        self._labels, self._weights, self._training = outcome, weight, mask
        self._settings, self._cone = settings, cone
        self._matrix = OneHotMatrix(design.codes, design.width)
        self._own_cone = monotone_cone(design)
        self._penalty = penalty_matrix(design, settings)
        self._directions = np.empty((len(outcome), 0))
        self._direction_penalty = np.empty((0, 0))
        self._variables = np.zeros(design.width + 1)
        self._variables[-1] = _log_odds(outcome[mask], weight[mask])
        self._objectives: list[float] = []
        self._holdout_losses: list[float] = []
        self._best = self._variables

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """The combination of the holders' directions, shape ``[t]``."""
        return self._variables[: self._directions.shape[1]].copy()

    @property
    def own_weights(self) -> NDArray[np.float64]:
        """The weight of each own bin, shape ``[m]``."""
        weights: NDArray[np.float64] = self._own_cone.basis @ self._variables[self._directions.shape[1] : -1]
        return weights

    @property
    def intercept(self) -> float:
        """The log-odds of a customer before any bin."""
        return float(self._variables[-1])

    def scores(self) -> NDArray[np.float64]:
        """Return the log-odds of default of every customer, held-out ones too, shape ``[c]``."""
        return self._directions @ self.coefficients + self._matrix.times(self.own_weights) + self.intercept

    def residual(self) -> NDArray[np.float64]:
        """Return w(p - y) per customer, shape ``[c]``: zero if held out, else below the weight in size."""
        residual: NDArray[np.float64] = self._weights * (expit(self.scores()) - self._labels)
        return np.where(self._training, residual, 0.0)

    def add_direction(self, scores: NDArray[np.float64], penalty_row: NDArray[np.float64]) -> None:
        """Take the holders' next direction into the search.

        Args:
            scores: its partial scores summed over holders, per customer, shape ``[c]``.
            penalty_row: its penalty inner products with all directions, itself last, summed over holders,
                shape ``[t + 1]``.

        Raises:
            ProtocolError: a shape is wrong or a number not finite.
        """
        count = self._directions.shape[1]
        if scores.shape != self._labels.shape or penalty_row.shape != (count + 1,):
            raise ProtocolError(
                f"expected {len(self._labels)} scores and {count + 1} penalties, found {scores.shape} and "
                f"{penalty_row.shape}"
            )
        if not (np.isfinite(scores).all() and np.isfinite(penalty_row).all()):
            raise ProtocolError("the holders' direction is not finite")
        self._directions = np.column_stack([self._directions, scores])
        grown = np.empty((count + 1, count + 1))
        grown[:count, :count] = self._direction_penalty
        grown[count, :] = grown[:, count] = penalty_row
        self._direction_penalty = grown
        self._variables = np.insert(self._variables, count, 0.0)

    def solve(self) -> Step:
        """Minimise over directions, own weights and intercept together, and say whether to go on."""
        train = self._training
        objective = SpanObjective(
            labels=self._labels[train],
            weights=self._weights[train],
            directions=self._directions[train],
            direction_penalty=self._direction_penalty,
            matrix=OneHotMatrix(np.ascontiguousarray(self._matrix.codes[train]), self._matrix.width),
            basis=self._own_cone.basis,
            penalty=self._penalty,
        )
        total = float(self._weights[train].sum())
        bounded = np.concatenate(
            [np.full(self._directions.shape[1], self._cone), self._own_cone.nonnegative, [False]]
        )
        precision = _PRECISION * max(self._settings.tolerance, 1e-12) * total
        self._variables = minimise(objective, self._variables, bounded, precision)
        self._objectives.append(objective.value(self._variables) / total)
        holdout_loss = self._loss(~train)
        self._holdout_losses.append(np.inf if holdout_loss is None else holdout_loss)
        if self._holdout_losses[-1] <= min(self._holdout_losses):
            self._best = self._variables
        reason = self._stop_reason()
        if reason == "held-out loss":
            self._return_to_best()
        return Step(
            coefficients=self.coefficients,
            objective=self._objectives[-1],
            train_loss=self._loss(train) or 0.0,
            holdout_loss=self._loss(~train),
            stop=bool(reason),
            reason=reason or "improving",
        )

    def _loss(self, rows: NDArray[np.bool_]) -> float | None:
        """Return the mean weighted log loss of some customers, ``None`` if they have no weight."""
        weight = self._weights[rows]
        if not weight.sum() > 0:
            return None
        scores = self.scores()[rows]
        return float(weight @ (np.logaddexp(0.0, scores) - self._labels[rows] * scores) / weight.sum())

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
        at = self._directions.shape[1] - later
        self._variables = np.insert(self._best, [at] * later, 0.0)


def _log_odds(labels: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the log-odds of the weighted default rate."""
    positive = float(weights @ labels)
    return float(np.log(positive / (float(weights.sum()) - positive)))
