"""The same rows in each kind of source."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adbc_driver_postgresql import dbapi
from node_rows import settings
from pyarrow import csv

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fedshare_clients.node.config import NodeConfig

_tables = itertools.count()


@pytest.fixture(params=["csv", "parquet", "postgresql"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., NodeConfig]:
    """Write rows into one kind of source and return a configuration that reads them."""

    def write(rows: dict[str, list[Any]], **changes: Any) -> NodeConfig:
        table = pa.table({name: pa.array(values) for name, values in rows.items()})
        if request.param == "csv":
            csv.write_csv(table, tmp_path / "rows.csv")
            return settings(tmp_path, {"source": "csv", "path": "rows.csv"}, **changes)
        if request.param == "parquet":
            pq.write_table(table, tmp_path / "rows.parquet")
            return settings(tmp_path, {"source": "parquet", "path": "rows.parquet"}, **changes)
        url = request.getfixturevalue("postgres_url")
        name = f"rows_{next(_tables)}"
        with dbapi.connect(url) as connection, connection.cursor() as cursor:
            cursor.adbc_ingest(name, table, mode="create")
            connection.commit()
        return settings(tmp_path, {"source": "postgresql", "url": url, "table": name}, **changes)

    return write
