"""Time the sealed primitives against plaintext, and against Paillier where a peer interpreter is given.

    python tests/benchmarks/bench_sealed.py                      # against plaintext
    python tests/benchmarks/bench_sealed.py --paillier PYTHON    # and against the `phe` of that interpreter
    python tests/benchmarks/bench_sealed.py --memory             # a holder's peak memory at 1,000,000 x 32

Every result is a dict with ``name, n, m, seconds, baseline, baseline_seconds, ratio``, where ``ratio`` is
seconds / baseline_seconds and every time is the least of several. Paillier results also have
``extrapolated_from``, the number of rows measured.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from fedshare.sealed import (
    Dense,
    OfferedSecret,
    OneHot,
    OprfKey,
    PublicMatrix,
    answer,
    blind,
    derive,
    evaluate,
    finalize,
    hint,
    open_sum,
    recover,
    scale_bits,
    seal,
)
from fedshare.sealed.oblivious_transfer import ReceiverSetup, SenderSetup

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = bytes(32)
PLAINTEXT = "plaintext float64"

Result = dict[str, Any]


def best(work: Callable[[], object], repeats: int = 5) -> float:
    """Return the least time of ``work`` in seconds, after one run that does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def result(name: str, n: int, m: int, seconds: float, baseline: str, baseline_seconds: float) -> Result:
    """Return one line of the benchmark."""
    ratio = seconds / baseline_seconds
    return {
        "name": name,
        "n": n,
        "m": m,
        "seconds": seconds,
        "baseline": baseline,
        "baseline_seconds": baseline_seconds,
        "ratio": ratio,
    }


def online_seconds(private: OneHot | Dense, d: np.ndarray, repeats: int = 10) -> float:
    """Return the time to encrypt at the bank and recover at the holder, offline part excluded."""
    public = PublicMatrix(SEED, private.rows)
    zero_hint = np.zeros((private.columns, 4096), dtype=np.int64)  # its value does not matter for the time
    bits = scale_bits(private.rows, private.max_abs, 1.0)
    times = []
    for _ in range(repeats + 1):
        secret, offer = OfferedSecret.create(os.urandom)
        mask, answered = answer(zero_hint, offer, os.urandom)
        prepared = secret.accept(answered)
        start = time.perf_counter()
        ciphertext, share = prepared.encrypt(public, d, bits, os.urandom, max_abs_x=private.max_abs)
        recover(private, ciphertext, share, mask)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def vector(n: int) -> np.ndarray:
    """Return residuals: a tenth of the rows are customers."""
    rng = np.random.default_rng(0)
    return np.where(rng.random(n) < 0.1, rng.uniform(-1, 1, n), 0.0)


def one_hot(n: int, features: int, bins: int) -> tuple[OneHot, scipy.sparse.csr_array, np.ndarray]:
    """Return a one-hot matrix as ours, as a sparse float matrix and as codes."""
    codes = np.random.default_rng(1).integers(0, bins, (n, features), dtype=np.int32)
    codes += bins * np.arange(features, dtype=np.int32)
    ends = np.arange(0, codes.size + 1, features, dtype=np.int32)
    plain = scipy.sparse.csr_array((np.ones(codes.size), codes.ravel(), ends), shape=(n, features * bins))
    return OneHot(codes, features * bins), plain, codes


def dense_baseline(values: np.ndarray, d: np.ndarray) -> float:
    """Return the time of the float64 product; its copy of the matrix is gone afterwards."""
    plain = values.astype(np.float64)
    return best(lambda: plain.T @ d, 10)


def sealed_product(n: int, m: int = 32) -> Result:
    """Time the online part with dense columns."""
    values = np.random.default_rng(1).integers(0, 16, (n, m))
    d = vector(n)
    baseline = dense_baseline(values, d)
    seconds = online_seconds(Dense(values), d)
    return result("sealed_product", n, m, seconds, PLAINTEXT, baseline)


def sealed_product_onehot(n: int, features: int = 20, bins: int = 16) -> Result:
    """Time the online part with one-hot columns."""
    private, plain, _ = one_hot(n, features, bins)
    d = vector(n)
    baseline = best(lambda: plain.T @ d)
    return result(
        "sealed_product_onehot", n, features * bins, online_seconds(private, d), PLAINTEXT, baseline
    )


