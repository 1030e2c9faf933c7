"""Where a contract stands, from what its parties have decided and what time it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedshare.contract.model import parse_contract

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from fedshare_server.storage import ContractRecord, DecisionRecord

__all__ = ["contract_status"]


def contract_status(record: ContractRecord, decisions: Sequence[DecisionRecord], now: datetime) -> str:
    """Return where a contract stands: ``proposed``, ``approved``, ``rejected``, ``revoked`` or ``expired``."""
    if any(not decision.approved for decision in decisions):
        return "rejected"
    if any(decision.is_revoked for decision in decisions):
        return "revoked"
    if now >= parse_contract(record.canonical).valid_until:
        return "expired"
    approved = {decision.party for decision in decisions}
    return "approved" if approved == set(record.parties) else "proposed"
