"""The triangle of small-enterprise credit: how many are served, at what rate, with what loss.

Everything is per unit lent and per year. A loan at rate r to an enterprise that defaults with probability p earns
(1 - p)(1 + r) + p (1 - LGD) and costs 1 + c, where c adds up funding, operation, acquisition and the return on the capital
behind it; interest of a defaulted loan is lost. So it breaks even at

    r = (c + p LGD) / (1 - p)

A lender whose rates are capped serves an enterprise only if that rate is within the cap. Above it the answer is a
guarantee, if one brings the rate within the cap, or decline; a rate is never cut to the cap in silence.

    >>> ladder = Ladder.of(labels, scores)
    >>> outcome = serve(ladder, terms, cutoff=1.0, cap=0.10)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from fedshare.errors import ParameterError

from .metrics import checked_sample

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from .histogram import ScoreHistogram

__all__ = ["Guarantee", "Ladder", "Served", "Terms", "serve", "serve_at_loss"]


@dataclass(frozen=True, slots=True)
class Guarantee:
    """A guarantor takes a share of the loss for a fee.

    Attributes:
        cover: share of the loss that the guarantor bears, 0 to 1.
        fee: per unit lent and year, paid by the lender and so part of its cost.
    """

    cover: float
    fee: float


@dataclass(frozen=True, slots=True)
class Terms:
    """What a lender's loans cost, each per unit lent and year.

    Attributes:
        funding: rate at which the lender borrows.
        operation: cost of handling the loan.
        acquisition: cost of winning the customer.
        loss_given_default: share of the loan that a default loses, LGD, 0 to 1.
        capital: share of the loan that is backed by the lender's own capital.
        capital_return: what that capital must earn beyond the funding rate.
        guarantee: offered where the rate alone is above the cap; ``None``: decline.
    """

    funding: float
    operation: float
    acquisition: float
    loss_given_default: float
    capital: float
    capital_return: float
    guarantee: Guarantee | None = None

    def __post_init__(self) -> None:
        """Refuse what no loan can cost."""
        shares = {"loss_given_default": self.loss_given_default, "capital": self.capital}
        rates = {
            "funding": self.funding,
            "operation": self.operation,
            "acquisition": self.acquisition,
            "capital_return": self.capital_return,
        }
        if self.guarantee is not None:
            shares["guarantee.cover"], rates["guarantee.fee"] = self.guarantee.cover, self.guarantee.fee
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ParameterError(f"{name}: expected a share from 0 to 1")
        for name, value in rates.items():
            if not (math.isfinite(value) and value >= 0):
                raise ParameterError(f"{name}: expected a finite rate of at least 0")

    @property
    def cost(self) -> float:
        """All costs but the loss."""
        return self.funding + self.operation + self.acquisition + self.capital * self.capital_return

    def break_even_rate(self, pd: ArrayLike) -> NDArray[np.float64]:
        """Return the rate at which a loan with default probability ``pd`` earns its costs; infinite at 1."""
        p = np.asarray(pd, dtype=np.float64)
        with np.errstate(divide="ignore"):
            rate: NDArray[np.float64] = (self.cost + self.loss_given_default * p) / (1.0 - p)
        return rate

    def pd_limit(self, cap: float) -> float:
        """Return the highest default probability whose break-even rate is within ``cap``; below 0 if none is."""
        return (cap - self.cost) / (cap + self.loss_given_default) if cap + self.loss_given_default else 0.0

    def guaranteed(self) -> Terms | None:
        """Return the terms of a guaranteed loan, or None if no guarantee is offered."""
        if self.guarantee is None:
            return None
        return Terms(
            self.funding,
            self.operation + self.guarantee.fee,
            self.acquisition,
            self.loss_given_default * (1.0 - self.guarantee.cover),
            self.capital,
            self.capital_return,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Ladder:
    """Enterprises from the safest to the riskiest, one step per distinct score or group of scores.

    Every array has shape ``[S]`` and holds sums of the one step.

    Attributes:
        pd: default probability that nobody of the step exceeds, ascending.
        enterprises: weight of the step.
        expected: weighted sum of default probabilities.
        defaults: weight of those that defaulted.
        odds: weighted sum of p / (1 - p).
    """

    pd: NDArray[np.float64]
    enterprises: NDArray[np.float64]
    expected: NDArray[np.float64]
    defaults: NDArray[np.float64]
    odds: NDArray[np.float64]

    @classmethod
    def of(cls, labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> Ladder:
        """Return the ladder of one bank's customers; arguments and errors as in ``metrics.log_loss``."""
        outcome, score, weight = checked_sample(labels, scores, weights)
        values, step = np.unique(score, return_inverse=True)
        held, defaults = (
            np.bincount(step, each, len(values)).astype(np.float64) for each in (weight, weight * outcome)
        )
        p = expit(values)
        return cls(p, held, held * p, defaults, held * np.exp(np.minimum(values, 700.0)))

    @classmethod
    def of_histogram(cls, histogram: ScoreHistogram) -> Ladder:
        """Return the ladder of a histogram's groups, of one bank or of all; a group is served whole or not at all."""
        return cls(
            expit(histogram.upper), histogram.weight, histogram.pd, histogram.default_weight, histogram.odds
        )

    @property
    def total(self) -> float:
        """The weight of all enterprises."""
        return float(self.enterprises.sum())


