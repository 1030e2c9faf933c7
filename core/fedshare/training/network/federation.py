"""One bank's part in training a network across banks: rounds of sums, until the rounds are over or it stops improving.

Every bank runs the same steps and computes the common network from the same sums, so all end with the same one:

    training = NetworkTraining(customers, model, total, leads=True, stream=Stream(seed))
    training.start()
    while not training.is_over:
        training.round()
    training.finish()

``total(step, values, bits)`` returns the sum over banks; each bank contributes a vector of the same length and learns
nothing but the sum. A contribution that is not finite or out of range ends the run there, before anything is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fedshare.errors import RunFailedError

from .local import local_update
from .private import GRADIENT_BITS, noisy_gradient_sum
from .server import server_step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedshare.contract.network import NetworkModel
    from fedshare.sealed.randomness import Stream

    from .customers import NetworkCustomers

__all__ = ["NetworkTraining", "Noise", "Round", "Total"]

# Fractional bits of parameters, updates and mean losses in a sum.
_BITS = 36
_WEIGHT_BITS = 20
# A parameter or mean loss beyond it is no model but divergence.
_LARGEST = 1e4


class Total(Protocol):
    """The sum over banks."""

    def __call__(self, step: str, values: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
        """Return it; ``step`` names the sum in errors, ``bits`` are its fractional bits."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Central privacy: each round is one noisy gradient step.

    Attributes:
        noise_multiplier: z, as calibrated for all rounds.
        clip_norm: C.
        sample_rate: chance of a customer to be in a round.
        lot_size: what the noisy sum is divided by; the same whoever takes part.
        banks: how many take part in every round, at least.
    """

    noise_multiplier: float
    clip_norm: float
    sample_rate: float
    lot_size: int
    banks: int


@dataclass(frozen=True, slots=True)
class Round:
    """Mean losses over all banks' customers before a round, in nats; with central privacy, of this bank's own."""

    loss: float
    holdout_loss: float


class NetworkTraining:
    """See the module."""

    def __init__(
        self,
        customers: NetworkCustomers,
        model: NetworkModel,
        total: Total,
        *,
        leads: bool,
        stream: Stream,
        noise: Noise | None = None,
    ) -> None:
        """Take part.

        Args:
            customers: this bank's.
            model: what the contract says.
            total: see the module.
            leads: whether the network starts with this bank's parameters; true at exactly one bank.
            stream: secret of this bank: orders customers, draws dropout, samples and noise.
            noise: ``None`` without central privacy.
        """
        self._customers = customers
        self._model = model
        self._total = total
        self._leads = leads
        self._stream = stream
        self._noise = noise
        self._step = server_step(model)
        self._momentum: NDArray[np.float64] | None = None
        self._weights = np.ones(2)
        self._best: tuple[float, NDArray[np.float64], float] | None = None
        self._since_best = 0
        self.history: list[Round] = []

    @property
    def is_over(self) -> bool:
        """Whether the rounds are over, or the held-out loss has not fallen for as long as the contract allows."""
        patience = self._model.patience
        return len(self.history) >= self._model.rounds or 0 < patience <= self._since_best

    def start(self) -> None:
        """Agree on the first network and, without noise, on the weight of all customers."""
        own = self._customers.parameters()
        self._common = self._total("first network", own if self._leads else np.zeros_like(own), _BITS)
        if self._noise is None:
            weights = np.array(self._customers.weight_sums())
            self._weights = self._total("weight of the customers", weights, _WEIGHT_BITS)
        self._customers.load(self._common)

    def round(self) -> Round:
        """Take one round and return the losses before it.

        Raises:
            ParameterError: this bank's contribution is not finite or out of range; nothing was sent.
            RunFailedError: the common network has diverged.
        """
        step = f"network, round {len(self.history) + 1}"
        before = self._private_round(step) if self._noise else self._plain_round(step)
        self._verify(step)
        self.history.append(before)
        return before

    def finish(self) -> Round:
        """Stand at the best network, or the last one if the contract has no patience, and return its losses."""
        after = self._losses("network, after the last round")
        if self._model.patience:
            self._remember(after)
        if self._best is not None:
            _, self._common, intercept = self._best
            self._customers.intercept.data.fill_(intercept)
            self._customers.load(self._common)
            after = self._losses("network, at the best round")
        return after

    def _plain_round(self, step: str) -> Round:
        customers, shares = self._customers, np.array(self._customers.weight_sums()) / self._weights
        intercept = float(customers.intercept.detach())
        losses = np.array(customers.losses()) / self._weights
        update = local_update(customers, self._common, self._model, self._stream)
        summed = self._total(step, np.concatenate([shares[0] * update, losses, shares]), _BITS)
        # The shares of all banks add up to one; those of who is left, if a bank was lost, to less.
        before = Round(*(summed[-4:-2] / summed[-2:]).tolist())
        if self._model.patience:
            self._remember(before, intercept)
        self._common = self._common + self._step(summed[:-4] / summed[-2])
        customers.load(self._common)
        return before

    def _private_round(self, step: str) -> Round:
        customers, noise = self._customers, self._noise
        assert noise is not None  # noqa: S101 - only called with noise
        before = self._own_losses()
        own = noisy_gradient_sum(
            customers,
            sample_rate=noise.sample_rate,
            clip_norm=noise.clip_norm,
            noise_multiplier=noise.noise_multiplier,
            banks=noise.banks,
            stream=self._stream,
        )
        gradient = self._total(step, own, GRADIENT_BITS) * (noise.clip_norm / noise.lot_size)
        self._common = self._common + self._step(self._descent(gradient))
        customers.load(self._common)
        return before

    def _descent(self, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the update that a noisy mean gradient stands for: all of this is post-processing."""
        decayed = gradient + self._model.weight_decay * self._common
        if self._model.algorithm == "fedadam":
            return -decayed
        momentum = decayed if self._momentum is None else self._model.momentum * self._momentum + decayed
        self._momentum = momentum
        return -self._model.learning_rate * momentum

    def _losses(self, step: str) -> Round:
        if self._noise is not None:
            return self._own_losses()
        own = [self._customers.losses(), self._customers.weight_sums()]
        losses, shares = self._total(
            step, np.concatenate(own / np.tile(self._weights, (2, 1))), _BITS
        ).reshape(2, 2)
        return Round(*(losses / shares).tolist())

    def _own_losses(self) -> Round:
        training, holdout = np.array(self._customers.losses()) / np.array(self._customers.weight_sums())
        return Round(float(training), float(holdout))

    def _remember(self, found: Round, intercept: float | None = None) -> None:
        if self._best is None or found.holdout_loss < self._best[0]:
            own = float(self._customers.intercept.detach()) if intercept is None else intercept
            self._best, self._since_best = (found.holdout_loss, self._common, own), 0
        else:
            self._since_best += 1

    def _verify(self, step: str) -> None:
        if not np.all(np.abs(self._common) < _LARGEST):
            raise RunFailedError(
                f"{step}: the common network has diverged: a parameter is {_LARGEST:g} or larger; lower the learning "
                "rate in the contract. Nothing of it was kept"
            )
