"""The validation report of one run at one bank, as JSON values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fedshare.credit.bins import ColumnBins
from fedshare.credit.histogram import ScoreHistogram
from fedshare.credit.points import PointScale
from fedshare.credit.pricing import Ladder
from fedshare.errors import ConfigError, DataError
from fedshare_clients.node.manifest import verify_result

from .figures import Sample, calibration_findings, compare, measure, measure_histogram, stability
from .importance import group_rows, part_importance
from .triangle import triangle, triangle_of_ladders

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fedshare.contract.model import Contract
    from fedshare_clients.node.pricing import PricingConfig

__all__ = ["Challenger", "build_document"]

_COLUMNS = ("identifier", "holdout", "label", "weight", "score", "own_part", "bank_only")


@dataclass(frozen=True, slots=True)
class Challenger:
    """Another model's scores for the same customers.

    Attributes:
        name: what the report calls it.
        path: a Parquet file with ``identifier`` and ``score`` (log-odds of default): such as another run's customers.
    """

    name: str
    path: Path


def build_document(
    result: Mapping[str, Any],
    customers: Path,
    contract: Contract,
    *,
    pricing: PricingConfig | None = None,
    challenger: Challenger | None = None,
    statements: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the report.

    Args:
        result: what this bank kept of the run.
        customers: its ``customers.parquet``.
        contract: the one of the run.
        pricing: what loans cost; no triangle without it.
        challenger: a third model to compare with.
        statements: what this party's log holds about the run.

    Raises:
        ConfigError: the files are not those of one run under this contract, or the challenger lacks a customer.
        ProtocolError: the result was altered since the run.
        DataError: the held-out customers do not allow a figure.
    """
    commitment = verify_result(result)
    if result["contract_digest"] != contract.digest() or result["role"] != "label_holder":
        raise ConfigError("expected the result of a label_holder's run under this contract")
    table = _read(customers, _COLUMNS)
    holdout = table["holdout"].to_numpy(zero_copy_only=False)
    scores = {"federated": _numbers(table, "score"), "bank_only": _numbers(table, "bank_only")}
    if challenger is not None:
        scores[challenger.name] = _challenger_scores(challenger, table["identifier"])
    sample = Sample(
        _numbers(table, "label")[holdout],
        _numbers(table, "weight")[holdout],
        {name: values[holdout] for name, values in scores.items()},
    )
    own_part = _numbers(table, "own_part")
    scale = PointScale(**contract.points.model_dump())
    minimum = contract.minimum_cohort
    # The same report again gives the same intervals.
    seed = int(commitment[:16], 16)
    others = [name for name in scores if name != "federated"]
    models = {name: measure(sample, name, scale, minimum, seed) for name in scores}
    document = {
        "party": result["party"],
        "contract": _contract(contract),
        "lineage": {
            "model_commitment": commitment,
            "data_digest": result["data_digest"],
            "statements": None if statements is None else dict(statements),
        },
        "customers": {name: result[name] for name in ("customers", "aligned", "training", "holdout")},
        "coverage": {name: count / result["customers"] for name, count in result["coverage"].items()},
        "default_rate": float(np.average(sample.labels, weights=sample.weights)),
        "iterations": result["iterations"],
        "privacy": result["privacy"],
        "minimum_cohort": minimum,
        "models": models,
        "calibration_findings": calibration_findings(models["federated"]),
        "comparisons": [compare(sample, "federated", name) for name in others],
        "stability": {name: stability(values[~holdout], values[holdout]) for name, values in scores.items()},
        "importance": part_importance(result, scores["federated"], own_part, ~holdout),
        "groups": group_rows(
            sample.labels,
            sample.weights,
            sample.scores["federated"],
            own_part[holdout],
            [holder.id for holder in contract.holders()],
        ),
        "scorecard": _scorecard(result, scale),
        "triangle": None if pricing is None else triangle(sample, pricing, minimum, seed),
        "portfolio": _portfolio(result.get("portfolio")),
        "all_banks": _all_banks(result.get("all_banks"), scale, pricing, minimum),
    }
    return {**document, "limits": _limits(document, contract, sample, result["own_model"]["bins"]["dropped"])}


def _contract(contract: Contract) -> dict[str, Any]:
    return {
        "digest": contract.digest(),
        "name": contract.name,
        "purpose": contract.purpose,
        "valid_from": contract.valid_from.isoformat(),
        "valid_until": contract.valid_until.isoformat(),
        "code_digest": contract.code_digest,
        "model": contract.model.model_dump(mode="json"),
        "bank_model": contract.bank_model and contract.bank_model.model_dump(mode="json"),
        "points": contract.points.model_dump(mode="json"),
        "holdout_share": contract.holdout_share,
        "parties": [
            {
                "id": party.id,
                "role": party.role,
                "columns": [column.model_dump(mode="json") for column in party.columns],
            }
            for party in contract.parties
        ],
    }


