"""Banks with the same two columns and different customers, generated: defaults follow from their product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

CUSTOMERS = 300


def write_banks(folder: Path, banks: Iterable[str], strength: float = 1.0) -> dict[str, Any]:
    """Write a CSV file for each bank, and return the section ``parties`` of an experiment with them."""
    rng = np.random.default_rng(3)
    parties = {}
    for number, bank in enumerate(banks):
        amount, usage = rng.normal(size=(2, CUSTOMERS))
        bad = rng.random(CUSTOMERS) < 1 / (1 + np.exp(1.0 - strength * amount * usage))
        names = [f"enterprise-{1000 * number + row:06d}" for row in range(CUSTOMERS)]
        table = pa.table({"code": names, "amount": amount, "usage": usage, "bad": bad.astype(np.int64)})
        pyarrow.csv.write_csv(table, folder / f"{bank}.csv")
        parties[bank] = {
            "role": "label_holder",
            "source": {"kind": "csv", "path": f"{bank}.csv", "identifier": "code", "label": "bad"},
            "columns": ["amount", "usage"],
        }
    return parties
