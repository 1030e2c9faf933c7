"""A whole training iteration over the real runtime, sealed against the same code in the clear.

    python tests/benchmarks/bench_iteration.py

Every party is a process, the Exchange another one, with mutual TLS on loopback. An iteration goes from
one residual at the bank to the next: two messages per pair of parties and the bank's minimisation; the first one is
left out. Runs alternate and medians are taken over all of them, since both sides share the machine.
"""

from __future__ import annotations

import argparse
import json
from statistics import median
from typing import Any

from federation import Federation, Work

SIZES = ((100_000, 30_000), (20_000, 15_000))


def measure(work: Work) -> tuple[list[float], float]:
    """Return the seconds of each iteration, and the processor seconds of all processes per iteration."""
    with Federation(work) as federation:
        federation.run()
    spent = federation.exchange_cpu_seconds / work.iterations
    for marks in federation.marks.values():
        train = [mark.cpu_seconds for mark in marks if mark.phase == "train"]
        spent += (train[-1] - train[0]) / (len(train) - 1)
    return federation.iteration_seconds(), spent


def iteration(universe: int, customers: int, repeats: int, iterations: int) -> dict[str, Any]:
    """Return one line of the benchmark."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    cpu: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats):
        for is_sealed in (True, False):
            work = Work(universe, customers, iterations=iterations, is_sealed=is_sealed)
            times, spent = measure(work)
            seconds[is_sealed] += times
            cpu[is_sealed].append(spent)
    sealed, plain = median(seconds[True]), median(seconds[False])
    return {
        "name": "iteration",
        "n": universe,
        "m": work.holders * work.columns * work.bins,
        "seconds": sealed,
        "baseline": "the same code with the sealing switched off",
        "baseline_seconds": plain,
        "ratio": sealed / plain,
        "cpu_seconds": median(cpu[True]),
        "baseline_cpu_seconds": median(cpu[False]),
        "holders": work.holders,
        "customers": customers,
        "features": work.holders * work.columns,
    }


def run(
    repeats: int = 3, iterations: int = 12, sizes: tuple[tuple[int, int], ...] = SIZES
) -> list[dict[str, Any]]:
    """Return a line per size."""
    return [iteration(universe, customers, repeats, iterations) for universe, customers in sizes]


def main() -> None:
    """Print results as JSON lines."""
    parser = argparse.ArgumentParser(description="time a training iteration")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=12)
    arguments = parser.parse_args()
    for line in run(arguments.repeats, arguments.iterations):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
