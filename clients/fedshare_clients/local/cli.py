"""``fedshare-local``: a whole federation on one machine. It parses, calls and prints."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedshare.errors import FedshareError, StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

__all__ = ["main", "parser"]

_INTERRUPTED = 130
# A closed terminal (SIGHUP) must not leave a federation running.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DESCRIPTION = """\
Run a whole federation on one machine: a coordinator and every party as real processes on loopback, from one
YAML file that names parties, sources, columns, label and model.

  fedshare-local economy --out DATA          generate a regional economy to try it on
  fedshare-local run EXPERIMENT.yaml --out DIR
  fedshare-local serve DIR                   serve the model that `run` left there, until ctrl-C
  fedshare-local compare CANDIDATES.yaml --out DIR

Exit codes are those of the other commands (docs/operating.md).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = parser().parse_args(argv)
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    try:
        return int(arguments.command(arguments))
    except FedshareError as error:
        if arguments.debug:
            raise
        print(f"fedshare-local: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if arguments.debug:
            raise
        place = error.filename or arguments.out
        print(
            f"fedshare-local: {place}: {error.strerror}; free some space or correct the permissions",
            file=sys.stderr,
        )
        return StorageError.exit_code
    except Exception as error:
        if arguments.debug:
            raise
        print(f"fedshare-local: a defect ({type(error).__name__}): report it with --debug", file=sys.stderr)
        return FedshareError.exit_code
    except KeyboardInterrupt:
        print("fedshare-local: interrupted; every process was ended", file=sys.stderr)
        return _INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    root = argparse.ArgumentParser(
        prog="fedshare-local", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root.add_argument("--debug", action="store_true", help="show where in the code an error arose")
    verbs = root.add_subparsers(metavar="COMMAND", required=True)
    run = _verb(verbs, "run", "run an experiment and write report.json and report.html")
    run.add_argument("experiment", type=Path, metavar="EXPERIMENT.yaml")
    run.add_argument("--out", required=True, type=Path, metavar="DIR", help="where everything is left")
    run.add_argument(
        "--check",
        action="store_true",
        help="also train on pooled data, as no party could, and report the difference",
    )
    run.set_defaults(command=_run)
    serve = _verb(verbs, "serve", "serve the model of a completed run until ctrl-C")
    serve.add_argument("out", type=Path, metavar="DIR", help="what `run` was given as --out")
    serve.set_defaults(command=_serve)
    compare = _verb(verbs, "compare", "run several candidate models and set them side by side")
    compare.add_argument("candidates", type=Path, metavar="CANDIDATES.yaml")
    compare.add_argument("--out", required=True, type=Path, metavar="DIR", help="where everything is left")
    compare.set_defaults(command=_compare)
    economy = _verb(verbs, "economy", "generate a regional economy as Parquet files")
    economy.add_argument("--out", required=True, type=Path, metavar="DIR")
    economy.add_argument("--enterprises", type=int, default=20_000, metavar="N", help="default 20000")
    economy.add_argument("--seed", type=int, default=7, help="default 7; the same seed gives the same files")
    economy.set_defaults(command=_economy)
    return root


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, words: str
) -> argparse.ArgumentParser:
    return verbs.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")


def _run(arguments: argparse.Namespace) -> int:
    from .experiment import load_experiment  # noqa: PLC0415 - `--help` answers without loading torch
    from .federation import run_experiment  # noqa: PLC0415

    experiment = load_experiment(arguments.experiment)
    report = run_experiment(experiment, arguments.out, check=arguments.check, say=_say)
    auc = report["auc"]
    pooled = f", {auc['pooled']:.4f} pooled" if "pooled" in auc else ""
    steps = "iterations" if report["coverage"] else "rounds"  # without feature holders there are rounds only
    print(
        f"{report['experiment']}: AUC {auc['bank_only']:.4f} with the bank's own columns, {auc['federated']:.4f} "
        f"federated{pooled}; {report['iterations']} {steps}, {report['seconds']['total']:.0f} s"
    )
    print(f"Read {arguments.out / 'report.html'}")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from .serving import serve_folder  # noqa: PLC0415 - as above

    serve_folder(arguments.out, _say)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from .compare import load_comparison, run_comparison  # noqa: PLC0415 - as above

    comparison = load_comparison(arguments.candidates)
    result, failures = run_comparison(comparison, arguments.out, say=_say)
    width = max(len(name) for name in comparison.candidates)
    print(f"{result['trials']} candidates on {result['customers']:,} customers that all of them held out")
    for name, each in result["candidates"].items():
        test = result["differences"].get(name)
        against = (
            f"  {test['difference']:+.4f} to {result['reference']}, adjusted p {_p_value(test['adjusted_p_value'])}"
            if test
            else ""
        )
        print(
            f"{name:{width}}  AUC {each['auc']:.4f} ({each['low']:.4f} to {each['high']:.4f})  KS {each['ks']:.4f}{against}"
        )
    for name, error in failures.items():
        print(f"{name:{width}}  failed: {error}")
    print(f"Read {arguments.out / 'compare.html'}")
    return next((error.exit_code for error in failures.values()), 0)


def _p_value(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _economy(arguments: argparse.Namespace) -> int:
    from .economy import generate, write  # noqa: PLC0415

    economy = generate(arguments.enterprises, arguments.seed)
    write(economy, arguments.out)
    for name, table in economy.tables.items():
        print(f"{arguments.out / name}.parquet: {table.num_rows:,} rows, {table.num_columns} columns")
    return 0


def _say(line: str) -> None:
    print(f"{line}\n", end="", flush=True)  # in one piece: two parties may speak at once


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in _SIGNALS:  # a second ctrl-C must not cut short the ending of the processes
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
