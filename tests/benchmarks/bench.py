"""Run every benchmark and write the results as one list.

    python tests/benchmarks/bench.py --out build/bench.json [--quick] [--peer-python PYTHON]

Every ``bench_*.py`` beside this file is run through its ``run()``, each in a process of its own. An entry is
``{name, n, m, seconds, baseline, baseline_seconds, ratio}`` and what the benchmark adds; numbers that were scaled
up from fewer rows have ``extrapolated_from``. No time is asserted: the exit code is nonzero only if something could
not be measured, and the entry then has ``error``.

Paillier comes from `phe`, in an environment of its own that only this script uses: it is GPLv3 and no dependency.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PEER_PACKAGES = ("phe==1.5.0", "gmpy2")
PEER_NAMES = ("sealed_product", "sealed_product_onehot", "sealed_column", "epoch_100k_330", "iteration")
PEER = "paillier-2048 (phe)"

# What --quick makes smaller, by module.
QUICK: dict[str, dict[str, Any]] = {
    "bench_banks": {"universe": 20_000, "customers": 2_500, "banks": (1, 4), "iterations": 4},
    "bench_audit": {"entries": 20_000, "single_entries": 2_000},
    "bench_iteration": {"repeats": 1, "iterations": 6, "sizes": ((20_000, 10_000),)},
    "bench_memory": {"universe": 300_000},
    "bench_scoring": {"universe": 20_000, "first": 200, "again": 1000},
}

Entry = dict[str, Any]


def run_module(module: str, arguments: dict[str, Any], pipe: Any) -> None:
    """Run one module's benchmarks and send its entries, or what went wrong."""
    try:
        pipe.send((importlib.import_module(module).run(**arguments), None))
    except Exception as error:  # noqa: BLE001  the others are still to be run
        pipe.send(([], f"{type(error).__name__}: {error}"))


def measure(module: str, *, is_quick: bool) -> list[Entry]:
    """Return a module's entries; one with ``error`` if it fails."""
    context = multiprocessing.get_context("spawn")  # nothing of one benchmark is in another's memory
    ours, theirs = context.Pipe()
    process = context.Process(
        target=run_module, args=(module, QUICK.get(module, {}) if is_quick else {}, theirs)
    )
    process.start()
    theirs.close()
    try:
        entries, error = ours.recv()
    except EOFError:
        entries, error = [], "the process ended without a result"
    process.join()
    return [*entries, failed(module, error)] if error else list(entries)


def failed(name: str, error: str, **more: Any) -> Entry:
    """Return the entry of what could not be measured."""
    empty = {"n": None, "m": None, "seconds": None, "baseline": None, "baseline_seconds": None, "ratio": None}
    return {"name": name, **empty, **more, "error": error}


def peer_python(given: str | None, folder: Path) -> str:
    """Return an interpreter that has ``phe``: the given one, or that of an environment made in ``folder``.

    Raises:
        OSError: the environment cannot be made.
        subprocess.CalledProcessError: the packages cannot be installed.
    """
    if given:
        return given
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        install = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            *PEER_PACKAGES,
        ]
        subprocess.run(install, check=True, capture_output=True, text=True)
        (folder / "complete").touch()
    return str(python)


def against_paillier(entries: list[Entry], given: str | None, folder: Path) -> list[Entry]:
    """Return the product entries against Paillier, or the same entries with the reason why not."""
    lines = [entry for entry in entries if entry["name"] in PEER_NAMES and not entry.get("error")]
    try:
        paillier = importlib.import_module("bench_sealed").run_paillier
        peers: list[Entry] = paillier(peer_python(given, folder), lines)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        reason = f"no peer library: {(getattr(error, 'stderr', '') or str(error)).strip()[-300:]}"
        return [
            failed(line["name"], reason, n=line["n"], m=line["m"], seconds=line["seconds"], baseline=PEER)
            for line in lines
        ]
    return peers


def show(entry: Entry) -> None:
    """Print one entry as a row of the table."""

    def cell(value: Any, width: int, form: str = ".4g") -> str:
        return (format(value, form) if isinstance(value, int | float) else "-").rjust(width)

    row = [
        f"{entry['name']:<24}",
        cell(entry["n"], 10, "d"),
        cell(entry["m"], 6, "d"),
        cell(entry["seconds"], 11),
        cell(entry["baseline_seconds"], 11),
        cell(entry["ratio"], 9, ".3g"),
        f"  {entry['baseline'] or ''}",
    ]
    extras = ("peak_rss_bytes", "ratio_bytes", "per_second_per_core", "extrapolated_from", "error")
    row.extend(f"  {name}={entry[name]}" for name in extras if name in entry)
    print("".join(row), flush=True)


def machine() -> str:
    """Return what the numbers were measured on."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{os.cpu_count()} cores of {cpu}, Python {platform.python_version()}, load {load} at the start"


def main() -> int:
    """Run everything; return the exit code."""
    parser = argparse.ArgumentParser(description="run every benchmark")
    parser.add_argument("--out", type=Path, required=True, help="where to write the list, JSON")
    parser.add_argument("--quick", action="store_true", help="fewer rows and repeats")
    parser.add_argument("--peer-python", help="an interpreter with phe; else one is made beside --out")
    parser.add_argument("--only", action="append", help="run only this module, e.g. bench_sealed; repeatable")
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE))
    modules = arguments.only or sorted(path.stem for path in HERE.glob("bench_*.py"))
    print(machine())
    header = f"{'name':<24}{'n':>10}{'m':>6}{'seconds':>11}{'baseline':>11}{'ratio':>9}"
    print(header)
    entries: list[Entry] = []
    for module in modules:
        started = time.monotonic()
        found = measure(module, is_quick=arguments.quick)
        for entry in found:
            show(entry)
        entries += found
        print(f"# {module}: {time.monotonic() - started:.0f} s", flush=True)
    peers = against_paillier(entries, arguments.peer_python, arguments.out.resolve().parent / "peer-venv")
    for entry in peers:
        show(entry)
    entries += peers
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    partial = arguments.out.with_suffix(".partial")
    partial.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    partial.replace(arguments.out)
    errors = [entry["name"] for entry in entries if entry.get("error")]
    if errors:
        print(f"could not be measured: {', '.join(errors)}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
