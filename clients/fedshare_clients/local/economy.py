"""A generated regional economy: enough of a registry, a tax bureau, a court, an invoice graph and banks to train on.

Everything follows from one seed. An enterprise has a hidden soundness; its industry and, along the invoice graph, the
state of its customers move it. Each institution sees a noisy part of that with gaps of its own: young
enterprises have not filed yet, the smallest issue no invoices, banks see their own customers only. The figures are
made up; they show how the system behaves, not how any economy does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fedshare.credit.identifiers import check_digit
from fedshare.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Economy", "generate", "write"]

INDUSTRIES = (
    "retail",
    "catering",
    "wholesale",
    "textiles",
    "machinery",
    "electronics",
    "construction",
    "transport",
    "software",
    "food",
)
LEGAL_FORMS = ("sole trader", "limited company", "partnership", "cooperative")
_FEWEST = 1_000
REGIONS = ("north", "south", "east", "west", "harbour", "new town")


@dataclass(frozen=True, slots=True)
class Economy:
    """One table per source; every table has the column ``enterprise``.

    Attributes:
        tables: file stem to table: ``registry``, ``tax``, ``court``, ``invoices``, ``bank-a``, ``bank-b``, ``bank-c``.
    """

    tables: dict[str, pa.Table]


def generate(enterprises: int, seed: int) -> Economy:
    """Return an economy of ``enterprises``, always the same for the same arguments.

    Raises:
        ConfigError: fewer than 1,000 enterprises, too few for banks to train on, or a negative seed.
    """
    if enterprises < _FEWEST or seed < 0:
        raise ConfigError(
            f"expected at least {_FEWEST:,} enterprises, of which the banks' customers are a part, and a seed of 0 or more; "
            f"found {enterprises:,} and {seed}"
        )
    rng = np.random.default_rng(seed)
    identifiers = _identifiers(enterprises, rng)
    industry = rng.choice(len(INDUSTRIES), enterprises, p=rng.dirichlet(np.full(len(INDUSTRIES), 6.0)))
    age = rng.gamma(2.0, 4.0, enterprises)
    size = rng.normal(0.25 * np.log1p(age), 1.0)
    climate = rng.normal(0.0, 0.5, len(INDUSTRIES))
    soundness = 0.35 * np.log1p(age) + 0.3 * size + climate[industry] + rng.normal(0.0, 1.0, enterprises)
    seller, buyer, amount = _invoices(enterprises, industry, size, rng)
    exposure = _neighbour_mean(buyer, seller, amount, soundness, enterprises)
    stress = -(0.75 * soundness + 0.5 * exposure)
    stress = (stress - stress.mean()) / stress.std()

    tables = {
        "registry": _registry(industry, age, size, soundness, rng),
        "tax": _tax(age, size, stress, rng),
        "court": _court(stress, rng),
    }
    known = {"registry": 0.995, "tax": 0.97, "court": 0.96}
    result = {
        name: _with_identifier(identifiers, columns, rng.random(enterprises) < known[name])
        for name, columns in tables.items()
    }
    result["invoices"] = pa.table(
        {"seller": identifiers[seller], "buyer": identifiers[buyer], "amount": np.round(amount, 2)}
    )
    for bank, (share, caution) in {
        "bank-a": (0.3, 0.5),
        "bank-b": (0.18, -0.3),
        "bank-c": (0.1, 0.1),
    }.items():
        chosen = rng.random(enterprises) < share * np.clip(1.0 - 0.25 * caution * stress, 0.2, 1.8)
        result[bank] = _with_identifier(identifiers, _loans(size, stress, rng), chosen)
    return Economy(result)


def write(economy: Economy, folder: Path) -> None:
    """Write every table of ``economy`` as ``folder/NAME.parquet``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in economy.tables.items():
        pq.write_table(table, folder / f"{name}.parquet")


def _identifiers(count: int, rng: np.random.Generator) -> NDArray[np.object_]:
    """Return distinct unified social credit codes with correct check characters (GB 32100-2015)."""
    bodies = [f"91330100MA{serial:07d}" for serial in rng.choice(10**7, count, replace=False)]
    return np.array([body + check_digit(body) for body in bodies], dtype=object)


