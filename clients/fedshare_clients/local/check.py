"""What only the local harness can measure: over all banks' customers at once, and against a model of pooled data.

The local harness started every party and may read all their data; a federation's parties may not, and nothing
here is used by them. The pooled model has the holders' own bins and the banks' own split into training and held-out
customers. A scorecard is the exact optimum of the same objective, so any difference comes from the federation; for a
network see ``pooled_network``. Outcomes are without the noise of label privacy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fedshare.credit.bins import ColumnBins, Design
from fedshare.credit.metrics import auc, ks
from fedshare.privacy.dropped import may_drop
from fedshare.training.scorecard import PooledCustomers, centralised_scores

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from fedshare_clients.node.data.table import Table

    from .experiment import Experiment

__all__ = ["Customers", "pooled_metrics"]


@dataclass(frozen=True, slots=True, eq=False)
class Customers:
    """The aligned customers of all banks, one bank after another, as each bank kept them.

    Attributes:
        table: columns ``identifier``, ``holdout``, ``label``, ``weight``, ``score`` and ``bank_only``.
        bank: which bank each row is of, by position among ``banks``.
        banks: names of the banks.
    """

    table: pa.Table
    bank: NDArray[np.int64]
    banks: tuple[str, ...]

    @classmethod
    def read(cls, files: Mapping[str, Path]) -> Customers:
        """Return the customers in each bank's ``customers.parquet``."""
        names = ["identifier", "holdout", "label", "weight", "score", "bank_only"]
        tables = [pq.read_table(path, columns=names) for path in files.values()]
        bank = np.repeat(np.arange(len(tables)), [table.num_rows for table in tables])
        return cls(pa.concat_tables(tables), bank, tuple(files))

    def column(self, name: str) -> NDArray[Any]:
        """Return one column."""
        return np.asarray(self.table[name].to_numpy())

    def metrics(self, scores: NDArray[np.float64]) -> dict[str, float]:
        """Return AUC and KS of ``scores`` over the held-out customers of all banks."""
        rows = self.column("holdout")
        sample = self.column("label")[rows], scores[rows], self.column("weight")[rows]
        return {"auc": auc(*sample), "ks": ks(*sample)}


def pooled_metrics(
    tables: Mapping[str, Table],
    results: Mapping[str, Mapping[str, Any]],
    customers: Customers,
    experiment: Experiment,
) -> dict[str, float]:
    """Return AUC and KS of the pooled model on the held-out customers, and how far the scores differ.

    Args:
        tables: every party's data by party id, as its node loaded it.
        results: what every party kept of the run: its bins and weights.
        customers: of all banks.
        experiment: what was run.
    """
    parts, rows = [], {}
    for number, bank in enumerate(customers.banks):
        own = customers.table.filter(pa.array(customers.bank == number))
        identifiers = [each.encode() for each in own["identifier"].to_pylist()]
        rows[bank] = tables[bank].rows(identifiers)
        parties = [bank, *(name for name, result in results.items() if result["role"] == "feature_holder")]
        designs = [_design(tables[party].rows(identifiers), results[party], party) for party in parties]
        parts.append(Design.joined(designs))
    has_intercepts = len(customers.banks) > 1 and experiment.between_banks.personal_intercepts
    pooled = PooledCustomers(
        customers.column("label"),
        customers.column("weight"),
        Design(parts[0].columns, np.concatenate([part.codes for part in parts])),
        _training(customers, experiment),
        customers.bank if has_intercepts else None,
    )
    if experiment.bank_model is None:
        scores = centralised_scores(pooled, experiment.model)
    else:
        from .pooled_network import pooled_network_scores  # noqa: PLC0415 - torch takes seconds, and only networks need it

        scores = pooled_network_scores(rows, results, pooled, experiment, experiment.bank_model)
    difference = np.max(np.abs(scores - customers.column("score")))
    return {**customers.metrics(scores), "largest_score_difference": float(difference)}


def _training(customers: Customers, experiment: Experiment) -> NDArray[np.bool_]:
    """Return which rows train: not the held-out ones, nor those that the second bank drops for the first one."""
    training: NDArray[np.bool_] = ~customers.column("holdout")
    if not experiment.between_banks.drop_shared_customers:
        return training
    identifiers, second = customers.column("identifier"), customers.bank == 1
    first = identifiers[~second]
    shared = training & second & np.isin(identifiers, first)
    droppable = int((training & second).sum())
    if may_drop(int(shared.sum()), droppable, len(first), experiment.minimum_cohort):
        training &= ~shared
    return training


def _design(rows: Table, result: Mapping[str, Any], party: str) -> Design:
    bins = [ColumnBins.from_dict(column) for column in result["bins"]["columns"]]
    return Design.assigned(bins, rows, party=party)
