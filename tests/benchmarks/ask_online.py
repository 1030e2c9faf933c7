"""Online scores of a federation that is served now: how long one of the bank's systems waits.

    fedshare-local serve OUT                                             # in another terminal
    python tests/benchmarks/ask_online.py --config OUT/bank/node.yaml --scores OUT/bank/scores.parquet

Asks about enterprises that an earlier file of scores shows as scored: ``first`` those that this serving run was not asked
about yet (which uses up the contract's quota), ``again`` the same ones. Rounds as in ``bench_scoring``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from bench_scoring import load

from fedshare.errors import ConfigError
from fedshare_clients.node.config import load_config
from fedshare_clients.node.score_tls import client_identity, open_authority


def run(config_path: Path, scores: Path, count: int, callers: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return a line of figures for each round: ``count`` enterprises, ``first`` and ``again``, by each number of callers."""
    config, now = load_config(config_path), datetime.now(UTC)
    if config.scoring is None:
        raise ConfigError(f"{config_path}: this node has no score service")
    tls = client_identity(
        open_authority(config.state, now, create=False), "ask-online", now, timedelta(hours=1)
    )
    table = pq.read_table(scores, columns=["enterprise", "status"])
    names = table.filter(pc.field("status") == "scored")["enterprise"].to_pylist()
    lines = []
    for place, each in enumerate(callers):
        chosen = names[place * count : (place + 1) * count]
        for kind in ("first", "again"):
            waits, seconds = asyncio.run(load(config.scoring.listen, tls, chosen, each))
            lines.append(
                {
                    "kind": kind,
                    "callers": each,
                    "answers": len(waits),
                    "p50_ms": round(1000 * float(np.median(waits)), 2),
                    "p99_ms": round(1000 * float(np.quantile(waits, 0.99)), 2),
                    "per_second": round(len(waits) / seconds),
                }
            )
    return lines


def main() -> None:
    """Print one line of JSON per round."""
    parser = argparse.ArgumentParser(
        description="how long a bank's system waits for a score of a served model"
    )
    parser.add_argument("--config", required=True, type=Path, help="node.yaml of the bank")
    parser.add_argument("--scores", required=True, type=Path, help="a file of `fedshare-node score`")
    parser.add_argument(
        "--count", type=int, default=1000, help="enterprises per number of callers (default 1000)"
    )
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 8, 32], help="at once (default 1 8 32)")
    given = parser.parse_args()
    for line in run(given.config, given.scores, given.count, tuple(given.callers)):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