def _invoices(
    enterprises: int, industry: NDArray[np.int64], size: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return seller, buyer and amount per trading pair: large enterprises trade more, mostly along fixed chains."""
    weight = np.exp(size)
    supplies = np.eye(len(INDUSTRIES)) * 0.3 + rng.dirichlet(np.full(len(INDUSTRIES), 0.3), len(INDUSTRIES))
    count = 6 * enterprises
    seller = rng.choice(enterprises, count, p=weight / weight.sum())
    buyer = np.empty(count, dtype=np.int64)
    for sold in range(len(INDUSTRIES)):
        mine = np.flatnonzero(industry[seller] == sold)
        appetite = weight * (supplies[sold] / supplies[sold].sum())[industry]
        buyer[mine] = rng.choice(enterprises, len(mine), p=appetite / appetite.sum())
    distinct = seller != buyer
    seller, buyer = seller[distinct], buyer[distinct]
    return seller, buyer, np.exp(rng.normal(9.0, 1.2, len(seller)) + 0.4 * (size[seller] + size[buyer]))


def _neighbour_mean(
    to: NDArray[np.int64],
    of: NDArray[np.int64],
    weight: NDArray[np.float64],
    values: NDArray[np.float64],
    enterprises: int,
) -> NDArray[np.float64]:
    """Return, for each enterprise in ``of``, the mean of ``values`` over its trading partners ``to``, 0 without any."""
    total = np.bincount(of, weight, enterprises)
    mean = np.bincount(of, weight * values[to], enterprises) / np.maximum(total, 1e-9)
    return np.where(total > 0, mean, 0.0)


def _registry(
    industry: NDArray[np.int64],
    age: NDArray[np.float64],
    size: NDArray[np.float64],
    soundness: NDArray[np.float64],
    rng: np.random.Generator,
) -> dict[str, NDArray[np.generic]]:
    count = len(age)
    capital = np.exp(12.0 + 0.8 * size + rng.normal(0.0, 0.8, count))
    form = np.where(size < -0.5, 0, rng.choice([1, 1, 1, 2, 3], count))
    return {
        "industry": np.array(INDUSTRIES, dtype=object)[industry],
        "legal_form": np.array(LEGAL_FORMS, dtype=object)[form],
        "region": np.array(REGIONS, dtype=object)[rng.choice(len(REGIONS), count)],
        "age_years": np.round(age, 1),
        "registered_capital": _with_gaps(1e3 * np.round(capital / 1e3), 0.03, rng),
        "insured_employees": _with_gaps(rng.poisson(np.exp(1.2 + 0.7 * size)).astype(float), 0.08, rng),
        "changes_last_year": rng.poisson(np.exp(-0.7 - 0.3 * soundness)).astype(float),
        "address_abnormal": (rng.random(count) < 1.0 / (1.0 + np.exp(3.0 + soundness))).astype(float),
    }


def _tax(
    age: NDArray[np.float64],
    size: NDArray[np.float64],
    stress: NDArray[np.float64],
    rng: np.random.Generator,
) -> dict[str, NDArray[np.generic]]:
    count = len(age)
    turnover = np.exp(13.0 + size + rng.normal(0.0, 0.3, count))
    growth = -0.12 * stress + rng.normal(0.0, 0.25, count)
    not_filed = age < 1.0
    columns = {
        "turnover": turnover,
        "turnover_growth": growth,
        "gross_margin": 0.2 - 0.04 * stress + rng.normal(0.0, 0.06, count),
        "tax_paid_share": np.clip(0.05 - 0.008 * stress + rng.normal(0.0, 0.012, count), 0.0, None),
        "late_filings": rng.poisson(np.exp(-1.0 + 0.6 * stress)).astype(float),
        "active_months": np.clip(
            np.round(12 - np.exp(0.5 + 0.5 * stress) + rng.normal(0.0, 1.0, count)), 0, 12
        ),
        "void_invoice_share": np.clip(0.03 + 0.015 * stress + rng.normal(0.0, 0.02, count), 0.0, 1.0),
    }
    return {name: np.where(not_filed, np.nan, np.round(values, 5)) for name, values in columns.items()}


def _court(stress: NDArray[np.float64], rng: np.random.Generator) -> dict[str, NDArray[np.generic]]:
    count = len(stress)
    as_defendant = rng.poisson(np.exp(-1.6 + 0.7 * stress)).astype(float)
    return {
        "cases_as_defendant": as_defendant,
        "enforcement_orders": rng.binomial(as_defendant.astype(int), 0.4).astype(float),
        "cases_as_plaintiff": rng.poisson(0.3, count).astype(float),
        "claimed_amount": np.where(
            as_defendant > 0, np.round(np.exp(rng.normal(10.5, 1.0, count) + 0.3 * stress)), np.nan
        ),
    }


def _loans(
    size: NDArray[np.float64], stress: NDArray[np.float64], rng: np.random.Generator
) -> dict[str, NDArray[np.generic]]:
    count = len(stress)
    utilisation = 1.0 / (1.0 + np.exp(-(0.35 * stress + rng.normal(0.0, 1.0, count))))
    logit = -2.6 + 1.5 * stress + 0.8 * (utilisation - 0.5) + rng.normal(0.0, 0.5, count)
    return {
        "loan_amount": np.round(np.exp(11.5 + 0.6 * size + rng.normal(0.0, 0.5, count)), -3),
        "credit_utilisation": np.round(utilisation, 4),
        "account_inflow": _with_gaps(np.exp(11.0 + 0.8 * size + rng.normal(0.0, 0.7, count)), 0.15, rng),
        "months_with_bank": np.round(rng.gamma(2.0, 18.0, count)),
        "default": (rng.random(count) < 1.0 / (1.0 + np.exp(-logit))).astype(np.int64),
    }


def _with_gaps(values: NDArray[np.float64], share: float, rng: np.random.Generator) -> NDArray[np.float64]:
    return np.where(rng.random(len(values)) < share, np.nan, values)


def _with_identifier(
    identifiers: NDArray[np.object_], columns: dict[str, NDArray[np.generic]], rows: NDArray[np.bool_]
) -> pa.Table:
    """Return the chosen rows with their identifiers; NaN becomes a missing value."""
    arrays = {"enterprise": pa.array(identifiers[rows])}
    arrays |= {name: pa.array(values[rows], from_pandas=True) for name, values in columns.items()}
    return pa.table(arrays)
