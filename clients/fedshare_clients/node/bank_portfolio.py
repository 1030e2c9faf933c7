"""A bank's part in the portfolio of all banks: exposure and expected loss by industry and region.

1. The customers per cell are summed over banks, and how many of them changed since each earlier answer.
2. From these counts the banks agree on what may be shown (``fedshare.credit.release``): nothing about few customers,
   neither of all banks nor, once a bank subtracts its own, of the others. Each then remembers its own holdings before
   it says more, so that no later answer differs from this one by few customers.
3. Amounts are summed over what may be shown and the rest only. Which of its own names are above the limit each bank sees by
   itself: a sum of squares, or a count of large names, would show the largest name of the others.

What is remembered is this bank's own: customers, their cells and exposures, in its state folder, for the same banks whatever
the contract. A customer stays in the cell in which it was first counted: moving, it would cancel in the sum over both cells.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedshare.contract.portfolio import DIMENSIONS
from fedshare.credit.concentration import (
    changed_customers,
    concentration,
    group_amounts,
    names_over_limit,
    verify_amounts,
)
from fedshare.credit.release import Earlier, ReleasePlan, plan_release
from fedshare.errors import DataError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from fedshare.contract.model import Contract
    from fedshare.contract.portfolio import Portfolio

    from .bank_sums import BankSums
    from .channel import Channel
    from .data.table import Table
    from .pricing import PortfolioConfig

__all__ = ["BankPortfolio", "PortfolioMemory", "StoredAnswer", "memory_name", "verify_exposures"]

_AMOUNT_BITS = 4
"""Fractional bits of an amount: all banks' exposure in one cell stays below 2^57."""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What this bank remembers of one answer.

    Attributes:
        shown: by dimension, whether each cell was shown by itself.
        withheld: whether nothing was shown.
        holdings: by customer: the cell in each dimension, and the exposure.
        cells: by dimension, the names of the cells.
    """

    shown: Mapping[str, Sequence[bool]]
    withheld: bool
    holdings: Mapping[str, Sequence[float]]
    cells: Mapping[str, Sequence[str]]


class PortfolioMemory(Protocol):
    """Where answers of the same banks are remembered, whatever the contract."""

    def answers(self) -> list[StoredAnswer]:
        """Return every answer so far, the first one first."""

    def remember(self, answer: StoredAnswer) -> None:
        """Store an answer durably. Raises ``StorageError`` if the disk refuses."""


def memory_name(contract: Contract) -> str:
    """Return what names the banks of ``contract`` together: the same under every contract between them."""
    keys = sorted(bank.identity_key_bytes() for bank in contract.banks())
    return hashlib.sha256(b"".join(keys)).hexdigest()


def verify_exposures(table: Table, settings: PortfolioConfig, *, party: str) -> None:
    """Check that a bank's rows can be added up as ``settings`` say.

    Raises:
        DataError: an exposure is impossible, or a column is of another kind.
    """
    exposure = table.column(settings.exposure)
    if exposure.dtype.kind != "f":
        raise DataError(
            "expected a numeric column of exposures",
            party=party,
            source=table.source,
            field=settings.exposure,
        )
    verify_amounts(
        exposure, np.zeros(len(exposure)), party=party, source=table.source, field=settings.exposure
    )
    for name in (settings.industry, settings.region):
        if table.column(name).dtype != object:
            raise DataError("expected a categorical column", party=party, source=table.source, field=name)


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
            RefusedError: ``portfolio_differs``: the same banks have shown other cells, under another contract.
        """
        if any(answer.cells != self._cell_names() for answer in self._memory.answers()):
            raise RefusedError(
                "portfolio_differs",
                "these banks have added up their portfolio over other industries or regions: tables with different cells, "
                "side by side, would show few customers; a contract with the same ones is needed",
                party=party,
            )
        verify_exposures(table, self._settings, party=party)

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
        exposure: NDArray[np.float64] = table.column(self._settings.exposure)
        earlier = self._memory.answers()
        names = [each.decode() for each in table.identifiers]
        cells = self._first_cells(table, names, earlier)
        # 1. Counts.
        holdings = {
            name: (float(cells["industry"][row]), float(cells["region"][row]), float(exposure[row]))
            for row, name in enumerate(names)
        }
        own = self._counts(cells, holdings, earlier)
        total = _split(
            np.rint(sums.total(channel, "customers of the portfolio", _joined(own), 0)).astype(np.int64), own
        )
        # 2. What may be shown.
        plans = self._agree(channel, sums, own, total, earlier, minimum)
        withheld = any(plan.withheld for plan in plans.values())
        shown = {dimension: plan.shown.tolist() for dimension, plan in plans.items()}
        self._memory.remember(StoredAnswer(shown, withheld, holdings, self._cell_names()))
        if withheld:
            return {"withheld": True}
        # 3. Amounts.
        loss = exposure * pd * self._loss_given_default
        parts = [
            group_amounts(cells[dimension], exposure, loss, plans[dimension]) for dimension in DIMENSIONS
        ]
        flat = np.concatenate([part.ravel() for part in parts])
        amounts = sums.total(channel, "amounts of the portfolio", flat, _AMOUNT_BITS)
        tables, at = {}, 0
        for dimension, part in zip(DIMENSIONS, parts, strict=True):
            summed = amounts[at : at + part.size].reshape(part.shape)
            at += part.size
            tables[dimension] = concentration(
                self._terms.cells(dimension), total[dimension][0], summed, plans[dimension]
            )
        # HHI over names: one that owes two banks counts as two, so it is a lower bound of the true one.
        whole = tables["industry"].exposure
        over = names_over_limit(exposure, whole, self._terms.single_name_limit)
        return {
            "withheld": False,
            "exposure": whole,
            "expected_loss": tables["industry"].expected_loss,
            "single_name_limit": self._terms.single_name_limit,
            "own_names_over_limit": [names[row] for row in over.tolist()],
            "tables": {dimension: asdict(table) for dimension, table in tables.items()},
        }

    def _counts(
        self,
        cells: Mapping[str, NDArray[np.int64]],
        holdings: Mapping[str, Sequence[float]],
        earlier: Sequence[StoredAnswer],
    ) -> dict[str, NDArray[np.int64]]:
        """Return, by dimension, this bank's customers per cell, and a row of those that changed since each answer."""
        counts = {}
        for place, dimension in enumerate(DIMENSIONS):
            size, now = len(self._terms.cells(dimension)), _one_dimension(holdings, place)
            rows = [np.bincount(cells[dimension], minlength=size)]
            rows += [changed_customers(now, _one_dimension(each.holdings, place), size) for each in earlier]
            counts[dimension] = np.stack(rows)
        return counts

    def _agree(
        self,
        channel: Channel,
        sums: BankSums,
        own: Mapping[str, NDArray[np.int64]],
        total: Mapping[str, NDArray[np.int64]],
        earlier: Sequence[StoredAnswer],
        minimum: int,
    ) -> dict[str, ReleasePlan]:
        """Return what every bank agrees to show: each may take cells out, until nobody does."""
        allowed = {dimension: np.ones(total[dimension].shape[1], dtype=np.bool_) for dimension in DIMENSIONS}
        while True:
            plans, objections, gives_up = {}, {}, False
            for dimension in DIMENSIONS:
                history = [np.array(each.shown[dimension], dtype=np.bool_) for each in earlier]
                withheld = [each.withheld for each in earlier]
                plan = _plan(total[dimension], history, withheld, minimum, allowed[dimension])
                others = total[dimension] - own[dimension]
                inside = _plan(others, history, withheld, minimum, plan.shown)
                plans[dimension] = plan
                objections[dimension] = (allowed[dimension] & ~inside.shown).astype(np.int64)[None]
                gives_up |= plan.withheld or inside.withheld
            flat = np.append(_joined(objections), float(gives_up))
            heard = sums.total(channel, "objections to cells of the portfolio", flat, 0)
            if heard[-1] > 0.5:
                return {
                    dimension: ReleasePlan(np.zeros_like(allowed[dimension]), withheld=True)
                    for dimension in DIMENSIONS
                }
            if not (heard > 0.5).any():
                return plans
            found = _split(heard[:-1], objections)
            allowed = {
                dimension: allowed[dimension] & (found[dimension][0] < 0.5) for dimension in DIMENSIONS
            }

    def _cell_names(self) -> dict[str, list[str]]:
        return {dimension: list(self._terms.cells(dimension)) for dimension in DIMENSIONS}

    def _first_cells(
        self, table: Table, names: Sequence[str], earlier: Sequence[StoredAnswer]
    ) -> dict[str, NDArray[np.int64]]:
        """Return the cell of every customer by dimension, for one that an earlier answer counted as it did."""
        cells = {dimension: self._cells(table, dimension) for dimension in DIMENSIONS}
        for answer in reversed(earlier):
            for row, name in enumerate(names):
                if name in answer.holdings:
                    for place, dimension in enumerate(DIMENSIONS):
                        cells[dimension][row] = int(answer.holdings[name][place])
        return cells

    def _cells(self, table: Table, dimension: str) -> NDArray[np.int64]:
        """Return the cell of every customer in ``dimension``; unlisted and unknown ones are in the last."""
        values = table.column(self._settings.industry if dimension == "industry" else self._settings.region)
        place = {cell: at for at, cell in enumerate(self._terms.cells(dimension))}
        return np.array([place.get(value, len(place) - 1) for value in values], dtype=np.int64)


def _one_dimension(holdings: Mapping[str, Sequence[float]], place: int) -> dict[str, tuple[int, float]]:
    return {name: (int(each[place]), each[-1]) for name, each in holdings.items()}


def _plan(
    counts: NDArray[np.int64],
    history: Sequence[NDArray[np.bool_]],
    withheld: Sequence[bool],
    minimum: int,
    within: NDArray[np.bool_],
) -> ReleasePlan:
    """Return the plan for rows of counts: customers, then changes since each earlier answer."""
    earlier = [
        Earlier(ReleasePlan(shown, nothing), changed)
        for shown, nothing, changed in zip(history, withheld, counts[1:], strict=True)
    ]
    return plan_release(counts[0], minimum=minimum, earlier=earlier, within=within)


def _joined(parts: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float64]:
    return np.concatenate([parts[dimension].ravel() for dimension in DIMENSIONS]).astype(np.float64)


def _split(flat: NDArray[Any], like: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
    """Return the inverse of ``_joined``."""
    ends = np.cumsum([like[dimension].size for dimension in DIMENSIONS])
    parts = np.split(flat, ends[:-1])
    return {
        dimension: part.reshape(like[dimension].shape)
        for dimension, part in zip(DIMENSIONS, parts, strict=True)
    }
