"""The check switch: the same model trained on pooled data, which no party of a federation could do.

The local harness started every party and may read all their data; a federation's parties may not, and nothing
here is used by them. The pooled model has the holders' own bins and the bank's own split into training and held-out
customers, and is the exact optimum of the same objective, so any difference comes from the federation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from fedshare.credit.bins import ColumnBins, Design
from fedshare.credit.metrics import auc, ks
from fedshare.training.scorecard import centralised_fit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fedshare.contract.model import ScorecardModel
    from fedshare_clients.node.data.table import Table

__all__ = ["centralised_metrics"]


def centralised_metrics(
    tables: Mapping[str, Table],
    results: Mapping[str, Mapping[str, Any]],
    bank: str,
    customers: Path,
    model: ScorecardModel,
) -> dict[str, float]:
    """Return AUC and KS of the pooled model on the bank's held-out customers, and how far the scores differ.

    Args:
        tables: every party's data by party id, as its node loaded it.
        results: what every party kept of the run: its bins and weights.
        bank: the label holder.
        customers: its file of aligned customers with columns ``identifier``, ``holdout`` and ``score``.
    """
    scored = pq.read_table(customers)
    identifiers = [each.encode() for each in scored["identifier"].to_pylist()]
    holdout = scored["holdout"].to_numpy()
    outcome = tables[bank].rows(identifiers)
    designs = [
        Design.assigned(
            [ColumnBins.from_dict(column) for column in result["bins"]["columns"]],
            tables[party].rows(identifiers),
            party=party,
        )
        for party, result in results.items()
    ]
    scores = centralised_fit(outcome.label, outcome.weight, Design.joined(designs), ~holdout, model).scores()
    federated = scored["score"].to_numpy()
    return {
        "auc": auc(outcome.label[holdout], scores[holdout], outcome.weight[holdout]),
        "ks": ks(outcome.label[holdout], scores[holdout], outcome.weight[holdout]),
        "largest_score_difference": float(np.max(np.abs(scores - federated))),
    }