def _scorecard(result: Mapping[str, Any], scale: PointScale) -> dict[str, Any]:
    """Return the own bins with their points; holders' bins stay with them."""
    at, columns = 0, []
    points = scale.bin_points(result["weights"]).tolist()
    for each in result["bins"]["columns"]:
        labels = ColumnBins.from_dict(each).labels
        rows = [
            {
                "bin": label,
                "customers": int(result["counts"][at + place]),
                "weight": float(result["weights"][at + place]),
                "points": points[at + place],
            }
            for place, label in enumerate(labels)
        ]
        columns.append({"name": each["name"], "bins": rows})
        at += len(labels)
    return {
        "base": scale.base(result["intercept"]),
        "columns": columns,
        "rounding_bound": scale.rounding_bound(len(columns)),
    }


def _all_banks(
    sums: Mapping[str, Any] | None, scale: PointScale, pricing: PricingConfig | None, minimum: int
) -> dict[str, Any] | None:
    """Return the figures over all banks, from the sums that the run kept, if the contract had them made."""
    if sums is None:
        return None
    # After the loss of a bank there is no sum over the banks' own models.
    histograms = {
        name: ScoreHistogram.from_json(sums[name]["histogram"])
        for name in ("federated", "bank_only")
        if name in sums
    }
    ladders = {name: Ladder.of_histogram(each) for name, each in histograms.items()}
    return {
        "banks": sums["banks"],
        "models": {name: measure_histogram(each, scale, minimum) for name, each in histograms.items()},
        "triangle": None
        if pricing is None or "bank_only" not in ladders
        else triangle_of_ladders(ladders, pricing, minimum, whose="the banks'"),
    }


def _portfolio(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the portfolio without the names above the limit, which stay in the run's own file."""
    return (
        None
        if found is None
        else {name: each for name, each in found.items() if name != "own_names_over_limit"}
    )


def _limits(
    document: Mapping[str, Any], contract: Contract, sample: Sample, left_out: Sequence[str]
) -> list[str]:
    """Return what a reader must know before using the figures; each sentence follows from this run."""
    defaults = int(sample.labels.sum())
    limits = [
        f"All figures are of {len(sample.labels):,} held-out customers with {defaults:,} defaults at one bank.",
        "Intervals are at 95 % and cover sampling only, not a change of times or of who applies.",
        "Held-out customers were chosen at random, not by time: the report says nothing about later cohorts.",
        "Only accepted customers have an outcome; how those that were refused would have paid is unknown.",
    ]
    if defaults < 100:
        limits.append(
            f"With {defaults} defaults among the held-out customers the intervals are wide; read them, not the estimates."
        )
    findings = document["calibration_findings"]
    if findings:
        limits.append(
            f"Recalibrate the federated scores before using them as probabilities. {' '.join(findings)}"
        )
    if findings and len(contract.banks()) > 1 and not contract.between_banks.personal_intercepts:
        limits.append(
            "The banks share one intercept, which is wrong for a bank whose default rate differs from the others'; "
            "between_banks.personal_intercepts of a contract gives each its own."
        )
    lost = document["customers"]["customers"] - document["customers"]["aligned"]
    if lost:
        limits.append(
            f"{lost:,} customers are not known to every holder and are in no figure; whoever scores such customers has "
            "no evidence here."
        )
    if left_out:
        limits.append(
            f"The bank's own model has no {', '.join(left_out)}: of its own customers no two bins have "
            f"{contract.minimum_cohort} each."
        )
    if contract.between_banks.drop_shared_customers:
        first, second = (bank.id for bank in contract.banks())
        limits.append(
            f"Customers of both banks count once in training, at {first}; {second} does not know which of its own that leaves "
            "out. In evaluation they count once per bank."
        )
    if len(contract.holders()) == 1:
        limits.append(
            "With one feature holder the bank sees that holder's own partial score, not only a sum."
        )
    if document["triangle"] is not None:
        limits.append(
            "The triangle takes every enterprise as lent the same amount for a year, costs and LGD as configured, and "
            "chooses the cut-off at equal loss with the outcomes known."
        )
    return limits


def _challenger_scores(challenger: Challenger, identifiers: pa.ChunkedArray) -> NDArray[np.float64]:
    if challenger.name in ("federated", "bank_only"):
        raise ConfigError(
            f"a challenger cannot be called {challenger.name}: the report has a model of this name"
        )
    table = _read(challenger.path, ("identifier", "score"))
    known = dict(zip(table["identifier"].to_pylist(), table["score"].to_pylist(), strict=True))
    found = [known.get(identifier) for identifier in identifiers.to_pylist()]
    missing = sum(score is None for score in found)
    if missing:
        raise ConfigError(
            f"{challenger.path}: has no score for {missing} of {len(found)} customers of the run; models can only be "
            "compared on the same customers"
        )
    scores = np.array(found, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise DataError("expected finite log-odds of default", source=str(challenger.path), field="score")
    return scores


def _read(path: Path, columns: tuple[str, ...]) -> pa.Table:
    try:
        return pq.read_table(path, columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(
            f"{path}: expected a Parquet file with the columns {', '.join(columns)}; it cannot be read"
        ) from error


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = table[name].to_numpy().astype(np.float64)
    return values
