"""What ``fedshare-node data check`` says: the columns in counts, and everything that a run would refuse."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fedshare.credit.bins import fit_design
from fedshare.errors import DataError

from .bank_portfolio import verify_exposures
from .contracts import own_columns
from .data import inspect

if TYPE_CHECKING:
    from fedshare.errors import FedshareError

    from .config import NodeConfig
    from .data import Inspection

__all__ = ["DataReport", "check_data"]


@dataclass(frozen=True, slots=True)
class DataReport:
    """The outcome of a check. It is for the institution's own eyes, and still holds no cell.

    Attributes:
        inspection: what was found at the source.
        bins: number of bins, by column, where the data could be read.
        minimum_cohort: rows that each bin had to have.
        problems: everything that a run would refuse.
    """

    inspection: Inspection
    bins: dict[str, int]
    minimum_cohort: int
    problems: tuple[FedshareError, ...]

    @property
    def exit_code(self) -> int:
        """What the command exits with: 0, or the code of the first problem."""
        return self.problems[0].exit_code if self.problems else 0

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "source": self.inspection.source,
            "rows": self.inspection.rows,
            "available": list(self.inspection.available),
            "columns": [
                {**asdict(column), "bins": self.bins.get(column.name)} for column in self.inspection.columns
            ],
            "minimum_cohort": self.minimum_cohort,
            "problems": [_problem(problem) for problem in self.problems],
        }

    def to_text(self) -> str:
        """Return the report for people."""
        inspection = self.inspection
        lines = [f"{inspection.source}: {inspection.rows} rows, {len(inspection.available)} columns", ""]
        if inspection.columns:
            width = max(len("column"), *(len(column.name) for column in inspection.columns))
            lines.append(f"{'column':{width}}  kind         type at source  missing  distinct  bins")
            lines += [
                f"{column.name:{width}}  {column.kind:11}  {column.source_type:14}  "
                f"{column.missing_rate:7.1%}  {column.distinct:8}  {self.bins.get(column.name, '-'):>4}"
                for column in inspection.columns
            ]
            lines.append("")
        if not self.problems:
            return "\n".join([*lines, "no problems: these rows can be used"])
        lines.append(f"{len(self.problems)} problem(s); a run would refuse these rows:")
        return "\n".join([*lines, *(f"  {number}. {each}" for number, each in enumerate(self.problems, 1))])


def check_data(config: NodeConfig, minimum_cohort: int) -> DataReport:
    """Return everything that can be said about the configured rows without a contract.

    Args:
        config: where the rows are.
        minimum_cohort: rows that each bin must have; the contract decides in a run.

    Raises:
        ConfigError: the database's URL is not set.
    """
    inspection = inspect(config)
    problems = list(inspection.problems)
    bins: dict[str, int] = {}
    if inspection.table is not None:
        for column in own_columns(config):
            try:
                bins[column.name] = fit_design(
                    inspection.table, [column], minimum_cohort, party=config.party
                ).width
            except DataError as error:
                problems.append(error)
        if config.portfolio is not None:
            try:
                verify_exposures(inspection.table, config.portfolio, party=config.party)
            except DataError as error:
                problems.append(error)
    return DataReport(inspection, bins, minimum_cohort, tuple(problems))


def _problem(problem: FedshareError) -> dict[str, Any]:
    if isinstance(problem, DataError):
        place = {"field": problem.field or None, "row": problem.row}
    else:
        place = {"field": None, "row": None}
    return {"kind": type(problem).__name__, "message": str(problem), **place}
