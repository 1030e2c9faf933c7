"""A bank's network in a run: built as the contract says, trained by sums over banks, kept with the result."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedshare.errors import ParameterError
from fedshare.privacy.accounting import noise_multiplier
from fedshare.sealed.randomness import Stream, fresh_seed
from fedshare.training.network.customers import NetworkCustomers
from fedshare.training.network.federation import NetworkTraining, Noise, Round
from fedshare.training.network.inputs import encode
from fedshare.training.network.local import one_thread
from fedshare.training.network.registry import build_network

from .progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedshare.contract.model import Contract
    from fedshare.contract.network import NetworkModel
    from fedshare.credit.bins import ColumnBins
    from fedshare.sealed.randomness import Randomness
    from fedshare.training.scorecard import Step

    from .bank_sums import BankSums
    from .channel import Channel
    from .data.table import Table
    from .progress import ProgressSink

__all__ = ["BankNetwork"]


class BankNetwork:
    """One bank's part in training the banks' network."""

    def __init__(
        self,
        contract: Contract,
        model: NetworkModel,
        party: str,
        bins: Sequence[ColumnBins],
        sums: BankSums,
        randomness: Randomness,
        report: ProgressSink,
    ) -> None:
        self._contract = contract
        self._model = model
        self._party = party
        self._bins = bins
        self._sums = sums
        self._stream = Stream(fresh_seed(randomness))
        self._report = report
        self._customers: NetworkCustomers
        self._training: NetworkTraining
        self._kept: tuple[Step, NDArray[np.float64]] | None = None
        self._channel: Channel

    def prepare(
        self,
        table: Table,
        labels: NDArray[np.float64],
        training: NDArray[np.bool_],
    ) -> None:
        """Build the network for the rows of ``table``; nothing is said to other banks yet.

        Raises:
            ConfigError: the network cannot be built.
        """
        inputs = encode(self._bins, table, party=self._party)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(self._stream.read(8), "big") >> 1)
            network = build_network(self._model, inputs.schema)
        # Beside feature holders the search has the intercept, the own one included.
        own_intercept = self._contract.between_banks.personal_intercepts and not self._contract.holders()
        self._customers = NetworkCustomers(
            network, inputs, labels, table.weight, training, own_intercept=own_intercept
        )
        self._training = NetworkTraining(
            self._customers,
            self._model,
            self._total,
            leads=self._sums.leads,
            stream=self._stream,
            noise=self._noise(),
        )

    def train(self, channel: Channel) -> list[Round]:
        """Take all rounds of the contract, and return the losses before each and after the last."""
        self._channel = channel
        with one_thread():
            self._training.start()
            while not self._training.is_over:
                found = self._training.round()
                self._report(
                    Progress("train", len(self._training.history), "network", found.loss, found.holdout_loss)
                )
            return [*self._training.history, self._training.finish()]

    def follow(self, channel: Channel, offsets: NDArray[np.float64]) -> None:
        """Take the rounds after one iteration of the search, whose scores are ``offsets``, shape ``[c]``."""
        self._channel = channel
        self._customers.set_offsets(offsets)
        with one_thread():
            for _ in range(self._model.rounds_per_iteration):
                self._training.round()

    def settle(self, step: Step) -> Step:
        """Return the outcome of an iteration of the search, after going back to the best network if the search does."""
        if step.reason == "held-out loss" and self._kept is not None:
            best, parameters = self._kept
            self._customers.load(parameters)
            return replace(step, train_loss=best.train_loss, holdout_loss=best.holdout_loss)
        loss = np.inf if step.holdout_loss is None else step.holdout_loss
        if self._kept is None or loss <= (self._kept[0].holdout_loss or np.inf):
            self._kept = step, self._customers.parameters()
        return step

    def scores(self) -> NDArray[np.float64]:
        """Return what the network adds to every customer's log-odds, shape ``[c]``."""
        return self._customers.own_scores()

    def to_dict(self) -> dict[str, Any]:
        """Return what the network is built from, as JSON values: its parameters are little-endian float32 in base64."""
        parameters = self._customers.parameters().astype("<f4")
        return {
            "kind": self._model.kind,
            "settings": dict(self._model.settings),
            "inputs": [column.to_dict() for column in self._bins],
            "parameters": base64.b64encode(parameters.tobytes()).decode(),
            "intercept": float(self._customers.intercept.detach()),
            "rounds": len(self._training.history),
        }

    def _total(self, step: str, values: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
        try:
            return self._sums.total(self._channel, step, values, bits)
        except ParameterError as error:
            raise ParameterError(
                f"{error}; training diverged: lower the learning rate in the contract"
            ) from error

    def _noise(self) -> Noise | None:
        private = self._contract.privacy.network
        if private is None:
            return None
        return Noise(
            noise_multiplier(private.epsilon, private.delta, private.sample_rate, self._model.rounds),
            private.clip_norm,
            private.sample_rate,
            private.lot_size,
            self._contract.fewest_banks(),
        )
