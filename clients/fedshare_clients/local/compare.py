"""Several candidate models side by side: one YAML file in, one table and one page out.

A candidate is the base experiment with some fields changed: mappings are merged, everything else is replaced, and null
takes a field out. ``bins`` sets the number of bins of every column at once.

    base: default-credit.yaml
    candidates:
      as-it-is: {}
      few-bins: {bins: 5}
      strong-ridge: {model: {ridge: 20}}
      without-registry: {parties: {registry: null}}

Every candidate is a whole federation of its own. They are compared on customers whom all of them held out. The number of
candidates is part of the result: the best of many looks better than it is.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedshare.credit.delong import auc_difference, auc_estimate
from fedshare.credit.metrics import ks, log_loss
from fedshare.errors import ConfigError, FedshareError, StorageError
from fedshare.problems import problems
from fedshare_clients.node.report.charts import interval_chart

from .experiment import parse_experiment, read_yaml
from .federation import run_experiment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from .experiment import Experiment

__all__ = ["Comparison", "load_comparison", "run_comparison"]

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]


class _Comparison(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str
    candidates: Annotated[dict[Name, dict[str, Any]], Field(min_length=2, max_length=30)]


class Comparison:
    """Candidates by name, the first of which the others are compared with."""

    def __init__(
        self, candidates: Mapping[str, Experiment], changes: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.candidates = dict(candidates)
        self.changes = dict(changes)


def load_comparison(path: Path) -> Comparison:
    """Return the comparison in the YAML file at ``path``; the base is relative to it.

    Raises:
        ConfigError: the file, its base or a candidate is no description of an experiment; the message names it.
    """
    try:
        described = _Comparison.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {problems(error, _Comparison, 'comparison')}") from error
    base_path = path.parent / described.base
    base = read_yaml(base_path)
    candidates = {}
    for name, changes in described.candidates.items():
        try:
            candidates[name] = parse_experiment(_changed(base, changes), base_path)
        except ConfigError as error:
            raise ConfigError(f"{path}: candidate {name}: {error}") from error
    return Comparison(candidates, described.candidates)


def run_comparison(
    comparison: Comparison, out: Path, *, say: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, FedshareError]]:
    """Run every candidate into ``out/NAME``, write ``compare.json`` and ``compare.html``, and return the figures.

    A candidate that fails is reported as such and does not end the others.

    Returns:
        the figures, and the error of each candidate that failed.

    Raises:
        FedshareError: no candidate completed: the first one's error.
        ConfigError: the candidates held out no customer in common.
    """
    reports, samples, failures = {}, {}, dict[str, FedshareError]()
    for place, (name, experiment) in enumerate(comparison.candidates.items(), 1):
        say(f"candidate {name} ({place} of {len(comparison.candidates)})")
        folder = out / name
        try:
            reports[name] = run_experiment(experiment, folder, check=False, say=say, score=False)
        except FedshareError as error:
            failures[name] = error
            say(f"candidate {name} failed: {error}")
            continue
        samples[name] = _held_out(reports[name], folder)
    if not reports:
        raise next(iter(failures.values()))
    document = _document(comparison, reports, samples, failures)
    _write(document, out)
    return document, failures


def _changed(base: Any, changes: Mapping[str, Any]) -> Any:  # noqa: ANN401 - YAML
    """Return the base document with a candidate's changes."""
    document = _merged(base, {name: value for name, value in changes.items() if name != "bins"})
    if "bins" in changes and isinstance(document, dict):
        for party in (document.get("parties") or {}).values():
            columns = party.get("columns") or []
            party["columns"] = [
                {**({"name": each} if isinstance(each, str) else each), "bins": changes["bins"]}
                for each in columns
            ]
    return document


def _merged(base: Any, changes: Any) -> Any:  # noqa: ANN401 - YAML
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    merged = {name: _merged(value, changes.get(name, value)) for name, value in base.items()}
    merged |= {name: value for name, value in changes.items() if name not in base}
    return {name: value for name, value in merged.items() if not (name in changes and value is None)}


