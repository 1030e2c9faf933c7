"""What ``fedshare-node drift`` says: whether the own rows still look like those of a training run. Nothing leaves the node."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fedshare.credit.drift import ColumnDrift, column_drifts
from fedshare.credit.stability import MODERATE, SEVERE
from fedshare.errors import ConfigError

from .data import load
from .manifest import verify_result

if TYPE_CHECKING:
    from .config import NodeConfig
    from .state import NodeState

__all__ = ["DriftReport", "check_drift"]

SHIFTED = 9
"""What the command exits with when a column has shifted."""


@dataclass(frozen=True, slots=True)
class DriftReport:
    """The outcome of a check.

    Attributes:
        run_id: the training run.
        rows: how many there are today.
        columns: of the model, the one that has moved most first.
    """

    run_id: int
    rows: int
    columns: tuple[ColumnDrift, ...]

    @property
    def exit_code(self) -> int:
        """What the command exits with."""
        return SHIFTED if any(each.stability.verdict == "shifted" for each in self.columns) else 0

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values, with the share of rows in every bin."""
        return {
            "run_id": self.run_id,
            "rows": self.rows,
            "thresholds": {"moderate": MODERATE, "shifted": SEVERE},
            "columns": [
                {
                    "name": each.name,
                    **asdict(each.stability),
                    "bins": [
                        {"bin": label, "training": before, "now": now}
                        for label, before, now in zip(each.labels, each.before, each.now, strict=True)
                    ],
                }
                for each in self.columns
            ],
        }

    def to_text(self) -> str:
        """Return the report for people, with the share of rows in the bins of every column that is not stable."""
        if not self.columns:
            return f"run {self.run_id}: the model has no column of this party"
        width = max(len("column"), *(len(each.name) for each in self.columns))
        lines = [
            f"{self.rows:,} rows today, against those of run {self.run_id}",
            f"{'column':{width}}     PSI  by chance  verdict",
        ]
        for each in self.columns:
            found = each.stability
            lines.append(
                f"{each.name:{width}}  {found.index:6.4f}     {found.by_chance:6.4f}  {found.verdict}"
            )
            if found.verdict != "stable":
                lines += [
                    f"    {before:6.1%} in training, {now:6.1%} now   {label}"
                    for label, before, now in zip(each.labels, each.before, each.now, strict=True)
                ]
        return "\n".join(lines)


def check_drift(config: NodeConfig, state: NodeState, run_id: int) -> DriftReport:
    """Hold today's rows against those of a training run.

    Raises:
        ConfigError: the run left no model here.
        DataError: the rows cannot be read.
        ProtocolError: what was kept of the run was altered.
    """
    result = state.read_run_json(run_id, "result.json")
    if result is None or "reference" not in result:
        raise ConfigError(f"run {run_id} left no model here; 'fedshare-node status' lists the runs")
    verify_result(result)
    table = load(config).without(state.withdrawn_enterprises(str(result["contract_digest"])))
    columns = column_drifts(result["reference"], table, party=config.party)
    return DriftReport(run_id, len(table), tuple(columns))
