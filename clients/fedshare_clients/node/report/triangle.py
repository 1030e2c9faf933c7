"""The triangle of a report: served, rate and loss of each model under each cap, and what one model serves more."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from fedshare.credit.bootstrap import bootstrap_interval
from fedshare.credit.pricing import Ladder, serve, serve_at_loss

from .figures import CONFIDENCE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedshare.credit.pricing import Served, Terms
    from fedshare_clients.node.pricing import PricingConfig

    from .figures import Sample

__all__ = ["percent", "triangle", "triangle_of_ladders"]

_FRONTIER_STEPS = 200
_RESAMPLES = 200


def triangle(sample: Sample, pricing: PricingConfig, minimum: int, seed: int) -> dict[str, Any]:
    """Return the triangle of every model on one bank's held-out customers, with the intervals of the comparison.

    Args:
        sample: models ``federated`` and ``bank_only``, and a challenger if there is one.
        pricing: the bank's costs, caps and cut-offs.
        minimum: the frontier has no step of fewer customers, and no comparison is about fewer.
        seed: of the bootstrap.
    """
    ladders = {
        name: Ladder.of(sample.labels, scores, sample.weights) for name, scores in sample.scores.items()
    }
    document = triangle_of_ladders(ladders, pricing, minimum)
    for band, interval in zip(document["bands"], _intervals(sample, pricing, minimum, seed), strict=True):
        band["more_served_interval"] = interval
    return document


def triangle_of_ladders(
    ladders: Mapping[str, Ladder], pricing: PricingConfig, minimum: int, *, whose: str = "the bank's"
) -> dict[str, Any]:
    """Return the triangle as JSON values; the ladders may be those of all banks together, then ``whose`` names them."""
    terms = pricing.terms()
    return {
        "terms": pricing.model_dump(mode="json"),
        "cost": terms.cost,
        "bands": [_band(name, cap, ladders, terms, minimum, whose) for name, cap in pricing.bands.items()],
        "table": [
            {
                "band": name,
                "cap": cap,
                "cutoff": cutoff,
                **{
                    model: _json(serve(each, terms, cutoff=cutoff, cap=cap))
                    for model, each in ladders.items()
                },
            }
            for name, cap in pricing.bands.items()
            for cutoff in pricing.cutoffs
        ],
        "frontier": {model: _frontier(each, terms, minimum) for model, each in ladders.items()},
    }


def _band(
    name: str, cap: float, ladders: Mapping[str, Ladder], terms: Terms, minimum: int, whose: str
) -> dict[str, Any]:
    """Return what each model serves under one cap, and what at one loss rate that both can keep."""
    within = {model: serve(ladder, terms, cutoff=1.0, cap=cap) for model, ladder in ladders.items()}
    level = _common_loss(within["federated"], within["bank_only"], minimum)
    same = {model: serve_at_loss(ladder, terms, loss=level, cap=cap) for model, ladder in ladders.items()}
    return {
        "band": name,
        "cap": cap,
        "pd_limit": terms.pd_limit(cap),
        "within_cap": {model: _json(each) for model, each in within.items()},
        "loss_rate": level,
        "at_same_loss": {model: _json(each) for model, each in same.items()},
        "sentence": _sentence(name, cap, level, same, ladders["federated"].total, minimum, whose),
    }


def _common_loss(federated: Served, own: Served, minimum: int) -> float:
    """Return the lower of the two models' realised loss rates, of those that serve at least ``minimum`` enterprises.

    Each model can serve all that its cap allows at its own loss rate, so both can keep the lower one.
    """
    return min((each.realised_loss for each in (federated, own) if each.enterprises >= minimum), default=0.0)


def _sentence(
    name: str, cap: float, level: float, served: Mapping[str, Served], total: float, minimum: int, whose: str
) -> str:
    federated, own = served["federated"], served["bank_only"]
    under = f"Under a cap of {percent(cap)} ({name.replace('_', ' ')})"
    if max(federated.enterprises, own.enterprises) < minimum:
        return f"{under} either model can serve fewer than {minimum} enterprises at a rate that covers costs and loss."
    if min(federated.enterprises, own.enterprises) < minimum:
        one, name_of_one, other = (
            (own, f"{whose} own model", "the federated one")
            if own.enterprises >= minimum
            else (federated, "the federated model", f"{whose} own")
        )
        return (
            f"{under} {name_of_one} serves {one.enterprises:,.0f} of {total:,.0f} held-out enterprises at a mean rate of "
            f"{percent(one.rate, 1)} and a loss rate of {percent(one.realised_loss, 2)}; {other} serves fewer than {minimum} "
            "at that loss rate."
        )
    more = federated.enterprises - own.enterprises
    direction = "more" if more >= 0 else "fewer"
    return (
        f"{under}, at the same loss rate of {percent(level, 2)}, the federated model serves {abs(more):,.0f} {direction} "
        f"of {total:,.0f} held-out enterprises than {whose} own: {federated.enterprises:,.0f} instead of "
        f"{own.enterprises:,.0f}, at a mean rate of {percent(federated.rate, 1)} instead of {percent(own.rate, 1)}."
    )


def percent(share: float, digits: int | None = None) -> str:
    """Return a share in percent, with so many digits after the point, or as many as it needs."""
    return f"{100 * share:.6g} %" if digits is None else f"{100 * share:.{digits}f} %"


def _intervals(sample: Sample, pricing: PricingConfig, minimum: int, seed: int) -> list[list[float]]:
    """Return, by band, the bootstrap interval of how many more the federated model serves at the same loss rate."""
    terms, caps = pricing.terms(), list(pricing.bands.values())

    def more(rows: NDArray[np.int64]) -> list[float]:
        federated, own = (
            Ladder.of(sample.labels[rows], sample.scores[name][rows], sample.weights[rows])
            for name in ("federated", "bank_only")
        )
        return [_more_served(federated, own, terms, cap, minimum) for cap in caps]

    generator = np.random.default_rng(seed)
    low, high = bootstrap_interval(
        more, sample.labels, generator, resamples=_RESAMPLES, confidence=CONFIDENCE
    )
    return [[float(each) for each in ends] for ends in zip(low, high, strict=True)]


def _more_served(federated: Ladder, own: Ladder, terms: Terms, cap: float, minimum: int) -> float:
    within = [serve(each, terms, cutoff=1.0, cap=cap) for each in (federated, own)]
    level = _common_loss(within[0], within[1], minimum)
    after, before = (serve_at_loss(each, terms, loss=level, cap=cap) for each in (federated, own))
    return after.enterprises - before.enterprises


def _frontier(ladder: Ladder, terms: Terms, minimum: int) -> list[list[float]]:
    """Return share served, realised loss rate and mean rate, from the safest on, in steps of ``minimum`` or more."""
    held = np.cumsum(ladder.enterprises)
    lost = terms.loss_given_default * np.cumsum(ladder.defaults) / held
    rate = terms.cost + (terms.cost + terms.loss_given_default) * np.cumsum(ladder.odds) / held
    wanted = np.arange(minimum, ladder.total + minimum, max(minimum, ladder.total / _FRONTIER_STEPS))
    steps = np.unique(np.minimum(np.searchsorted(held, wanted), len(held) - 1))
    return [[float(held[at] / held[-1]), float(lost[at]), float(rate[at])] for at in steps]


def _json(served: Served) -> dict[str, float | None]:
    """Return the figures with None for what does not exist: JSON has no NaN."""
    return {name: None if math.isnan(value) else value for name, value in asdict(served).items()}