def _held_out(report: Mapping[str, Any], folder: Path) -> dict[str, tuple[float, float, float]]:
    """Return label, weight and score of each held-out customer of the report's banks, by bank and identifier."""
    rows: dict[str, tuple[float, float, float]] = {}
    for bank in report["banks"]:
        table = pq.read_table(
            folder / bank / "state" / "runs" / str(report["run_id"]) / "customers.parquet"
        ).to_pydict()
        kept = zip(
            table["identifier"],
            table["holdout"],
            table["label"],
            table["weight"],
            table["score"],
            strict=True,
        )
        rows |= {
            f"{bank}/{identifier}": (label, weight, score)
            for identifier, holdout, label, weight, score in kept
            if holdout
        }
    return rows


def _document(
    comparison: Comparison,
    reports: Mapping[str, Mapping[str, Any]],
    samples: Mapping[str, Mapping[str, tuple[float, float, float]]],
    failures: Mapping[str, FedshareError],
) -> dict[str, Any]:
    first, *others = samples.values()
    common = sorted(key for key in first if all(key in each for each in others))
    if not common:
        raise ConfigError(
            "the candidates held out no customer in common; give them one seed and holdout_share"
        )
    rows = {name: np.array([sample[key] for key in common]) for name, sample in samples.items()}
    reference = next(iter(rows))
    candidates = {name: _figures(each, reports[name]) for name, each in rows.items()}
    ordered = sorted(rows.keys() - {reference}, key=list(rows).index)
    differences = {name: _difference(rows[name], rows[reference]) for name in ordered}
    for name, adjusted in _holm({name: each["p_value"] for name, each in differences.items()}).items():
        differences[name]["adjusted_p_value"] = adjusted
    return {
        "trials": len(comparison.candidates),
        "reference": reference,
        "customers": len(common),
        "defaults": int(rows[reference][:, 0].sum()),
        "changes": comparison.changes,
        "candidates": candidates,
        "differences": differences,
        "failures": {name: str(error) for name, error in failures.items()},
    }


def _figures(rows: NDArray[np.float64], report: Mapping[str, Any]) -> dict[str, Any]:
    labels, weights, scores = rows.T
    area = auc_estimate(labels, scores, weights)
    return {
        "auc": area.auc,
        "low": area.low,
        "high": area.high,
        "ks": ks(labels, scores, weights),
        "log_loss": log_loss(labels, scores, weights),
        "bins": sum(report["bins"].values()),
        "iterations": report["iterations"],
        "seconds": report["seconds"]["total"],
        "megabytes": sum(each["sent"] for each in report["bytes"].values()) / 1e6,
    }


def _difference(rows: NDArray[np.float64], reference: NDArray[np.float64]) -> dict[str, float]:
    found = auc_difference(rows[:, 0], rows[:, 2], reference[:, 2], rows[:, 1])
    return {"difference": found.difference, "low": found.low, "high": found.high, "p_value": found.p_value}


def _holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p values that hold for all comparisons together (Holm, Scandinavian J. Statistics 6, 1979)."""
    adjusted, floor = {}, 0.0
    for place, (name, value) in enumerate(sorted(p_values.items(), key=lambda each: each[1])):
        floor = max(floor, min(1.0, (len(p_values) - place) * value))
        adjusted[name] = floor
    return adjusted


def _write(document: Mapping[str, Any], out: Path) -> None:
    environment = Environment(
        loader=PackageLoader("fedshare_clients.local"), autoescape=True, undefined=StrictUndefined
    )
    rows = [(name, each["auc"], each["low"], each["high"]) for name, each in document["candidates"].items()]
    # Every text inside was escaped when it was drawn.
    chart = Markup(interval_chart("AUC of each candidate, 95 % interval", rows))  # noqa: S704
    page = environment.get_template("compare.html").render(result=document, chart=chart)
    try:
        (out / "compare.html").write_text(page, encoding="utf-8")
        (out / "compare.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{out}: the comparison cannot be written: {error.strerror}") from error
