"""Several banks in one process, a thread each, whose sums are plain sums: what the sealed runtime has to reproduce."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedshare.credit.bins import fit_design
from fedshare.errors import ParameterError
from fedshare.sealed.masked_sum import add_up, decode, encode
from fedshare.sealed.randomness import Stream
from fedshare.training.network.customers import NetworkCustomers
from fedshare.training.network.federation import NetworkTraining, Noise
from fedshare.training.network.inputs import Inputs
from fedshare.training.network.inputs import encode as encode_inputs
from fedshare.training.network.registry import build_network
from fedshare_clients.node.data import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fedshare.contract.network import NetworkModel


class PlainSums:
    """``total`` for every bank: waits for all of them and adds up what they bring, on the grid of the masked sum."""

    def __init__(self, banks: int) -> None:
        self._barrier = threading.Barrier(banks, timeout=60)
        self._brought: list[Any] = [None] * banks
        self.steps: list[str] = []
        self.seen: list[list[np.ndarray]] = []

    def of(self, bank: int) -> Callable[[str, np.ndarray, int], np.ndarray]:
        def total(step: str, values: np.ndarray, bits: int) -> np.ndarray:
            try:
                self._brought[bank] = encode(values, bits=bits, parties=len(self._brought), what=step)
            except ParameterError:
                self._barrier.abort()
                raise
            self._barrier.wait()
            summed = decode(add_up(self._brought), bits=bits)
            if self._barrier.wait() == 0:
                self.steps.append(step)
                self.seen.append([decode(each, bits=bits) for each in self._brought])
            self._barrier.wait()
            return summed

        return total


class Parts:
    """The customers of several banks."""

    def __init__(self, inputs: Inputs, labels: np.ndarray, owner: np.ndarray, training: np.ndarray) -> None:
        self.inputs, self.labels, self.owner, self.training = inputs, labels, owner, training
        self.banks = int(owner.max()) + 1

    def customers(self, model: NetworkModel, bank: int | None, **settings: Any) -> NetworkCustomers:
        """Return one bank's customers, or all of them pooled, with a fresh network."""
        rows = np.flatnonzero(self.owner == bank) if bank is not None else np.arange(len(self.labels))
        inputs = Inputs(self.inputs.numeric[rows], self.inputs.categories[rows], self.inputs.schema)
        torch.manual_seed(11 + (bank or 0))
        network = build_network(model, inputs.schema)
        ones = np.ones(len(rows))
        return NetworkCustomers(network, inputs, self.labels[rows], ones, self.training[rows], **settings)

    def pooled(self) -> Parts:
        return Parts(self.inputs, self.labels, np.zeros(len(self.labels), dtype=int), self.training)


def train_banks(
    parts: Parts, model: NetworkModel, *, noise: Noise | None = None, seed: int = 0, **settings: Any
) -> tuple[list[NetworkCustomers], list[NetworkTraining], PlainSums]:
    """Return every bank's customers and training after all rounds, and what was summed."""
    sums = PlainSums(parts.banks)
    customers = [parts.customers(model, bank, **settings) for bank in range(parts.banks)]
    trainings = [
        NetworkTraining(
            each,
            model,
            sums.of(bank),
            leads=bank == 0,
            stream=Stream(bytes([bank, seed]) + bytes(30)),
            noise=noise,
        )
        for bank, each in enumerate(customers)
    ]

    def run(training: NetworkTraining) -> None:
        training.start()
        while not training.is_over:
            training.round()
        training.finish()

    with ThreadPoolExecutor(parts.banks) as pool:
        list(pool.map(run, trainings))
    return customers, trainings, sums


def generated(customers: int = 600, banks: Sequence[float] = (0.5, 0.3, 0.2), seed: int = 5) -> Parts:
    """Return banks of unequal size whose customers' default depends on numbers and a category, not linearly."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=customers), rng.normal(size=customers)
    first[rng.random(customers) < 0.05] = np.nan
    trade = np.array(["retail", "food", "transport"], dtype=object)[rng.integers(0, 3, customers)]
    logit = np.nan_to_num(first) * np.where(trade == "food", 4.0, -2.0) + 2.0 * np.abs(second) - 2.5
    labels = (rng.random(customers) < 1 / (1 + np.exp(-logit))).astype(float)
    table = Table(
        "generated",
        [b"%d" % row for row in range(customers)],
        {"first": first, "second": second, "trade": trade},
        labels,
    )
    columns = [_Spec("first"), _Spec("second"), _Spec("trade", "categorical")]
    design = fit_design(table, columns, 10, party="bank")
    owner = rng.choice(len(banks), size=customers, p=banks)
    return Parts(
        encode_inputs(design.columns, table, party="bank"), labels, owner, rng.random(customers) < 0.7
    )


class _Spec:
    def __init__(self, name: str, kind: str = "numeric") -> None:
        self.name, self.kind, self.bins, self.monotone = name, kind, 8, "none"
