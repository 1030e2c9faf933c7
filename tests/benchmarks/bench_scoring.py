"""Online scores: how long one of the bank's systems waits, over the real runtime on loopback.

    python tests/benchmarks/bench_scoring.py

Two holders, a bank and the Exchange are processes, with mutual TLS between all of them and between the bank's node and its
caller, which is a process as well. A number of callers each ask for one enterprise after the other, without a pause; ``first``
are enterprises never asked about before (one oblivious-key round trip per holder), ``again`` those whose row keys the bank
has. All processes share the machine's cores with the caller.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import time
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from federation import START_METHOD, Federation, Work

from fedshare.wire.v1 import scoring_pb2 as wire
from fedshare.wire.v1.scoring_pb2_grpc import ScoreServiceStub

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from fedshare_clients.node.enrolment import TlsIdentity

CALLERS = (1, 8, 32)


async def load(address: str, tls: TlsIdentity, names: list[str], callers: int) -> tuple[list[float], float]:
    """Return the seconds that each question took, and those that all of them took together."""
    credentials = grpc.ssl_channel_credentials(tls.ca_pem, tls.key_pem, tls.certificate_pem)
    waits: list[float] = []
    async with grpc.aio.secure_channel(address, credentials) as channel:
        stub = ScoreServiceStub(channel)
        left = iter(names)

        async def caller() -> None:
            for name in left:
                started = time.perf_counter()
                reply = await stub.Score(wire.ScoreRequest(question=wire.Question(enterprise=name)))
                waits.append(time.perf_counter() - started)
                if reply.answer.status != "scored":
                    raise RuntimeError(f"not scored: {reply.answer.reason}")

        await channel.channel_ready()
        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        return waits, time.perf_counter() - began


def call(address: str, tls: TlsIdentity, pipe: Connection) -> None:
    """Be the caller: for every round that comes, send back the waits, the seconds and the processor time."""
    while (asked := pipe.recv()) is not None:
        before = time.process_time()
        waits, seconds = asyncio.run(load(address, tls, *asked))
        pipe.send((waits, seconds, time.process_time() - before))


def run(universe: int = 100_000, first: int = 1000, again: int = 5000) -> list[dict[str, Any]]:
    """Return the benchmark's lines.

    Args:
        universe: rows of each holder.
        first: enterprises per number of callers that are asked about for the first time.
        again: questions per number of callers about enterprises that are known.
    """
    work = Work(universe, customers=2000, iterations=1)
    rounds, unused = [], iter(range(universe))
    for callers in CALLERS:
        fresh = [f"{next(unused):018d}" for _ in range(first)]
        rounds.append(("first", callers, fresh))
        rounds.append(("again", callers, [fresh[number % first] for number in range(again)]))
    lines = []
    with Federation(work) as federation:
        federation.run()
        address, tls = federation.serve()
        context = multiprocessing.get_context(START_METHOD)
        ours, theirs = context.Pipe()
        process = context.Process(target=call, args=(address, tls, theirs))
        process.start()
        theirs.close()
        for kind, callers, names in [("warm_up", 8, warm_up(universe)), *rounds]:
            before = federation.cpu_seconds()
            ours.send((names, callers))
            waits, seconds, caller_cpu = ours.recv()
            after = federation.cpu_seconds()
            cpu = {"caller": caller_cpu} | {process: after[process] - before[process] for process in after}
            lines.append(
                {
                    "name": f"online_score_{kind}",
                    "n": universe,
                    "m": callers,
                    "seconds": float(np.median(waits)),
                    "baseline": None,
                    "baseline_seconds": None,
                    "ratio": None,
                    "p99_seconds": float(np.quantile(waits, 0.99)),
                    "per_second": len(waits) / seconds,
                    "callers": callers,
                    "cpu_microseconds": {each: round(1e6 * used / len(waits)) for each, used in cpu.items()},
                }
            )
        ours.send(None)
        process.join()
    return lines[1:]


def warm_up(universe: int) -> list[str]:
    """Return enterprises that no round asks about."""
    return [f"{universe - 1 - number:018d}" for number in range(200)]


def main() -> None:
    """Print one line of JSON per measurement."""
    parser = argparse.ArgumentParser(description="how long a bank's system waits for a score")
    parser.add_argument("--universe", type=int, default=100_000)
    for line in run(parser.parse_args().universe):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
