"""A report from a node's own files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedshare.errors import ConfigError
from fedshare_clients.node.manifest import verify_result

from .document import Challenger, build_document
from .importance import own_importance
from .lineage import own_statements
from .page import write_report

if TYPE_CHECKING:
    from pathlib import Path

    from fedshare.contract.model import Contract
    from fedshare_clients.node.config import NodeConfig
    from fedshare_clients.node.state import NodeState

__all__ = ["holder_importance", "report_run"]


def report_run(
    config: NodeConfig,
    state: NodeState,
    run_id: int,
    *,
    out: Path | None = None,
    challenger: Path | None = None,
) -> tuple[dict[str, Any], Path]:
    """Write the validation report of a completed run and return its figures and the page's path.

    Args:
        config: the bank's settings; ``pricing`` gives the triangle.
        state: where the run's files are.
        run_id: of the run.
        out: folder of the report; the run's own folder has one if not given.
        challenger: a Parquet file with ``identifier`` and ``score``, log-odds of default of the same customers.

    Raises:
        ConfigError: this is no bank, the run left no result here, or the challenger's file cannot be used.
        DataError: the customers do not allow a figure.
        ProtocolError: a kept file was altered.
        StorageError: the report cannot be written.
    """
    if config.role != "label_holder":
        raise ConfigError("a report is about customers and their outcome: only a label_holder can make one")
    result, contract = _trained(state, run_id)
    folder = state.run_folder(run_id)
    document = build_document(
        result,
        folder / "customers.parquet",
        contract,
        pricing=config.pricing,
        challenger=None if challenger is None else Challenger(challenger.stem, challenger),
        statements=own_statements(state.private_log_folder, run_id),
    )
    return document, write_report(document, out or folder / "report")


def holder_importance(state: NodeState, run_id: int) -> list[dict[str, Any]]:
    """Return the spread of each column of this feature holder's part of a model, in log-odds, largest first.

    Raises:
        ConfigError: the run left no model here.
        ProtocolError: the kept file was altered.
    """
    result, _ = _trained(state, run_id)
    verify_result(result)
    return own_importance(result)


def _trained(state: NodeState, run_id: int) -> tuple[dict[str, Any], Contract]:
    """Return what this party kept of a training run, and its contract."""
    result = state.read_run_json(run_id, "result.json")
    contract = state.approved_contract(str(result.get("contract_digest", ""))) if result else None
    if result is None or contract is None:
        raise ConfigError(f"run {run_id} left no result here; 'fedshare-node status' lists the runs")
    if "weights" not in result:
        raise ConfigError(f"run {run_id} served a model and trained none; name the run that trained it")
    return result, contract
