"""Bins of the columns that several banks have: fitted to sums over all of them, thin ones merged by the leading bank.

The leading bank is the only one to see gradients per bin, and could subtract its own customers' part from them. So it
merges bins until each holds the minimum cohort of the *other* banks' training customers, and tells them the result.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from fedshare.credit.bins import ColumnBins, Design
from fedshare.credit.pooled_bins import fit_pooled_design
from fedshare.errors import DataError, ProtocolError, RunFailedError
from fedshare.training.onehot import OneHotMatrix
from fedshare.wire.v1 import payload_pb2 as payload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fedshare.contract.model import Contract

    from .bank_sums import BankSums
    from .channel import Channel
    from .data.table import Table

__all__ = ["fit_shared_bins"]


def fit_shared_bins(
    channel: Channel, contract: Contract, sums: BankSums, table: Table, training: NDArray[np.bool_]
) -> Design:
    """Return the customers of ``table`` under the bins that all banks share.

    Raises:
        DataError: the own rows cannot be used, a column says nothing over all banks, or of no column do two bins hold
            enough of the other banks' customers.
        ProtocolError: the leading bank's bins are not merged from those that all banks fitted.
        RunFailedError: a bank was lost.
    """
    party, everyone = channel.session.party, sums.banks
    columns, minimum = contract.party(party).columns, contract.minimum_cohort

    def total(step: str, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        # Counts of the rest, beside those of all banks in a later run, would be the lost bank's own.
        found = sums.total_over(everyone, channel, step, counts, 0)
        if found is None:
            raise RunFailedError(f"{step}: a bank was lost before training began; start a new run")
        return found

    fitted = fit_pooled_design(table, columns, minimum, total, party=party)
    codes = fitted.take(training).codes.ravel()
    own = np.bincount(codes, minlength=fitted.width).astype(np.float64)

    def bins_of(rows: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
        return OneHotMatrix(fitted.codes[rows], fitted.width).columns(np.ones(len(rows)))

    counts = sums.total_at_leader(channel, "training customers per bin", own, 0, bins_of)
    if counts is None:
        message = channel.receive(sums.leader, payload.SharedBins)
        return Design.assigned(_parsed(message, fitted, sums.leader), table, party=party)
    merged, _ = fitted.merged(counts - own, minimum)
    message = payload.SharedBins(bins=json.dumps([column.to_dict() for column in merged.columns]).encode())
    for bank in sums.others:
        channel.send(bank, message)
    return merged


def _parsed(message: payload.SharedBins, fitted: Design, leader: str) -> list[ColumnBins]:
    """Return the leader's bins, which must be those of ``fitted`` with some joined or left out."""
    try:
        columns = [ColumnBins.from_dict(each) for each in json.loads(message.bins)]
    except (ValueError, TypeError, DataError) as error:
        raise ProtocolError(f"the bins of {leader} do not parse") from error
    before = {column.name: column for column in fitted.columns}
    names = [column.name for column in columns]
    if not names or names != [name for name in before if name in set(names)]:
        raise ProtocolError(f"the bins of {leader} are of other columns than the contract's")
    for column in columns:
        mine = before[column.name]
        same = (column.kind, column.monotone) == (mine.kind, mine.monotone)
        if not same or not set(column.edges) <= set(mine.edges):
            raise ProtocolError(f"the bins of {leader} for {column.name} are not merged from the shared ones")
        if not set(column.categories) <= set(mine.categories):
            raise ProtocolError(f"the bins of {leader} for {column.name} tell other categories apart")
    return columns
