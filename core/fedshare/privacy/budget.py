"""The budget of a node: what its runs have spent, and whether one more is affordable.

Pure rules; the node's state folder stores the spendings and never takes one back. Two mechanisms have budgets of their own,
because they protect different things:

- ``labels``: the outcome of one customer in one label epoch, by randomised response. The flips of an epoch and an epsilon are
  drawn once, so the same two cost once, however many runs use them.
- ``network``: the presence of one customer of one bank, by noisy gradients. Every run costs; epsilon and delta add up over
  runs (Dwork and Roth 2014, theorem 3.16).

Without noise the loss has no bound: where a mechanism's budget is limited, or was spent from, a contract without its
noise would undo what the noise protects, and is refused unless the node allows it.

    >>> verify_affordable(spent, asked_by(contract, "2026"), limits, party="bank-a")
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from fedshare.errors import ParameterError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from fedshare.contract.model import Contract

__all__ = [
    "MECHANISMS",
    "Amount",
    "Mechanism",
    "Spending",
    "asked_by",
    "spent_by",
    "verify_affordable",
    "verify_noise",
]

Mechanism: TypeAlias = Literal["labels", "network"]
MECHANISMS: tuple[Mechanism, ...] = ("labels", "network")
# Of node.yaml, in which an institution limits a mechanism.
_SETTINGS: dict[str, str] = {
    "labels": "privacy.label_epsilon",
    "network": "privacy.network_epsilon, privacy.network_delta",
}


@dataclass(frozen=True, slots=True)
class Amount:
    """A privacy loss: at most ``exp(epsilon)`` between neighbours, except with probability ``delta``."""

    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True)
class Spending:
    """What one run takes.

    Attributes:
        mechanism: which budget it is taken from.
        scope: the label epoch; empty for networks.
        epsilon: finite, above 0.
        delta: at least 0 and below 1; 0 for labels.
    """

    mechanism: Mechanism
    scope: str
    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        """Refuse what is no spending.

        Raises:
            ParameterError: an amount is outside its range.
        """
        most_delta = 0.0 if self.mechanism == "labels" else 1.0 - 2.0**-53
        if not (0.0 < self.epsilon < math.inf and 0.0 <= self.delta <= most_delta):
            raise ParameterError(
                "expected a finite epsilon above 0 and a delta of at least 0 and below 1, 0 for labels"
            )


def asked_by(contract: Contract, label_epoch: str) -> list[Spending]:
    """Return what one run of ``contract`` takes from a bank whose outcomes are of ``label_epoch``."""
    asked = []
    if contract.privacy.labels:
        asked.append(Spending("labels", label_epoch, contract.privacy.labels.epsilon, 0.0))
    if contract.privacy.network:
        asked.append(
            Spending("network", "", contract.privacy.network.epsilon, contract.privacy.network.delta)
        )
    return asked


def spent_by(spendings: Iterable[Spending], mechanism: Mechanism) -> Amount:
    """Return what all ``spendings`` of a mechanism come to."""
    chosen = [each for each in spendings if each.mechanism == mechanism]
    if mechanism == "labels":
        # The same flips again tell nothing new.
        chosen = list({(each.scope, each.epsilon): each for each in chosen}.values())
    return Amount(math.fsum(each.epsilon for each in chosen), math.fsum(each.delta for each in chosen))


def verify_affordable(
    spent: Iterable[Spending], asked: Iterable[Spending], limits: Mapping[Mechanism, Amount], *, party: str
) -> None:
    """Check that the node's limits leave room for ``asked``.

    Raises:
        RefusedError: they do not; the code is ``privacy_budget_exceeded``.
    """
    before, wanted = list(spent), list(asked)
    for mechanism in {each.mechanism for each in wanted}:
        limit, after = limits[mechanism], spent_by([*before, *wanted], mechanism)
        if after.epsilon > limit.epsilon or after.delta > limit.delta:
            was = spent_by(before, mechanism)
            raise RefusedError(
                "privacy_budget_exceeded",
                f"the privacy budget for {mechanism} would be at epsilon {after.epsilon:g}, delta {after.delta:g} "
                f"after this run; it is at {was.epsilon:g}, {was.delta:g} now, and this node's limit is "
                f"{limit.epsilon:g}, {limit.delta:g} ({_SETTINGS[mechanism]} of node.yaml)",
                party=party,
                private=True,
            )


def verify_noise(
    contract: Contract,
    spent: Iterable[Spending],
    limited: Collection[Mechanism],
    allowed: Collection[Mechanism],
    *,
    party: str,
) -> None:
    """Check that ``contract`` uses nothing without noise that is protected by noise elsewhere.

    Args:
        contract: the contract.
        spent: what runs of all contracts have taken.
        limited: whose limits the institution has set itself.
        allowed: what it lets contracts use without noise all the same.
        party: this party.

    Raises:
        RefusedError: it does; the code is ``noise_missing``.
    """
    privacy = contract.privacy
    # Noise for the presence of a customer covers the customer's outcome.
    exact = {"network"} if privacy.network is None else set()
    if privacy.labels is None and privacy.network is None:
        exact.add("labels")
    protected = {*limited, *(each.mechanism for each in spent)}
    if undone := sorted((exact & protected) - set(allowed)):
        what = {"labels": "outcomes", "network": "customers"}
        raise RefusedError(
            "noise_missing",
            f"the contract uses {' and '.join(what[each] for each in undone)} without noise, which runs under noise or this "
            f"node's limits ({', '.join(_SETTINGS[each] for each in undone)} of node.yaml) protect: sign one with noise, or "
            f"name {', '.join(undone)} in privacy.without_noise of node.yaml",
            party=party,
            private=True,
        )