@dataclass(frozen=True, slots=True)
class Served:
    """What one policy does.

    Attributes:
        pd_limit: the highest default probability that is served without a guarantee; 0 if nobody is.
        enterprises: weight of those served without a guarantee.
        share: of all enterprises.
        rate: their mean break-even rate; NaN if there are none, as the next two.
        expected_loss: predicted loss per unit lent.
        realised_loss: loss per unit lent that the outcomes show.
        guaranteed: weight of those served with a guarantee.
        guaranteed_rate: their mean break-even rate, the fee included; NaN if there are none.
        declined: weight of all others.
    """

    pd_limit: float
    enterprises: float
    share: float
    rate: float
    expected_loss: float
    realised_loss: float
    guaranteed: float
    guaranteed_rate: float
    declined: float


def serve(ladder: Ladder, terms: Terms, *, cutoff: float, cap: float) -> Served:
    """Return what a lender does that serves whoever is within its cut-off and its cap.

    Args:
        ladder: the enterprises.
        terms: the lender's costs.
        cutoff: nobody with a higher default probability is served, at whatever rate.
        cap: the highest rate that the lender may charge.
    """
    alone, helped = _limits(terms, cutoff, cap)
    return _outcome(ladder, terms, _steps_within(ladder, alone), _steps_within(ladder, helped))


def serve_at_loss(ladder: Ladder, terms: Terms, *, loss: float, cap: float) -> Served:
    """Return the policy that serves most without losing more than ``loss`` per unit lent or charging more than ``cap``.

    The loss is the realised one, so the cut-off is chosen with the outcomes known: it compares two models on the
    same customers and promises nothing about others. Guarantees are left out.
    """
    within = _steps_within(ladder, terms.pd_limit(cap))
    lent = np.cumsum(ladder.enterprises[:within])
    lost = terms.loss_given_default * np.cumsum(ladder.defaults[:within])
    allowed = np.flatnonzero(lost <= loss * lent + 1e-12)
    steps = int(allowed[-1]) + 1 if allowed.size else 0
    return _outcome(ladder, terms, steps, steps)


def _limits(terms: Terms, cutoff: float, cap: float) -> tuple[float, float]:
    """Return the highest default probabilities served alone, and with a guarantee."""
    alone = min(cutoff, terms.pd_limit(cap))
    helped = terms.guaranteed()
    return alone, alone if helped is None else max(alone, min(cutoff, helped.pd_limit(cap)))


def _steps_within(ladder: Ladder, limit: float) -> int:
    return int(np.searchsorted(ladder.pd, limit, side="right"))


def _outcome(ladder: Ladder, terms: Terms, alone: int, helped: int) -> Served:
    own, more = slice(0, alone), slice(alone, helped)
    served, total = float(ladder.enterprises[own].sum()), ladder.total
    guaranteed, covered = float(ladder.enterprises[more].sum()), terms.guaranteed()
    lgd = terms.loss_given_default
    return Served(
        pd_limit=float(ladder.pd[alone - 1]) if alone else 0.0,
        enterprises=served,
        share=served / total if total else 0.0,
        rate=_mean_rate(ladder, terms, own),
        expected_loss=lgd * float(ladder.expected[own].sum()) / served if served else math.nan,
        realised_loss=lgd * float(ladder.defaults[own].sum()) / served if served else math.nan,
        guaranteed=guaranteed,
        guaranteed_rate=math.nan if covered is None else _mean_rate(ladder, covered, more),
        declined=total - served - guaranteed,
    )


def _mean_rate(ladder: Ladder, terms: Terms, steps: slice) -> float:
    """Return the mean of (c + p LGD) / (1 - p) = c + (c + LGD) p / (1 - p)."""
    held = float(ladder.enterprises[steps].sum())
    if not held:
        return math.nan
    return terms.cost + (terms.cost + terms.loss_given_default) * float(ladder.odds[steps].sum()) / held