def offline(columns: np.ndarray) -> None:
    """Do one query's offline part: offer, answer, accept."""
    secret, offer = OfferedSecret.create(os.urandom)
    _, answered = answer(columns, offer, os.urandom)
    secret.accept(answered)


def sealed_product_offline(n: int = 100_000, features: int = 20, bins: int = 16) -> Result:
    """Time one query's offline part, both sides; independent of n."""
    private, plain, _ = one_hot(n, features, bins)
    d = vector(n)
    columns = hint(PublicMatrix(SEED, n), private)
    baseline = best(lambda: plain.T @ d)
    return result(
        "sealed_product_offline", n, features * bins, best(lambda: offline(columns)), PLAINTEXT, baseline
    )


def sealed_column(n: int = 1_000_000) -> Result:
    """Time sealing one column with one pair mask and opening the sum of two."""
    keys = [np.frombuffer(os.urandom(16 * n), dtype=np.uint8).reshape(n, 16) for _ in range(3)]
    values = np.arange(n, dtype=np.int64)
    other = seal(values, keys[1], [(-1, keys[2])], b"label")

    def work() -> None:
        sealed = seal(values, keys[0], [(1, keys[2])], b"label")
        open_sum([sealed, other], keys[:2], b"label")

    return result("sealed_column", n, 1, best(work), "plaintext addition", best(lambda: values + values))


def dropped_product(n: int = 1_000_000) -> Result:
    """Time one product with secret bits at both banks, the preparation left out."""
    bits, values = np.random.default_rng(0).random(n) < 0.1, np.arange(n, dtype=np.int64)
    offer, choosing = ReceiverSetup.create(os.urandom)
    points, accepting = SenderSetup.create(offer, os.urandom)
    columns, receiver = choosing.choose(points, bits)
    sender, labels = accepting.accept(columns, n), count()

    def work() -> None:
        label = b"%d" % next(labels)
        message, _ = sender.drop(values, label)
        receiver.drop(message, label)

    return result("dropped_product", n, 1, best(work), "plaintext product", best(lambda: bits * values))


def oblivious_keys(n: int = 2000) -> Result:
    """Time one bank's keys from one holder on one core: blind, evaluate, finalize."""
    identifiers = [b"%018d" % row for row in range(n)]
    key = OprfKey.generate(os.urandom)

    def work() -> None:
        blinds, blinded = blind(identifiers, os.urandom)
        finalize(blinds, evaluate(key, blinded))

    seconds = best(work, 2)
    own = best(lambda: derive(key, identifiers), 2)
    line = result("oblivious_keys", n, 1, seconds, "derivation with the key in hand", own)
    return line | {"per_second_per_core": n / seconds}


def epoch_100k_330(n: int = 100_000, features: int = 33, bins: int = 10) -> Result:
    """Time all sealed work of one full-batch iteration, offline part included, against the same in plaintext.

    The holder seals a column, the bank opens the sum of two holders on every row, then one query.
    """
    private, plain, codes = one_hot(n, features, bins)
    keys = [np.frombuffer(os.urandom(16 * n), dtype=np.uint8).reshape(n, 16) for _ in range(3)]
    public, d = PublicMatrix(SEED, n), vector(n)
    columns = hint(public, private)
    weights = np.random.default_rng(2).normal(size=private.columns)
    bits = scale_bits(n, 1, 1.0)

    def scores() -> np.ndarray:
        return weights[codes].sum(axis=1)

    def sealed() -> None:
        secret, offer = OfferedSecret.create(os.urandom)
        mask, answered = answer(columns, offer, os.urandom)
        prepared = secret.accept(answered)
        fixed = np.rint(scores() * 2.0**32).astype(np.int64)
        ours = seal(fixed, keys[0], [(1, keys[2])], b"label")
        other = seal(fixed, keys[1], [(-1, keys[2])], b"label")
        open_sum([ours, other], keys[:2], b"label")
        ciphertext, share = prepared.encrypt(public, d, bits, os.urandom)
        recover(private, ciphertext, share, mask)

    def plaintext() -> None:
        scores()
        plain.T @ d

    return result("epoch_100k_330", n, private.columns, best(sealed, 3), PLAINTEXT, best(plaintext, 3))


