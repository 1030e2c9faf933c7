"""A bank's part in the portfolio of all banks: exposure and expected loss by industry and region.

1. The customers per cell are summed over banks, and how many of them changed since each earlier answer.
2. From these counts every bank decides alike what may be shown (``fedshare.credit.release``), and remembers its own
   holdings before it says more, so that no later answer differs from this one by few customers.
3. Amounts are summed over what may be shown and the rest only; then the squares of shares and the names above the limit.

What is remembered is this bank's own: customers, their cells and exposures, in its state folder.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedshare.contract.portfolio import DIMENSIONS
from fedshare.credit.concentration import (
    AMOUNTS,
    changed_customers,
    concentration,
    group_amounts,
    names_over_limit,
    verify_amounts,
)
from fedshare.credit.release import Earlier, ReleasePlan, plan_release
from fedshare.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from fedshare.contract.portfolio import Portfolio

    from .bank_sums import BankSums
    from .channel import Channel
    from .data.table import Table
    from .pricing import PortfolioConfig

__all__ = ["BankPortfolio", "PortfolioMemory", "StoredAnswer"]

_AMOUNT_BITS = 4
"""Fractional bits of an amount: all banks' exposure in one cell stays below 2^57."""

_SHARE_BITS = 40
"""Fractional bits of a sum of squared shares, and of a count beside it."""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What this bank remembers of one answer.

    Attributes:
        shown: by dimension, whether each cell was shown by itself.
        withheld: whether nothing was shown.
        holdings: by customer: the cell in each dimension, and the exposure.
    """

    shown: Mapping[str, Sequence[bool]]
    withheld: bool
    holdings: Mapping[str, Sequence[float]]


class PortfolioMemory(Protocol):
    """Where answers are remembered, per contract."""

    def answers(self) -> list[StoredAnswer]:
        """Return every answer so far, the first one first."""

    def remember(self, answer: StoredAnswer) -> None:
        """Store an answer durably. Raises ``StorageError`` if the disk refuses."""


class BankPortfolio:
    """One bank's exposures, ready to be added up."""

    def __init__(
        self, terms: Portfolio, settings: PortfolioConfig, loss_given_default: float, memory: PortfolioMemory
    ) -> None:
        self._terms = terms
        self._settings = settings
        self._loss_given_default = loss_given_default
        self._memory = memory

    def verify(self, table: Table, *, party: str) -> None:
        """Check the columns, before a run computes anything.

        Raises:
            DataError: an exposure is impossible, or a column is not there or of another kind.
        """
        exposure = self._exposure(table)
        verify_amounts(
            exposure, np.zeros(len(exposure)), party=party, source=table.source, field=self._settings.exposure
        )
        for dimension in DIMENSIONS:
            self._cells(table, dimension)

    def add_up(
        self, channel: Channel, sums: BankSums, table: Table, pd: NDArray[np.float64], minimum: int
    ) -> dict[str, Any]:
        """Return the portfolio of all banks as JSON values.

        Args:
            channel: of the phase.
            sums: over banks.
            table: this bank's customers.
            pd: default probability of each, shape ``[n]``.
            minimum: the contract's minimum cohort.
        """
        exposure = self._exposure(table)
        cells = {dimension: self._cells(table, dimension) for dimension in DIMENSIONS}
        # 1. Counts.
        names = [each.decode() for each in table.identifiers]
        holdings = {
            name: (float(cells["industry"][row]), float(cells["region"][row]), float(exposure[row]))
            for row, name in enumerate(names)
        }
        earlier = self._memory.answers()
        counts = self._counts(channel, sums, cells, holdings, earlier)
        # 2. What may be shown.
        plans = {
            dimension: self._plan(dimension, counts[dimension], earlier, minimum) for dimension in DIMENSIONS
        }
        withheld = any(plan.withheld for plan in plans.values())
        shown = {dimension: plan.shown.tolist() for dimension, plan in plans.items()}
        self._memory.remember(StoredAnswer(shown, withheld, holdings))
        if withheld:
            return {"withheld": True}
        # 3. Amounts.
        loss = exposure * pd * self._loss_given_default
        parts = [
            group_amounts(cells[dimension], exposure, loss, plans[dimension]) for dimension in DIMENSIONS
        ]
        flat = np.concatenate([part.ravel() for part in parts])
        total = sums.total(channel, "amounts of the portfolio", flat, _AMOUNT_BITS)
        tables, at = {}, 0
        for dimension, part in zip(DIMENSIONS, parts, strict=True):
            amounts = total[at : at + part.size].reshape(len(AMOUNTS), -1)
            at += part.size
            tables[dimension] = concentration(
                self._terms.cells(dimension), counts[dimension][0], amounts, plans[dimension]
            )
        whole = tables["industry"].exposure
        over = names_over_limit(exposure, whole, self._terms.single_name_limit)
        squares = sums.total(
            channel,
            "shares of names",
            np.array([float(((exposure / whole) ** 2).sum()), len(over)]),
            _SHARE_BITS,
        )
        return {
            "withheld": False,
            "exposure": whole,
            "expected_loss": tables["industry"].expected_loss,
            "name_hhi": float(squares[0]),
            "names_over_limit": round(float(squares[1])),
            "single_name_limit": self._terms.single_name_limit,
            "own_names_over_limit": [names[row] for row in over.tolist()],
            "tables": {dimension: asdict(table) for dimension, table in tables.items()},
        }

    def _counts(
        self,
        channel: Channel,
        sums: BankSums,
        cells: Mapping[str, NDArray[np.int64]],
        holdings: Mapping[str, Sequence[float]],
        earlier: Sequence[StoredAnswer],
    ) -> dict[str, list[NDArray[np.int64]]]:
        """Return, by dimension, customers per cell of all banks, and those that changed since each earlier answer."""
        vectors = []
        for place, dimension in enumerate(DIMENSIONS):
            size = len(self._terms.cells(dimension))
            vectors.append(np.bincount(cells[dimension], minlength=size))
            now = _one_dimension(holdings, place)
            vectors += [
                changed_customers(now, _one_dimension(each.holdings, place), size) for each in earlier
            ]
        flat = np.concatenate(vectors).astype(np.float64)
        total = np.rint(sums.total(channel, "customers of the portfolio", flat, 0)).astype(np.int64)
        counts: dict[str, list[NDArray[np.int64]]] = {}
        at = 0
        for dimension in DIMENSIONS:
            size, many = len(self._terms.cells(dimension)), 1 + len(earlier)
            counts[dimension] = list(total[at : at + size * many].reshape(many, size))
            at += size * many
        return counts

    def _plan(
        self,
        dimension: str,
        counts: Sequence[NDArray[np.int64]],
        earlier: Sequence[StoredAnswer],
        minimum: int,
    ) -> ReleasePlan:
        customers, *changed = counts
        before = [
            Earlier(ReleasePlan(np.array(each.shown[dimension], dtype=np.bool_), each.withheld), change)
            for each, change in zip(earlier, changed, strict=True)
        ]
        return plan_release(customers, minimum=minimum, earlier=before)

    def _exposure(self, table: Table) -> NDArray[np.float64]:
        values = table.column(self._settings.exposure)
        if values.dtype.kind != "f":
            raise DataError(
                "expected a numeric column of exposures", source=table.source, field=self._settings.exposure
            )
        exposure: NDArray[np.float64] = values
        return exposure

    def _cells(self, table: Table, dimension: str) -> NDArray[np.int64]:
        """Return the cell of every customer in ``dimension``; unlisted and unknown ones are in the last."""
        name = self._settings.industry if dimension == "industry" else self._settings.region
        values = table.column(name)
        if values.dtype != object:
            raise DataError("expected a categorical column", source=table.source, field=name)
        place = {cell: at for at, cell in enumerate(self._terms.cells(dimension))}
        return np.array([place.get(value, len(place) - 1) for value in values], dtype=np.int64)


def _one_dimension(holdings: Mapping[str, Sequence[float]], place: int) -> dict[str, tuple[int, float]]:
    return {name: (int(each[place]), each[-1]) for name, each in holdings.items()}
