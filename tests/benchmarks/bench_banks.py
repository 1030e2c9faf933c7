"""Many banks: one bank's part of a masked sum, and an iteration of several banks over the real runtime.

    python tests/benchmarks/bench_banks.py

The masked sum is beside the same step of Flower's SecAgg+ client, run from Flower's own code in the same
process: both start from floats and end with what is sent. Flower masks integers modulo 2^32 (22 bits of value), ours
are modulo 2^64; both have a self mask whose seed is shared out for the loss of a party.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from federation import Federation, Work

from fedshare.sealed.masked_sum import encode, masked
from fedshare.sealed.recovery import RecoverableMask

if TYPE_CHECKING:
    from collections.abc import Callable

BITS = 24


def best(work: Callable[[], Any], repeats: int) -> float:
    """Return the least seconds that ``work`` takes."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def our_part(values: np.ndarray, banks: int) -> Callable[[], Any]:
    """Return what one bank does in a sum without recovery; the session has derived the seeds from its keys before."""
    seeds = [(1, os.urandom(32)) for _ in range(banks - 1)]
    return lambda: masked(encode(values, bits=BITS, parties=banks, what="benchmark"), seeds)


def our_recoverable_part(values: np.ndarray, banks: int) -> Callable[[], Any]:
    """Return what one bank does in a sum that survives a loss: fresh keys, shares, agreements, a self mask."""
    names = [f"bank-{number}" for number in range(banks)]
    publics = {name: RecoverableMask.create(os.urandom).public for name in names[1:]}

    def part() -> Any:
        own = RecoverableMask.create(os.urandom)
        own.shares(banks, os.urandom)
        seeds = [(1, own.seed_with(peer, public, names[0], b"sum")) for peer, public in publics.items()]
        words = encode(values, bits=BITS, parties=banks, what="benchmark")
        return masked(words, [*seeds, (1, own.self_seed)])

    return part


def flower_part(values: np.ndarray, banks: int) -> Callable[[], Any]:
    """Return what one client of Flower's SecAgg+ does between its fit and its upload."""
    from flwr.app import ConfigRecord  # noqa: PLC0415
    from flwr.common import ndarrays_to_parameters  # noqa: PLC0415

    # The package exports a function of the module's name.
    flower = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
    settings = ConfigRecord(
        {
            flower.Key.SAMPLE_NUMBER: banks,
            flower.Key.SHARE_NUMBER: banks,
            flower.Key.THRESHOLD: banks // 2 + 1,
            flower.Key.CLIPPING_RANGE: 8.0,
            flower.Key.TARGET_RANGE: 1 << 22,
            flower.Key.MOD_RANGE: 1 << 32,
            flower.Key.MAX_WEIGHT: 1000.0,
        }
    )
    states = [flower.SecAggPlusState(nid=number) for number in range(banks)]
    keys = {}
    for state in states:
        public = flower._setup(state, settings)
        keys[str(state.nid)] = [public[flower.Key.PUBLIC_KEY_1], public[flower.Key.PUBLIC_KEY_2]]
    inbox: dict[int, bytes] = {}
    for state in states:
        sent = flower._share_keys(state, ConfigRecord(keys))
        to = dict(zip(sent[flower.Key.DESTINATION_LIST], sent[flower.Key.CIPHERTEXT_LIST], strict=True))
        if state.nid:
            inbox[state.nid] = to[0]
    configs = ConfigRecord(
        {flower.Key.CIPHERTEXT_LIST: list(inbox.values()), flower.Key.SOURCE_LIST: list(inbox)}
    )
    parameters = ndarrays_to_parameters([values])
    return lambda: flower._collect_masked_vectors(states[0], configs, 1000, parameters)


def masked_sum(size: int, banks: int, repeats: int) -> list[dict[str, Any]]:
    """Return the lines of the masked sum, without and with recovery."""
    values = np.random.default_rng(0).normal(size=size).clip(-7, 7)
    flower = best(flower_part(values, banks), max(1, repeats // 2))
    return [
        {
            "name": name,
            "n": size,
            "m": banks,
            "seconds": seconds,
            "baseline": "SecAgg+ client of Flower",
            "baseline_seconds": flower,
            "ratio": seconds / flower,
        }
        for name, seconds in (
            ("masked_sum", best(our_part(values, banks), repeats)),
            ("masked_sum_recoverable", best(our_recoverable_part(values, banks), repeats)),
        )
    ]


def hybrid_iteration(
    universe: int, customers: int, holders: int, banks: int, iterations: int, *, drops: bool = False
) -> dict[str, Any]:
    """Return the line of one number of banks: seconds per iteration, and what a holder and a bank compute."""
    work = Work(universe, customers, holders=holders, iterations=iterations, banks=banks, drops=drops)
    with Federation(work) as federation:
        federation.run()
    spent = {}
    for party, marks in federation.marks.items():
        train = [mark.cpu_seconds for mark in marks if mark.phase == "train"]
        spent[party] = (train[-1] - train[0]) / (len(train) - 1)
    return {
        "name": "hybrid_iteration",
        "n": universe,
        "m": holders * work.columns * work.bins,
        "seconds": median(federation.iteration_seconds()),
        "baseline": None,
        "baseline_seconds": None,
        "ratio": None,
        "banks": banks,
        "customers": banks * customers,
        "holders": holders,
        "holder_cpu_seconds": median(spent[holder] for holder in work.holder_ids),
        "bank_cpu_seconds": median(spent[bank] for bank in work.bank_ids),
        "prepare_seconds": federation.seconds["prepare"],
    }


def run(
    size: int = 1_000_000,
    repeats: int = 6,
    universe: int = 200_000,
    customers: int = 25_000,
    banks: tuple[int, ...] = (1, 2, 4, 8),
    iterations: int = 8,
) -> list[dict[str, Any]]:
    """Return every line."""
    lines = masked_sum(size, 10, repeats)
    lines += [hybrid_iteration(universe, customers, 3, count, iterations) for count in banks]
    if 2 in banks:
        counted = next(line for line in lines if line.get("banks") == 2)
        distinct = hybrid_iteration(universe, customers, 3, 2, iterations, drops=True)
        lines.append(
            distinct
            | {
                "name": "hybrid_iteration_distinct",
                "baseline": "shared customers count twice",
                "baseline_seconds": counted["seconds"],
                "ratio": distinct["seconds"] / counted["seconds"],
            }
        )
    return lines


def main() -> None:
    """Print results as JSON lines."""
    parser = argparse.ArgumentParser(description="time masked sums and iterations of several banks")
    parser.add_argument("--sum-only", action="store_true", help="leave out the iterations")
    arguments = parser.parse_args()
    for line in run(banks=()) if arguments.sum_only else run():
        print(json.dumps(line))


if __name__ == "__main__":
    main()