def run() -> list[Result]:
    """Return every line against plaintext."""
    return [
        sealed_product(100_000),
        sealed_product(1_000_000),
        sealed_product_onehot(100_000),
        sealed_product_onehot(1_000_000),
        sealed_product_offline(),
        sealed_column(),
        dropped_product(),
        oblivious_keys(),
        epoch_100k_330(),
    ]


# Runs in the peer's interpreter: 2048-bit keys, every ciphertext randomised, seconds per operation.
PEER = """
import json, random, sys, time
from phe import paillier
rows, columns = int(sys.argv[1]), int(sys.argv[2])
public, private = paillier.generate_paillier_keypair(n_length=2048)
d = [random.uniform(-1, 1) for _ in range(rows)]
x = [[random.randrange(16) for _ in range(columns)] for _ in range(rows)]
def clock(work):
    start = time.perf_counter()
    value = work()
    return value, time.perf_counter() - start
sealed, encrypt = clock(lambda: [public.encrypt(value, precision=2**-30) for value in d])
dense, multiply = clock(lambda: [sum(c * row[k] for c, row in zip(sealed, x)) for k in range(columns)])
sums, add = clock(lambda: [sum(sealed[1:], sealed[0]) for k in range(columns)])
_, decrypt = clock(lambda: [private.decrypt(value) for value in dense])
print(json.dumps({"encrypt": encrypt / rows, "multiply": multiply / (rows * columns),
                  "add": add / (rows * columns), "decrypt": decrypt / columns}))
"""


def run_paillier(python: str, results: list[Result], rows: int = 100, columns: int = 4) -> list[Result]:
    """Return the product lines of ``results`` against Paillier with 2048-bit keys on one core.

    Args:
        python: an interpreter with ``phe`` installed; a benchmark-only environment (``phe`` is GPLv3).
        results: from :func:`run`.
        rows: rows to measure and extrapolate from, linearly.
        columns: columns to measure.
    """
    printed = subprocess.run(
        [python, "-c", PEER, str(rows), str(columns)], check=True, capture_output=True, text=True
    ).stdout
    cost = json.loads(printed)
    lines = []
    for line in results:
        # One-hot: a ciphertext is added once per feature; dense: multiplied and added once per column. A sealed
        # column: every row is encrypted at one holder, added to another's at the bank and decrypted.
        per_row = {
            "sealed_column": cost["add"] + cost["decrypt"],
            "sealed_product": line["m"] * cost["multiply"],
            "sealed_product_onehot": 20 * cost["add"],
            "epoch_100k_330": 33 * cost["add"],
            "iteration": line.get("features", 0) * cost["add"],
        }.get(line["name"])
        if per_row is None:
            continue
        seconds = line["n"] * (cost["encrypt"] + per_row) + line["m"] * cost["decrypt"]
        peer = result(line["name"], line["n"], line["m"], line["seconds"], "paillier-2048 (phe)", seconds)
        lines.append(peer | {"extrapolated_from": rows})
    return lines


def memory(n: int = 1_000_000, m: int = 32) -> Result:
    """Return this process's peak memory after a holder's hint and query; run it in a process of its own."""
    private = Dense(np.random.default_rng(1).integers(0, 16, (n, m)))
    columns = hint(PublicMatrix(SEED, n), private)
    _, offer = OfferedSecret.create(os.urandom)
    mask, _ = answer(columns, offer, os.urandom)
    recover(private, np.zeros(n, dtype=np.int64), np.zeros(m, dtype=np.int64), mask)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"name": "sealed_product_memory", "n": n, "m": m, "peak_bytes": peak}


def main() -> None:
    """Print results as JSON lines."""
    parser = argparse.ArgumentParser(description="time the sealed primitives")
    parser.add_argument("--paillier", metavar="PYTHON", help="interpreter with phe installed")
    parser.add_argument("--memory", action="store_true", help="only a holder's peak memory")
    arguments = parser.parse_args()
    if arguments.memory:
        print(json.dumps(memory()))
        return
    results = run()
    peers = run_paillier(arguments.paillier, results) if arguments.paillier else []
    for line in [*results, *peers]:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
