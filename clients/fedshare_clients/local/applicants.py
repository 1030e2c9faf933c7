"""Whom a bank of an experiment scores: its applicants, or its own rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from fedshare_clients.node.data import load
from fedshare_clients.node.data.loading import open_source

if TYPE_CHECKING:
    from fedshare_clients.node.config import NodeConfig

    from .experiment import Source

__all__ = ["applicants_of"]


def applicants_of(config: NodeConfig, applicants: Source | None) -> pa.Table:
    """Return one row per enterprise to score, under the identifier's name of ``config``.

    Args:
        config: the bank's settings.
        applicants: where the applicants are, with own columns of the bank if it has them there; without it the
            bank's own rows are scored, whose columns its node takes from its own source.

    Raises:
        DataError: the rows cannot be read.
    """
    data = config.data
    if applicants is None:
        return pa.table({data.identifier: [each.decode() for each in load(config).identifiers]})
    given = applicants.model_dump(exclude={"kind", "label", "url"})
    there = data.model_copy(update={**given, "source": applicants.kind})
    source = open_source(config.model_copy(update={"data": there}))
    known = {applicants.identifier, *data.source_columns().values()}
    names = [name for name in source.column_names() if name in known]
    table = pa.Table.from_batches(list(source.batches(names)))
    return table.rename_columns(
        [data.identifier if name == applicants.identifier else name for name in names]
    )
