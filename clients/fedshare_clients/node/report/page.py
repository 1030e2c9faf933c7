"""Writes a report: ``report.html`` (self-contained), ``report.json`` and ``model-card.md``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedshare.errors import StorageError
from fedshare_clients.node.state import write_private

from .charts import BLUE, GREEN, GREY, ORANGE, PALETTE, RED, Chart, bar_chart
from .triangle import percent

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["privacy_loss", "render", "write_report"]

_COLOURS = {"federated": BLUE, "bank_only": GREY}
_NAMES = {"federated": "federated", "bank_only": "bank only"}


def write_report(document: Mapping[str, Any], folder: Path) -> Path:
    """Write the three files into ``folder``, made if need be, and return the page's path.

    Raises:
        StorageError: the folder cannot be written to.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made ({error.strerror})") from error
    page, card = render(document)
    write_private(folder / "report.json", json.dumps(document, indent=2).encode() + b"\n")
    write_private(folder / "model-card.md", card.encode())
    write_private(folder / "report.html", page.encode())
    return folder / "report.html"


def render(document: Mapping[str, Any]) -> tuple[str, str]:
    """Return the page and the model card of a report."""
    environment = Environment(
        loader=PackageLoader("fedshare_clients.node.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": _percent, "model": _model_name, "count": _count, "loss": privacy_loss}
    page = environment.get_template("report.html").render(report=document, charts=_charts(document))
    # Markdown has no markup to escape into; names in it come from the signed contract, one line of printable text.
    card = environment.overlay(autoescape=False).get_template("model-card.md").render(report=document)
    return page, card


def _charts(document: Mapping[str, Any]) -> dict[str, Markup]:
    models, triangle = document["models"], document["triangle"]
    federated = models["federated"]
    drawings = {
        "roc": _curves(
            models, "roc", "share of good customers", "share of defaulters", "ROC curve", diagonal=True
        ),
        "gain": _curves(
            models, "gain", "share of customers, riskiest first", "share of defaulters", "Gain curve"
        ),
        "reliability": _reliability(federated["grades"]),
        "distribution": _distribution(federated["distribution"]),
        "importance": _importance(document["importance"]),
    }
    if triangle is not None:
        drawings["triangle"] = _triangle(triangle)
    everyone = document["all_banks"]
    if everyone is not None:
        drawings["all_roc"] = _curves(
            everyone["models"],
            "roc",
            "share of good customers",
            "share of defaulters",
            "ROC curve, all banks",
            diagonal=True,
        )
        if everyone["triangle"] is not None:
            drawings["all_triangle"] = _triangle(everyone["triangle"])
    # Every text inside was escaped when it was drawn.
    return {name: Markup(drawing) for name, drawing in drawings.items()}  # noqa: S704


def _curves(
    models: Mapping[str, Any], curve: str, x: str, y: str, title: str, *, diagonal: bool = False
) -> str:
    chart = Chart(x, y, (0, 1), (0, 1), percent="xy")
    chart.line([(0, 0), (1, 1)], "#c3cad1", "no information" if diagonal else "", dashes="4 4")
    for place, (name, figures) in enumerate(models.items()):
        chart.line(figures[curve], _colour(name, place), _model_name(name))
    return chart.svg(title)


def _reliability(grades: list[Mapping[str, float]]) -> str:
    top = max(max(grade["high"], grade["predicted"]) for grade in grades) * 1.05
    chart = Chart("predicted default rate", "observed default rate", (0, top), (0, top), percent="xy")
    chart.line([(0, 0), (top, top)], "#c3cad1", "perfectly calibrated", dashes="4 4")
    for place, grade in enumerate(grades):
        chart.spread(grade["predicted"], grade["low"], grade["high"], BLUE)
        chart.dot(
            (grade["predicted"], grade["observed"]),
            BLUE,
            "" if place else "federated, by grade (95 % interval)",
        )
    return chart.svg("Calibration of the federated model")


def _distribution(densities: Mapping[str, list[float]]) -> str:
    edges = densities["edges"]
    tallest = max(*densities["good"], *densities["bad"])
    # Room above the tallest bar, so that the legend covers none.
    chart = Chart("points", "share per point", (edges[0], edges[-1]), (0, tallest * 1.3), percent="y")
    outcomes = (("good", GREEN, "of those that repaid"), ("bad", RED, "of those that defaulted"))
    for name, colour, label in outcomes:
        steps = [
            point
            for low, high, value in zip(edges, edges[1:], densities[name], strict=False)
            for point in ((low, value), (high, value))
        ]
        chart.area(steps, colour, label)
    return chart.svg("Points of customers that repaid and of those that defaulted")


def _importance(parts: list[Mapping[str, Any]]) -> str:
    bars = [
        (part["name"], part["spread"], ORANGE if part["holder"] == "holders" else BLUE) for part in parts[:15]
    ]
    return bar_chart("Importance of columns", bars, "standard deviation in log-odds over training customers")


def _triangle(triangle: Mapping[str, Any]) -> str:
    """Return the frontier of share served against loss, with each model's policy under each cap."""
    losses = [point[1] for frontier in triangle["frontier"].values() for point in frontier]
    chart = Chart(
        "share of enterprises served",
        "realised loss per unit lent",
        (0, 1),
        (0, max(losses) * 1.15),
        percent="xy",
    )
    for place, (model, frontier) in enumerate(triangle["frontier"].items()):
        chart.line([(point[0], point[1]) for point in frontier], _colour(model, place), _model_name(model))
    for band in triangle["bands"]:
        for place, (model, served) in enumerate(band["within_cap"].items()):
            if served["realised_loss"] is not None:
                at = served["share"], served["realised_loss"]
                chart.dot(at, _colour(model, place), radius=5)
                if model == "federated":
                    label = f"{band['band']}, {percent(band['cap'])}"
                    if at[0] > 0.6:
                        chart.note((at[0] - 0.015, at[1] * 1.04), label, anchor="end")
                    else:
                        chart.note((at[0] + 0.015, at[1] * 0.96), label)
    return chart.svg("Who can be served at which loss")


def _colour(model: str, place: int) -> str:
    return _COLOURS.get(model, PALETTE[1 + place % (len(PALETTE) - 1)])


def _model_name(name: str) -> str:
    return _NAMES.get(name, name)


def privacy_loss(amount: Mapping[str, float]) -> str:
    """Return a privacy loss as text."""
    return f"ε {amount['epsilon']:g}" + (f", δ {amount['delta']:g}" if amount["delta"] else "")


def _percent(value: float | None, decimals: int | None = 1) -> str:
    return "-" if value is None else percent(value, decimals)


def _count(value: float) -> str:
    return f"{value:,.0f}"
