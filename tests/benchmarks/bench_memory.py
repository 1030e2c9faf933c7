"""What a large holder needs: memory of its process, and bytes per iteration on the wire.

    python tests/benchmarks/bench_memory.py

A holder reads 1,000,000 rows of 32 numeric columns from a Parquet file through the node's own reader, aligns, prepares and
trains three iterations with a bank of 20,000 customers, over the real Exchange. Its peak resident memory is what
the kernel counted for its process, Python and libraries included.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from federation import BANK, Federation, Work

MEMORY_GOAL_BYTES = 3 * 2**29
WORD_BYTES = 8


def run(universe: int = 1_000_000, columns: int = 32, customers: int = 20_000) -> list[dict[str, Any]]:
    """Return the lines ``holder_memory`` and ``traffic``, and one for the seconds of each phase."""
    work = Work(universe, customers, holders=1, columns=columns, iterations=3)
    with Federation(work) as federation:
        federation.run()
    holder = work.holder_ids[0]
    peaks = federation.peaks[holder]
    cells = universe * columns * WORD_BYTES
    common = {"n": universe, "m": columns * work.bins, "customers": customers}
    memory = {
        "name": "holder_memory",
        **common,
        "seconds": sum(federation.seconds.values()),
        "baseline": None,
        "baseline_seconds": None,
        "ratio": None,
        "peak_rss_bytes": peaks["close"],
        "goal_bytes": MEMORY_GOAL_BYTES,
        "peak_rss_bytes_by_phase": peaks,
        "bank_peak_rss_bytes": federation.peaks[BANK]["close"],
        "coordinator_peak_rss_bytes": federation.exchange_peak,
        "table_bytes": cells,
    }
    phases = [
        {
            "name": phase,
            **common,
            "seconds": federation.seconds[phase],
            "baseline": None,
            "baseline_seconds": None,
            "ratio": None,
        }
        for phase in ("hello", "align", "prepare", "train")
    ]
    return [memory, traffic(federation, holder, common), *phases]


def traffic(federation: Federation, holder: str, common: dict[str, Any]) -> dict[str, Any]:
    """Return the bytes of envelopes of one iteration, as the node's connection counts them.

    The holder has one bank, so its counters are those of one pair; an iteration is one product in, one column out.
    """
    marks = [mark for mark in federation.marks[holder] if mark.phase == "train"]
    first, last = marks[0], marks[-2]  # the last one reports the end, after a message without a product
    iterations = last.iteration - first.iteration
    words = WORD_BYTES * common["n"]
    sent = (last.bytes_sent - first.bytes_sent) / iterations
    received = (last.bytes_received - first.bytes_received) / iterations
    return {
        "name": "traffic",
        **common,
        "seconds": None,
        "baseline": "8 bytes per row of the universe",
        "baseline_seconds": None,
        "ratio": None,
        "column_bytes": sent,
        "product_bytes": received,
        "baseline_bytes": words,
        "ratio_bytes": max(sent, received) / words,
    }


def main() -> None:
    """Print results as JSON lines."""
    parser = argparse.ArgumentParser(description="a holder's memory and traffic")
    parser.add_argument("--universe", type=int, default=1_000_000)
    for line in run(parser.parse_args().universe):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
