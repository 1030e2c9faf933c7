"""What is important in a model, as far as the party that asks may know.

A holder knows its own columns. A bank knows its own columns and the sum over holders, never one holder's part of it, unless
there is only one.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from fedshare.credit.bins import ColumnBins
from fedshare.credit.importance import column_spread, group_importance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["group_rows", "own_importance", "part_importance"]


def own_importance(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the spread in log-odds of each column of a party's scorecard over the training customers, largest first."""
    columns = result["bins"]["columns"]
    sizes = [ColumnBins.from_dict(column).size for column in columns]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    weights, counts = (np.array(result[name], dtype=np.float64) for name in ("weights", "counts"))
    spreads = column_spread(weights, counts, offsets) if columns else np.empty(0)
    rows = [
        {"name": column["name"], "holder": "own", "spread": float(spread)}
        for column, spread in zip(columns, spreads, strict=True)
    ]
    return sorted(rows, key=lambda row: -float(row["spread"]))


def part_importance(
    result: Mapping[str, Any],
    scores: NDArray[np.float64],
    own_part: NDArray[np.float64],
    training: NDArray[np.bool_],
) -> list[dict[str, Any]]:
    """Return the spread in log-odds of each own column, or of a network of them, and of the holders, largest first."""
    parts = own_importance(result)
    if "network" in result:
        parts.append(
            {"name": "own columns, network", "holder": "own", "spread": float(own_part[training].std())}
        )
    if result["coverage"]:
        holders = float((scores - own_part)[training].std())
        parts.append({"name": "all holders together", "holder": "holders", "spread": holders})
    return sorted(parts, key=lambda part: -float(part["spread"]))


def group_rows(
    labels: NDArray[np.float64],
    weights: NDArray[np.float64],
    scores: NDArray[np.float64],
    own_part: NDArray[np.float64],
    holders: Sequence[str],
) -> list[dict[str, Any]]:
    """Return what the own columns and what the holders' add to the federated score; nothing without holders.

    Args:
        labels: 0 or 1, shape ``[n]``.
        weights: above 0, shape ``[n]``.
        scores: federated log-odds, shape ``[n]``.
        own_part: what the own columns add to them, shape ``[n]``.
        holders: the feature holders of the contract.
    """
    if not holders or np.ptp(scores) == 0.0:
        return []
    others = holders[0] if len(holders) == 1 else f"{', '.join(holders)} together"
    found = group_importance(labels, {"own columns": own_part, others: scores - own_part}, weights)
    return [{"name": name, **asdict(each)} for name, each in found.items()]
