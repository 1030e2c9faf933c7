"""Where the exposure of all banks lies: by industry, by region, by name, and how much of it is expected to be lost.

Every bank adds up its own customers; masked sums over banks give the rest of this module its input, counts first
(``release`` decides what may be shown), then amounts. Nothing here sees a single customer of another bank.

The Herfindahl-Hirschman index (HHI) is the sum of squared shares: 1/C if exposure is even over C cells, 1 if one holds all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedshare.errors import DataError, ParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from .release import ReleasePlan

__all__ = [
    "AMOUNTS",
    "MAX_EXPOSURE",
    "Cell",
    "Concentration",
    "changed_customers",
    "concentration",
    "group_amounts",
    "names_over_limit",
    "verify_amounts",
]

AMOUNTS = ("exposure", "expected_loss")
"""What ``group_amounts`` adds up per group."""

MAX_EXPOSURE = 1e12
"""No single exposure is larger, in the unit of the contract's currency; the fixed point of masked sums relies on it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One industry or region, all banks together.

    Attributes:
        name: the cell.
        customers: how many.
        exposure: their sum.
        share: of all exposure.
        expected_loss: sum of exposure times default probability times loss given default.
    """

    name: str
    customers: int
    exposure: float
    share: float
    expected_loss: float


@dataclass(frozen=True, slots=True)
class Concentration:
    """Concentration over the cells of one table.

    Attributes:
        cells: those that may be shown, largest exposure first.
        rest: all others together; ``None`` if there are none.
        exposure: of all cells.
        expected_loss: of all cells.
        hhi_low: the HHI is at least this.
        hhi_high: and at most this; the same if nothing is left out. The exact index with two cells left out would show both.
    """

    cells: tuple[Cell, ...]
    rest: Cell | None
    exposure: float
    expected_loss: float
    hhi_low: float
    hhi_high: float


def verify_amounts(
    exposure: NDArray[np.float64], pd: NDArray[np.float64], *, party: str, source: str, field: str
) -> None:
    """Check one bank's exposures before anything is summed.

    Args:
        exposure: amount outstanding per customer, shape ``[n]``.
        pd: default probability per customer, shape ``[n]``.
        party: whose, for the error.
        source: the file or table, for the error.
        field: the column of the exposure, for the error.

    Raises:
        DataError: an amount is missing, negative, infinite or above 10^12, or all are zero; a default probability is no
            probability. ``row`` is the first such row.
    """
    broken = ~((exposure >= 0) & (exposure <= MAX_EXPOSURE))
    if broken.any():
        raise DataError(
            f"expected exposures from 0 to {MAX_EXPOSURE:,.0f}, found {np.count_nonzero(broken)} that are missing, "
            "negative or larger; correct them at the source",
            party=party,
            source=source,
            row=int(np.argmax(broken)) + 1,
            field=field,
        )
    if not exposure.sum() > 0:
        raise DataError("expected an exposure above 0, found none", party=party, source=source, field=field)
    if not ((pd >= 0) & (pd <= 1)).all():
        raise DataError("a default probability lies from 0 to 1", party=party, source=source)


def changed_customers(
    now: Mapping[str, tuple[int, float]], before: Mapping[str, tuple[int, float]], cells: int
) -> NDArray[np.int64]:
    """Return how many of one bank's customers changed in each cell since an earlier answer, shape ``[cells]``.

    Args:
        now: cell and exposure of each customer, who keeps the cell of earlier answers.
        before: the same as of the earlier answer; empty if this bank took no part in it.
        cells: how many cells there are.
    """
    changed = np.zeros(cells, dtype=np.int64)
    for customer in now.keys() | before.keys():
        old, new = before.get(customer), now.get(customer)
        if old != new:
            for cell in {each[0] for each in (old, new) if each is not None}:
                changed[cell] += 1
    return changed


def group_amounts(
    cells: NDArray[np.int64],
    exposure: NDArray[np.float64],
    expected_loss: NDArray[np.float64],
    plan: ReleasePlan,
) -> NDArray[np.float64]:
    """Return one bank's amounts per group of ``plan``, shape ``[len(AMOUNTS), G]``, with a group for the rest always.

    Args:
        cells: the cell of each customer, shape ``[n]``.
        exposure: shape ``[n]``.
        expected_loss: shape ``[n]``.
    """
    groups, size = plan.groups()[cells], int(np.count_nonzero(plan.shown)) + 1
    return np.stack([np.bincount(groups, each, size) for each in (exposure, expected_loss)])


def concentration(
    names: Sequence[str], customers: NDArray[np.int64], amounts: NDArray[np.float64], plan: ReleasePlan
) -> Concentration:
    """Return what may be said of the summed amounts.

    Args:
        names: of the cells, length ``C``.
        customers: of each cell, over all banks, shape ``[C]``.
        amounts: ``group_amounts`` summed over all banks.
        plan: what may be shown, made from the same ``customers``.

    Raises:
        ParameterError: the plan withholds everything, or shapes differ.
        DataError: there is no exposure.
    """
    shown = np.flatnonzero(plan.shown)
    if plan.withheld or amounts.shape != (len(AMOUNTS), len(shown) + 1) or len(names) != len(customers):
        raise ParameterError("expected the amounts of a plan that does not withhold everything")
    exposure, loss = amounts
    total = float(exposure.sum())
    if not total > 0:
        raise DataError("expected an exposure above 0 over all banks, found none")
    cells = [
        Cell(
            names[cell],
            int(customers[cell]),
            float(exposure[at]),
            float(exposure[at]) / total,
            float(loss[at]),
        )
        for at, cell in enumerate(shown.tolist())
    ]
    left_out = customers[~plan.shown]
    share = float(exposure[-1]) / total
    known = sum(cell.share**2 for cell in cells)
    held = int(np.count_nonzero(left_out))
    return Concentration(
        cells=tuple(sorted(cells, key=lambda cell: -cell.exposure)),
        rest=Cell("rest", int(left_out.sum()), float(exposure[-1]), share, float(loss[-1]))
        if plan.has_rest
        else None,
        exposure=total,
        expected_loss=float(loss.sum()),
        hhi_low=known + (share**2 / held if held else 0.0),
        hhi_high=known + share**2,
    )


def names_over_limit(exposure: NDArray[np.float64], total: float, limit: float) -> NDArray[np.int64]:
    """Return the rows of one bank's customers that exceed the single-name limit, largest first.

    Args:
        exposure: of this bank's customers, shape ``[n]``.
        total: exposure of all banks.
        limit: share of ``total``, above 0.
    """
    over = np.flatnonzero(exposure > limit * total)
    return over[np.argsort(-exposure[over], kind="stable")]
