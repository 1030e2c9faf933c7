"""AUC against epsilon, and federated against pooled networks, on default_credit; docs/privacy.md and docs/networks.md.

    FEDSHARE_DATA=... python tests/benchmarks/measure_networks.py labels private --figure docs/figures/privacy.svg
    FEDSHARE_DATA=... python tests/benchmarks/measure_networks.py mlp resnet

Everything runs in one process with plain sums, which the sealed runtime reproduces to fixed-point steps (tests/simulator). Each
line is one JSON object: what was measured, then AUC on the held-out customers, mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "core" / "training"))
from network_banks import Parts, train_banks

from fedshare.contract.model import Column, ScorecardModel
from fedshare.contract.network import NetworkModel
from fedshare.credit.bins import Design, fit_design
from fedshare.credit.metrics import auc
from fedshare.privacy.accounting import noise_multiplier
from fedshare.privacy.randomised_response import training_labels
from fedshare.training.network.federation import Noise
from fedshare.training.network.inputs import encode, public_bins
from fedshare.training.scorecard import centralised_fit
from fedshare_clients.node.data import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EPSILONS = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0)
SEEDS = 3
DELTA = 1e-5
CATEGORICAL = ("sex", "education", "marriage")
RANGES = {
    "limit_bal": (0.0, 500_000.0),
    "age": (20.0, 80.0),
    **{f"pay_{month}": (-2.0, 8.0) for month in (0, 2, 3, 4, 5, 6)},
    **{f"bill_amt{month}": (0.0, 200_000.0) for month in range(1, 7)},
    **{f"pay_amt{month}": (0.0, 20_000.0) for month in range(1, 7)},
}
MLP: dict[str, Any] = {"kind": "mlp", "settings": {"hidden": 32}}
# What was tried for the private network: one choice for every epsilon, as a contract has to choose without looking.
PRIVATE_ROUNDS = 300
PRIVATE_RATE = 0.05


class Customers:
    """default_credit: 30,000 customers with 23 columns, 30 % of them held out."""

    def __init__(self) -> None:
        file = Path(os.environ["FEDSHARE_DATA"]) / "default_credit" / "clients.parquet"
        rows = pq.read_table(file)
        cells: dict[str, Any] = {name: rows[name].to_numpy().astype(np.float64) for name in RANGES}
        for name in CATEGORICAL:
            cells[name] = np.array([str(each) for each in rows[name].to_pylist()], dtype=object)
        self.labels = rows["default"].to_numpy().astype(np.float64)
        self.names = [str(each).encode() for each in rows["enterprise_id"].to_pylist()]
        self.table = Table("default_credit", self.names, cells, self.labels)
        self.columns = [Column(name=name) for name in RANGES]
        self.columns += [
            Column(name=name, kind="categorical", categories=tuple(sorted(set(cells[name]))))
            for name in CATEGORICAL
        ]
        self.training = np.random.default_rng(2024).random(len(self.labels)) >= 0.3

    def design(self) -> Design:
        return fit_design(self.table, self.columns, 30, party="bank")

    def auc(self, scores: np.ndarray) -> float:
        return auc(self.labels[~self.training], scores[~self.training])

    def areas(self, scores: np.ndarray, owner: np.ndarray) -> dict[str, float]:
        """Return the AUC over all banks, and the mean of that within each bank, by its held-out customers."""
        banks = np.unique(owner)
        rows = [~self.training & (owner == bank) for bank in banks]
        within = [auc(self.labels[each], scores[each]) for each in rows]
        mean = np.average(within, weights=[each.sum() for each in rows])
        return {"auc": round(self.auc(scores), 4), "within_banks": round(float(mean), 4)}

    def parts(self, owner: np.ndarray, *, is_public: bool = False) -> Parts:
        bins = public_bins(self.columns, RANGES) if is_public else self.design().columns
        return Parts(encode(bins, self.table, party="bank"), self.labels, owner, self.training)


def network_scores(parts: Parts, model: NetworkModel, **settings: Any) -> np.ndarray:
    trained, _, _ = train_banks(parts, model, **settings)
    scores = np.empty(len(parts.labels))
    for bank, each in enumerate(trained):
        scores[parts.owner == bank] = each.own_scores()
    return scores


def summary(found: list[float]) -> dict[str, float]:
    return {"auc": round(float(np.mean(found)), 4), "sd": round(float(np.std(found)), 4), "seeds": len(found)}


def labels(customers: Customers) -> Iterator[dict[str, Any]]:
    """The scorecard of all columns, trained on noisy outcomes."""
    design, ones = customers.design(), np.ones(len(customers.labels))
    for epsilon in (*EPSILONS, None):
        found = []
        for seed in range(SEEDS if epsilon else 1):
            used = training_labels(customers.labels, customers.names, bytes([seed]) * 32, "1", epsilon)
            model = centralised_fit(used, ones, design, customers.training, ScorecardModel())
            found.append(customers.auc(model.scores()))
        yield {"measure": "labels", "epsilon": epsilon, **summary(found)}


def private(customers: Customers) -> Iterator[dict[str, Any]]:
    """A perceptron of four banks, trained with noisy gradients."""
    owner = np.random.default_rng(7).choice(4, size=len(customers.labels), p=[0.4, 0.3, 0.2, 0.1])
    parts = customers.parts(owner, is_public=True)
    lot = round(PRIVATE_RATE * customers.training.sum() / 1000) * 1000
    model = NetworkModel(**MLP, rounds=PRIVATE_ROUNDS, learning_rate=0.5, weight_decay=0.0)
    for epsilon in EPSILONS:
        multiplier = noise_multiplier(epsilon, DELTA, PRIVATE_RATE, PRIVATE_ROUNDS)
        noise = Noise(multiplier, 1.0, PRIVATE_RATE, lot, 4)
        found = [customers.auc(network_scores(parts, model, noise=noise, seed=seed)) for seed in range(SEEDS)]
        yield {
            "measure": "private",
            "epsilon": epsilon,
            "delta": DELTA,
            "noise_multiplier": round(multiplier, 3),
            **summary(found),
        }
    plain = NetworkModel(**MLP, rounds=100, patience=15)
    found = [customers.auc(network_scores(parts, plain, seed=seed)) for seed in range(SEEDS)]
    yield {"measure": "private", "epsilon": None, **summary(found)}


def non_iid(kind: str, customers: Customers) -> Iterator[dict[str, Any]]:
    """Eight banks whose shares of defaulters and of others are drawn from Dirichlet distributions, against pooled data."""
    plain = NetworkModel(kind=kind, rounds=100, patience=15)
    algorithms = {
        "fedavg": plain,
        "fedprox": plain.model_copy(update={"algorithm": "fedprox", "proximal": 1.0}),
        "fedadam": plain.model_copy(update={"algorithm": "fedadam", "server_learning_rate": 0.03}),
    }
    shared = network_scores(customers.parts(np.zeros(len(customers.labels), dtype=int)), plain)
    for alpha in (100.0, 1.0):
        owner = dirichlet(customers.labels, 8, alpha)
        parts = customers.parts(owner)
        rates = [customers.labels[owner == bank].mean() for bank in range(8)]
        common = {
            "measure": kind,
            "alpha": alpha,
            "default_rates": [round(min(rates), 3), round(max(rates), 3)],
        }
        yield {**common, "trained": "pooled", **customers.areas(shared, owner)}
        for name, model in algorithms.items():
            yield {**common, "trained": name, **customers.areas(network_scores(parts, model), owner)}
        for name, model in algorithms.items():
            found = network_scores(parts, model, own_intercept=True)
            yield {**common, "trained": f"{name}, personal intercepts", **customers.areas(found, owner)}


def dirichlet(outcomes: np.ndarray, banks: int, alpha: float) -> np.ndarray:
    """Return the bank of every customer: each outcome's shares are one draw (Hsu et al. 2019)."""
    rng = np.random.default_rng(11)
    owner = np.empty(len(outcomes), dtype=int)
    for outcome in (0.0, 1.0):
        rows = outcomes == outcome
        owner[rows] = rng.choice(banks, size=rows.sum(), p=rng.dirichlet([alpha] * banks))
    return owner


