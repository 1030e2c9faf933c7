"""One bank's customers in training: their loss at a point, and scores and residuals where the model stands.

A point holds the coefficients of the holders' directions, the weights of the banks' own bins and the intercept, in
this order; without the intercept where each bank has one of its own, which then never leaves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from fedshare.errors import DataError, ParameterError, ProtocolError

from .loss import CustomerLoss, ProfiledLoss
from .onehot import OneHotMatrix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fedshare.credit.bins import Design

__all__ = ["Customers", "Evaluation", "Totals"]


@dataclass(frozen=True, slots=True, eq=False)
class Totals:
    """What never changes in a run, of one bank or summed over several.

    Attributes:
        training_weight: of the customers that train.
        default_weight: of those of them that defaulted.
        holdout_weight: of the held-out customers.
        bin_weights: of the training customers per bin, shape ``[m]``.
    """

    training_weight: float
    default_weight: float
    holdout_weight: float
    bin_weights: NDArray[np.float64]

    def to_vector(self) -> NDArray[np.float64]:
        """Return all numbers in one vector, shape ``[3 + m]``, to be summed over banks."""
        return np.concatenate(
            [[self.training_weight, self.default_weight, self.holdout_weight], self.bin_weights]
        )

    @classmethod
    def from_vector(cls, vector: NDArray[np.float64]) -> Totals:
        """Return the inverse of ``to_vector``."""
        return cls(float(vector[0]), float(vector[1]), float(vector[2]), vector[3:])


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The loss at a point, of one bank or summed over several.

    Attributes:
        training: loss of the training customers, in nats times weight.
        holdout: of the held-out customers.
        gradient: of ``training``, one number per entry of the point.
    """

    training: float
    holdout: float
    gradient: NDArray[np.float64]

    def to_vector(self) -> NDArray[np.float64]:
        """Return all numbers in one vector, to be summed over banks."""
        return np.concatenate([[self.training, self.holdout], self.gradient])

    @classmethod
    def from_vector(cls, vector: NDArray[np.float64]) -> Evaluation:
        """Return the inverse of ``to_vector``."""
        return cls(float(vector[0]), float(vector[1]), vector[2:])


