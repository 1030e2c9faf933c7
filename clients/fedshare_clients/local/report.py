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

_BLUE, _ORANGE, _GREY, _GREEN = "#27548a", "#dd7a1c", "#8a94a0", "#3a7d44"


def build_report(
    experiment: str,
    run: Mapping[str, Any],
    results: Mapping[str, Mapping[str, Any]],
    centralised: Mapping[str, float] | None,
    total_seconds: float,
) -> dict[str, Any]:
    """Return the report of a run from what each party kept of it.

    Args:
        experiment: its name.
        run: ``run_id`` and ``contract_digest``.
        results: each party's own result file by party id.
        centralised: metrics of the pooled model, if the check switch was given.
        total_seconds: from the first process to the last result.
    """
    bank, outcome = next((name, each) for name, each in results.items() if each["role"] == "label_holder")
    metrics: dict[str, dict[str, float]] = {
        name: {"bank_only": outcome["bank_only"][name], "federated": outcome["federated"][name]}
        for name in ("auc", "ks")
    }
    if centralised is not None:
        for name, values in metrics.items():
            values["centralised"] = centralised[name]
    phases = outcome["seconds"]
    report = {
        "experiment": experiment,
        **run,
        "parties": {name: result["role"] for name, result in results.items()},
        "rows": {
            **{name: result.get("rows", result.get("customers")) for name, result in results.items()},
            "aligned": outcome["aligned"],
            "training": outcome["training"],
            "holdout": outcome["holdout"],
        },
        "coverage": {name: found / outcome["customers"] for name, found in outcome["coverage"].items()},
        "bins": {name: len(result["weights"]) for name, result in results.items()},
        "iterations": outcome["iterations"],
        "history": outcome["history"],
        "seconds": {**phases, "total": total_seconds},
        "bytes": {
            name: {"sent": result["bytes_sent"], "received": result["bytes_received"]}
            for name, result in results.items()
        },
        "bank": bank,
        "privacy": {name: result["privacy"] for name, result in results.items() if "privacy" in result},
        **metrics,
    }
    if centralised is not None:
        report["largest_score_difference"] = centralised["largest_score_difference"]
    return report


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