MEASURES: dict[str, Callable[[Customers], Iterator[dict[str, Any]]]] = {
    "labels": labels,
    "private": private,
    "mlp": partial(non_iid, "mlp"),
    "resnet": partial(non_iid, "resnet"),
}


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Draw AUC against epsilon."""
    import matplotlib as mpl  # noqa: PLC0415 - of this function only
    from matplotlib.figure import Figure  # noqa: PLC0415

    mpl.rcParams["svg.hashsalt"] = "fedshare"
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    names = {"labels": "scorecard, noisy outcomes", "private": "perceptron, noisy gradients (delta 1e-5)"}
    for measure, colour in (("labels", "tab:blue"), ("private", "tab:orange")):
        chosen = [each for each in found if each["measure"] == measure]
        noisy = [each for each in chosen if each["epsilon"]]
        axes.errorbar(
            [each["epsilon"] for each in noisy],
            [each["auc"] for each in noisy],
            [each["sd"] for each in noisy],
            color=colour, marker="o", capsize=3, label=names[measure],
        )  # fmt: skip
        axes.axhline(chosen[-1]["auc"], color=colour, linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks(EPSILONS, [f"{each:g}" for each in EPSILONS])
    axes.minorticks_off()
    axes.set_xlabel("epsilon")
    axes.set_ylabel("AUC, held-out customers")
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measures", nargs="+", choices=MEASURES)
    parser.add_argument("--figure", type=Path, help="where to draw AUC against epsilon, an SVG")
    options = parser.parse_args()
    torch.set_num_threads(1)
    customers, found = Customers(), []
    for measure in options.measures:
        for line in MEASURES[measure](customers):
            print(json.dumps(line), flush=True)
            found.append(line)
    if options.figure:
        draw(found, options.figure)


if __name__ == "__main__":
    main()
