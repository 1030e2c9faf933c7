"""The commands about contracts: ``contract draft``, ``contract show``, ``contract status``."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import yaml

from fedshare.contract.codedigest import installed_code_digest
from fedshare.contract.model import parse_contract
from fedshare.errors import ConfigError
from fedshare.privacy.leaks import summarise
from fedshare.settings import parse_yaml
from fedshare_server.commands import open_state, print_table
from fedshare_server.drafting import complete
from fedshare_server.log_keys import LogKeys
from fedshare_server.standing import contract_status

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from fedshare.contract.model import Contract
    from fedshare_server.storage import ContractRecord, DecisionRecord

__all__ = ["draft", "show", "status"]


def draft(arguments: argparse.Namespace) -> int:
    """Complete an author's contract and propose it to its parties."""
    document = _read_yaml(arguments.file)
    with open_state(arguments.state) as state:
        enrolled = {party.party: party for party in state.store.parties()}
        try:
            contract = complete(
                document,
                enrolled,
                installed_code_digest(),
                LogKeys.load(state.folder),
                {name: witness.key for name, witness in state.settings.witnesses.items()},
                datetime.now(UTC),
                os.urandom,
            )
        except ConfigError as error:
            raise ConfigError(f"{arguments.file}: {error}") from error
        digest, names = contract.digest(), [party.id for party in contract.parties]
        state.store.add_contract(digest, contract.name, contract.canonical(), names)
    print(f"Contract {contract.name} is proposed to {', '.join(names)}.")
    print(f"Digest {digest}")
    print(f"Look at it: fedshare-server contract show --state {arguments.state} {digest[:12]}")
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Print a contract, what each role learns from it, and who has decided."""
    with open_state(arguments.state) as state:
        record = state.store.resolve_contract(arguments.contract)
        decisions = state.store.decisions(record.digest)
    contract = parse_contract(record.canonical)
    print(f"# digest {record.digest}")
    print(_render(contract))
    print(summarise(contract))
    words = {
        decision.party: "revoked" if decision.is_revoked else "approved" if decision.approved else "rejected"
        for decision in decisions
    }
    print()
    print_table(("PARTY", "DECISION"), [(party, words.get(party, "-")) for party in record.parties])
    return 0


def status(arguments: argparse.Namespace) -> int:
    """List the contracts, newest first, and who has decided."""
    now = datetime.now(UTC)
    with open_state(arguments.state) as state:
        rows = [
            _line(record, state.store.decisions(record.digest), now) for record in state.store.contracts()
        ]
    print_table(("CONTRACT", "DIGEST", "STATUS", "APPROVED BY", "REJECTED BY", "WAITING FOR"), rows)
    return 0


def _line(record: ContractRecord, decisions: Sequence[DecisionRecord], now: datetime) -> tuple[str, ...]:
    approved = [decision.party for decision in decisions if decision.approved]
    rejected = [decision.party for decision in decisions if not decision.approved]
    waiting = [party for party in record.parties if party not in {*approved, *rejected}]
    return (
        record.name,
        record.digest[:12],
        contract_status(record, decisions, now),
        *(", ".join(names) for names in (approved, rejected, waiting)),
    )


def _render(contract: Contract) -> str:
    """Return the contract as YAML, one line per column."""
    document = contract.model_dump(mode="json")
    return str(
        yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=None, width=160)
    )


def _read_yaml(path: Path) -> object:
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text; save the file as UTF-8") from error