class Customers:
    """See the module."""

    def __init__(
        self,
        labels: NDArray[np.float64],
        weights: NDArray[np.float64],
        design: Design,
        training: NDArray[np.bool_],
        *,
        personal_intercept: bool = False,
    ) -> None:
        """Take the customers; all weights and the intercept are zero.

        Args:
            labels: 0 or 1 per customer, or debiased noisy labels, shape ``[c]``.
            weights: at least 0 per customer, shape ``[c]``.
            design: the customers' own binned columns, ``c`` rows.
            training: which customers train, shape ``[c]``; the others are held out.
            personal_intercept: whether this bank has an intercept of its own, which points leave out.

        Raises:
            DataError: a label is not finite, or the training customers have one outcome only.
            ParameterError: shapes differ, or a weight is not finite and at least 0.
        """
        self._labels, self._weights, self._training = _checked(labels, weights, design, training)
        self._matrix = OneHotMatrix(design.codes, design.width)
        self._directions = np.empty((len(self._labels), 0))
        self._has_own_intercept = personal_intercept
        self._point = np.zeros(design.width + (0 if personal_intercept else 1))
        self._own_intercept = 0.0
        self._offsets = np.zeros(len(self._labels))
        self._training_matrix, self._holdout_matrix = (
            OneHotMatrix(np.ascontiguousarray(design.codes[rows]), design.width)
            for rows in (self._training, ~self._training)
        )

    @property
    def direction_count(self) -> int:
        """How many directions the holders have released, t."""
        return self._directions.shape[1]

    @property
    def point_size(self) -> int:
        """How many numbers a point has: t + m, and 1 for a shared intercept."""
        return self.direction_count + self._matrix.width + (0 if self._has_own_intercept else 1)

    @property
    def point(self) -> NDArray[np.float64]:
        """Where the model stands."""
        return self._point.copy()

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """The combination of the holders' directions, shape ``[t]``."""
        return self._point[: self.direction_count].copy()

    @property
    def own_weights(self) -> NDArray[np.float64]:
        """The weight of each own bin, shape ``[m]``."""
        return self._point[self.direction_count : self.direction_count + self._matrix.width].copy()

    @property
    def intercept(self) -> float:
        """The log-odds of a customer of this bank before any bin."""
        return self._own_intercept if self._has_own_intercept else float(self._point[-1])

    def scores(self) -> NDArray[np.float64]:
        """Return the log-odds of default of every customer, held-out ones too, shape ``[c]``."""
        return self.scores_without_offsets() + self._offsets

    def scores_without_offsets(self) -> NDArray[np.float64]:
        """Return what the search alone gives of ``scores``, shape ``[c]``."""
        return self._directions @ self.coefficients + self._matrix.times(self.own_weights) + self.intercept

    def set_offsets(self, offsets: NDArray[np.float64]) -> None:
        """Take what a network of the banks' own adds to each customer's log-odds, shape ``[c]``; it is zero before."""
        self._offsets = offsets

    def residual(self) -> NDArray[np.float64]:
        """Return w(p - y) per customer, shape ``[c]``: zero if held out, else at most the weight in size.

        With debiased noisy labels: at most the weight times ``fedshare.privacy.randomised_response.label_bound``.
        """
        residual: NDArray[np.float64] = self._weights * (expit(self.scores()) - self._labels)
        return np.where(self._training, residual, 0.0)

    def totals(self) -> Totals:
        """Return this bank's totals."""
        weight = self._weights[self._training]
        return Totals(
            float(weight.sum()),
            float(weight @ self._labels[self._training]),
            float(self._weights[~self._training].sum()),
            self._training_matrix.transposed_times(weight),
        )

    def add_scores(self, scores: NDArray[np.float64]) -> None:
        """Take the partial scores along the holders' next direction, summed over holders; its coefficient is zero.

        Args:
            scores: per customer, shape ``[c]``.

        Raises:
            ProtocolError: the shape is wrong or a number not finite.
        """
        if scores.shape != self._labels.shape:
            raise ProtocolError(f"expected {len(self._labels)} scores, found shape {scores.shape}")
        if not np.isfinite(scores).all():
            raise ProtocolError("the holders' direction is not finite")
        self._point = np.insert(self._point, self.direction_count, 0.0)
        self._directions = np.column_stack([self._directions, scores])

    def move_to(self, point: NDArray[np.float64]) -> None:
        """Let the model stand at ``point``; an own intercept follows.

        Raises:
            ProtocolError: the point has another size or is not finite.
        """
        self._verify(point)
        self._point = point.copy()
        loss = self.training_loss()
        if isinstance(loss, ProfiledLoss):
            self._own_intercept = loss.intercept(point)

    def evaluate(self, point: NDArray[np.float64]) -> Evaluation:
        """Return this bank's loss at ``point``.

        Raises:
            ProtocolError: the point has another size or is not finite.
        """
        self._verify(point)
        loss = self.training_loss()
        full = np.append(point, loss.intercept(point)) if isinstance(loss, ProfiledLoss) else point
        held_out = self._loss_of(~self._training, self._holdout_matrix)
        return Evaluation(loss.value(point), held_out.value(full), loss.gradient(point))

    def totals_of(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
        """Return what each of ``rows``, training customers, adds to each entry of the vector of ``totals``."""
        weights = self._weights[rows]
        yield weights
        yield weights * self._labels[rows]
        yield np.zeros(len(rows))
        yield from OneHotMatrix(self._matrix.codes[rows], self._matrix.width).columns(weights)

    def evaluation_of(
        self, point: NDArray[np.float64], rows: NDArray[np.int64]
    ) -> Iterator[NDArray[np.float64]]:
        """Return what each of ``rows``, training customers, adds to each entry of the vector of ``evaluate(point)``.

        Raises:
            ParameterError: this bank has an intercept of its own, whose best value depends on all of them.
        """
        if self._has_own_intercept:
            raise ParameterError("an intercept of a bank's own is no sum over customers")
        self._verify(point)
        matrix = OneHotMatrix(self._matrix.codes[rows], self._matrix.width)
        loss = CustomerLoss(
            self._labels[rows], self._weights[rows], self._directions[rows], matrix, self._offsets[rows]
        )
        yield loss.values(point)
        yield np.zeros(len(rows))
        residual = loss.residuals(point)
        yield from (self._directions[rows] * residual[:, None]).T
        yield from matrix.columns(residual)
        yield residual

    def training_loss(self) -> CustomerLoss | ProfiledLoss:
        """Return the loss of the training customers as a function of a point."""
        loss = self._loss_of(self._training, self._training_matrix)
        return ProfiledLoss(loss) if self._has_own_intercept else loss

    def _loss_of(self, rows: NDArray[np.bool_], matrix: OneHotMatrix) -> CustomerLoss:
        return CustomerLoss(
            self._labels[rows], self._weights[rows], self._directions[rows], matrix, self._offsets[rows]
        )

    def _verify(self, point: NDArray[np.float64]) -> None:
        if point.shape != (self.point_size,) or not np.isfinite(point).all():
            raise ProtocolError(f"expected a point of {self.point_size} finite numbers, found {point.shape}")


def _checked(
    labels: NDArray[np.float64],
    weights: NDArray[np.float64],
    design: Design,
    training: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
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
    if not np.isfinite(outcome).all():
        raise DataError("a label must be finite")
    if not 0.0 < float(weight[mask] @ outcome[mask]) < float(weight[mask].sum()):
        raise DataError(
            "the training customers need both outcomes, 0 and 1; found one, or so few customers that the noise of "
            "label privacy hides the default rate"
        )
    return outcome, weight, mask
