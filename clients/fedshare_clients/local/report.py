"""``report.json`` and a self-contained ``report.html`` of one federation on one machine."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined

from fedshare_clients.node.state import write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

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
_BLUE, _ORANGE, _GREY, _GREEN = "#27548a", "#dd7a1c", "#8a94a0", "#3a7d44"


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
        measured: AUC and KS of each model over the held-out customers of all banks, and of ``centralised`` also how
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
        "bins": {name: len(result["weights"]) for name, result in results.items()},
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
        "privacy": {name: result["privacy"] for name, result in results.items() if "privacy" in result},
        **{metric: {model: values[metric] for model, values in measured.items()} for metric in ("auc", "ks")},
    }
    if "all_banks" in first:
        report["all_banks"] = first["all_banks"]
    if "centralised" in measured:
        report["largest_score_difference"] = measured["centralised"]["largest_score_difference"]
    return report


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
    page = environment.get_template("report.html").render(report=report, plots=_plots(report))
    write_private(folder / "report.html", page.encode())
    write_private(folder / "report.json", json.dumps(report, indent=2).encode() + b"\n")


def _plots(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the plots as data URLs by name."""
    return {
        "loss": _plot(lambda axes: _draw_loss(axes, report["history"])),
        "metrics": _plot(lambda axes: _draw_metrics(axes, report)),
        "traffic": _plot(lambda axes: _draw_traffic(axes, report["bytes"])),
        "seconds": _plot(lambda axes: _draw_seconds(axes, report["seconds"])),
    }


def _plot(draw: Callable[[Axes], None]) -> str:
    with mpl.rc_context(
        {"svg.hashsalt": "fedshare", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        from matplotlib.figure import Figure  # noqa: PLC0415 - after the settings

        figure = Figure(figsize=(5.2, 3.0), layout="constrained")
        draw(figure.add_subplot())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _draw_loss(axes: Axes, history: list[dict[str, float]]) -> None:
    steps = range(len(history))
    axes.plot(steps, [step["loss"] for step in history], color=_BLUE, marker=".", label="training")
    axes.plot(steps, [step["holdout_loss"] for step in history], color=_ORANGE, marker=".", label="held out")
    axes.set_xlabel("iteration (0: the bank's own columns)")
    axes.set_ylabel("mean log loss")
    axes.legend(frameon=False)


def _draw_metrics(axes: Axes, report: Mapping[str, Any]) -> None:
    models = list(report["auc"])
    colours = {"bank_only": _GREY, "federated": _BLUE, "centralised": _GREEN}
    for place, model in enumerate(models):
        values = [report["auc"][model], report["ks"][model]]
        bars = axes.bar(
            [group + 0.27 * place for group in (0, 1)],
            values,
            0.25,
            color=colours[model],
            label=model.replace("_", " "),
        )
        axes.bar_label(bars, fmt="%.3f", fontsize=7)
    axes.set_xticks([0.27, 1.27], ["AUC", "KS"])
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, ncols=3, loc="upper right")


def _draw_traffic(axes: Axes, traffic: Mapping[str, Mapping[str, int]]) -> None:
    parties = list(traffic)
    for place, (direction, colour) in enumerate((("sent", _BLUE), ("received", _ORANGE))):
        axes.barh(
            [row + 0.35 * place for row in range(len(parties))],
            [traffic[party][direction] / 2**20 for party in parties],
            0.33,
            color=colour,
            label=direction,
        )
    axes.set_yticks([row + 0.17 for row in range(len(parties))], parties)
    axes.set_xlabel("MiB through the Exchange")
    axes.legend(frameon=False)


def _draw_seconds(axes: Axes, seconds: Mapping[str, float]) -> None:
    phases = [phase for phase in seconds if phase != "total"]
    bars = axes.barh(phases, [seconds[phase] for phase in phases], color=_BLUE)
    axes.bar_label(bars, fmt="%.1f s", fontsize=7, padding=2)
    axes.invert_yaxis()
    axes.set_xlabel("seconds at the bank's node")
