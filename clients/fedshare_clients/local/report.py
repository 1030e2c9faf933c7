"""``report.json`` and a self-contained ``report.html`` of one federation on one machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedshare.credit.bins import ColumnBins
from fedshare_clients.node.report.charts import BLUE, GREEN, GREY, ORANGE, Chart, bar_chart
from fedshare_clients.node.report.page import privacy_loss
from fedshare_clients.node.state import write_private

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["build_report", "write_report"]

_BANK_KEYS = (
    "customers",
    "aligned",
    "training",
    "holdout",
    "coverage",
    "bank_only",
    "federated",
    "intercept",
)


def build_report(
    experiment: str,
    run: Mapping[str, Any],
    results: Mapping[str, Mapping[str, Any]],
    measured: Mapping[str, Mapping[str, float]],
    total_seconds: float,
) -> dict[str, Any]:
    """Return the report of a run from what each party kept of it.

    Args:
        experiment: its name.
        run: ``run_id`` and ``contract_digest``.
        results: each party's own result file by party id.
        measured: AUC and KS of each model over the held-out customers of all banks, and of ``pooled`` also how
            far the scores differ.
        total_seconds: from the first process to the last result.
    """
    banks = {name: result for name, result in results.items() if result["role"] == "label_holder"}
    first = next(iter(banks.values()))
    report = {
        "experiment": experiment,
        **run,
        "parties": {name: result["role"] for name, result in results.items()},
        "rows": {
            **{name: result.get("rows", result.get("customers")) for name, result in results.items()},
            **{count: _total(banks, count) for count in ("aligned", "training", "holdout")},
        },
        "coverage": {
            holder: sum(bank["coverage"][holder] for bank in banks.values()) / _total(banks, "customers")
            for holder in first["coverage"]
        },
        "bins": {name: _bins(result) for name, result in results.items()},
        "iterations": first["iterations"],
        "history": first["history"],
        "seconds": {**first["seconds"], "total": total_seconds},
        "bytes": {
            name: {"sent": result["bytes_sent"], "received": result["bytes_received"]}
            for name, result in results.items()
        },
        "banks": {
            name: {key: bank[key] for key in _BANK_KEYS if key in bank} for name, bank in banks.items()
        },
        "privacy": {name: result["privacy"] for name, result in results.items() if result.get("privacy")},
        **{metric: {model: values[metric] for model, values in measured.items()} for metric in ("auc", "ks")},
    }
    if "all_banks" in first:
        report["all_banks"] = first["all_banks"]
    if "pooled" in measured:
        report["largest_score_difference"] = measured["pooled"]["largest_score_difference"]
    return report


def _bins(result: Mapping[str, Any]) -> int:
    """Return how many bins a party's columns have, those that a network reads included."""
    inputs = result["network"]["inputs"] if "network" in result else ()
    return len(result["weights"]) + sum(ColumnBins.from_dict(column).size for column in inputs)


def _total(banks: Mapping[str, Mapping[str, Any]], count: str) -> int:
    return sum(int(bank[count]) for bank in banks.values())


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Write ``report.html`` and ``report.json`` into ``folder``, each in full or not at all.

    Raises:
        StorageError: the disk refused.
    """
    environment = Environment(
        loader=PackageLoader("fedshare_clients.local"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["loss"] = privacy_loss
    page = environment.get_template("report.html").render(report=report, charts=_charts(report))
    write_private(folder / "report.html", page.encode())
    write_private(folder / "report.json", json.dumps(report, indent=2).encode() + b"\n")


def _charts(report: Mapping[str, Any]) -> dict[str, Markup]:
    drawings = {
        "loss": _loss(
            report["history"], "iteration (0: the bank's own columns)" if report["coverage"] else "round"
        ),
        "metrics": _metrics(report),
        "traffic": _traffic(report["bytes"]),
        "seconds": _seconds(report["seconds"]),
    }
    # Every text inside was escaped when it was drawn.
    return {name: Markup(drawing) for name, drawing in drawings.items()}  # noqa: S704


def _loss(history: list[dict[str, float | None]], axis: str) -> str:
    lines = {
        name: (
            colour,
            [(place, value) for place, step in enumerate(history) if (value := step[key]) is not None],
        )
        for name, key, colour in (("training", "loss", BLUE), ("held out", "holdout_loss", ORANGE))
    }
    values = [value for _, points in lines.values() for _, value in points] or [0.0]
    room = 0.3 * (max(values) - min(values))  # for the legend
    chart = Chart(
        axis,
        "mean log loss",
        (0, max(1, len(history) - 1)),
        (min(values), max(values) + room),
    )
    for name, (colour, points) in lines.items():
        if points:
            chart.line(points, colour, name)
    return chart.svg("Loss by iteration")


def _metrics(report: Mapping[str, Any]) -> str:
    colours = {"bank_only": GREY, "federated": BLUE, "pooled": GREEN}
    bars = [
        (f"{metric.upper()}, {model.replace('_', ' ')}", value, colours[model])
        for metric in ("auc", "ks")
        for model, value in report[metric].items()
    ]
    return bar_chart("AUC and KS of each model", bars, "on held-out customers")


def _traffic(traffic: Mapping[str, Mapping[str, int]]) -> str:
    bars = [
        (f"{party}, {direction}", counts[direction] / 2**20, colour)
        for party, counts in traffic.items()
        for direction, colour in (("sent", BLUE), ("received", ORANGE))
    ]
    return bar_chart("Traffic by party", bars, "MiB through the Exchange", decimals=1)


def _seconds(seconds: Mapping[str, float]) -> str:
    phases = {phase: value for phase, value in seconds.items() if phase != "total"}
    rest = seconds["total"] - sum(phases.values())
    bars = [
        *((phase, value, BLUE) for phase, value in phases.items()),
        ("set-up, signing, reports", rest, GREY),
    ]
    unit = f"seconds, phases at the first bank's node; together {seconds['total']:.1f}"
    return bar_chart("Seconds by phase", bars, unit, decimals=1)
