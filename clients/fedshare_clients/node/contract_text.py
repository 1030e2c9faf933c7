"""A contract for the people who decide about it: what it says, who learns what under it, what to compare."""

from __future__ import annotations

import json
import re
import textwrap
from typing import TYPE_CHECKING, Any

from fedshare.identity.keys import fingerprint
from fedshare.privacy.leaks import summarise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedshare.contract.model import Column, Contract

    from .config import NodeConfig
    from .contracts import FetchedContract

__all__ = ["all_terms", "contract_json", "contract_text"]

_WIDTH = 120
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


def contract_json(fetched: FetchedContract, config: NodeConfig) -> dict[str, Any]:
    """Return the contract, its digest, who has decided and what each party's key is, as JSON values."""
    contract = fetched.contract
    return {
        "digest": contract.digest(),
        "status": fetched.status,
        "party": config.party,
        "contract": contract.model_dump(mode="json"),
        "decisions": fetched.verdicts(),
        "leaks": summarise(contract),
        "fingerprints": {party.id: fingerprint(party.identity_key_bytes()) for party in contract.parties},
    }


def contract_text(fetched: FetchedContract, config: NodeConfig) -> str:
    """Return the contract as a page to read before signing."""
    contract = fetched.contract
    parts = (
        _heading(fetched),
        _terms(contract),
        _parties(fetched, config.party),
        all_terms(json.loads(contract.canonical())),
        [summarise(contract)],
    )
    return "\n\n".join("\n".join(part) for part in parts)


def all_terms(document: dict[str, Any]) -> list[str]:
    """Return every field of a contract's document, one by one: the page leaves out nothing that is signed.

    Text is quoted, so no value can pass for another term; without the indents, a wrapped value is unchanged.
    """
    lines = ["All terms, as they are signed"]
    for path, value in _leaves(document, ""):
        lines += textwrap.wrap(
            f"{path} = {value}",
            _WIDTH,
            initial_indent="  ",
            subsequent_indent="      ",
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=False,
        )
    return lines


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            key = name if _PLAIN.fullmatch(name) else _shown(name)
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")
    else:
        yield path, _shown(value)


def _shown(value: object) -> str:
    """Return a value as one line of JSON that no control or writing-direction mark in it can rearrange."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value).replace("\x7f", "\\u007f")


def _heading(fetched: FetchedContract) -> list[str]:
    contract = fetched.contract
    return [
        f"Contract {contract.name} ({fetched.status})",
        f"digest    {contract.digest()}",
        f"purpose   {contract.purpose}",
        f"valid     {contract.valid_from:%Y-%m-%d %H:%M} to {contract.valid_until:%Y-%m-%d %H:%M} UTC",
        f"kept      results for {contract.retention_days} days",
        f"code      {contract.code_digest}",
    ]


def _terms(contract: Contract) -> list[str]:
    alignment, model, points = contract.alignment, contract.model, contract.points
    missing = {
        "inner": "customers that a holder does not know are left out",
        "impute": "every holder covers the public roster",
    }[alignment.missing_enterprises]
    shown = "loss, AUC and KS" if contract.outputs.coordinator_metrics else "no metrics"
    return [
        "Terms",
        f"  model      {model.kind}, ridge {model.ridge:g}, smoothness {model.smoothness:g}",
        *_network(contract),
        *_noise(contract),
        f"  training   at most {model.max_iterations} iterations in each of at most {contract.max_runs} run(s)",
        f"  alignment  {alignment.identifier} identifiers, at most {alignment.quota} per holder in all runs; {missing}",
        f"  held out   {contract.holdout_share:.0%} of a bank's customers, for evaluation",
        f"  cohort     bins with fewer than {contract.minimum_cohort} customers are merged before training",
        *_portfolio(contract),
        f"  points     {points.base_points:g} at {points.base_odds:g} to 1, {points.pdo:g} more double the odds",
        f"  shown to the coordinator: {shown}",
        f"  log        {contract.log.key}",
        f"  witnesses  {contract.log.quorum} of {', '.join(contract.log.witnesses)}",
        f"  coordinator's statements are signed by {fingerprint(contract.log.coordinator_key_bytes())}",
    ]


def _portfolio(contract: Contract) -> list[str]:
    agreed = contract.portfolio
    if agreed is None:
        return []
    cells = f"{len(agreed.industries)} industries and {len(agreed.regions)} regions"
    return [f"  portfolio  exposure and expected loss of all banks by {cells}, in every run"]


def _network(contract: Contract) -> list[str]:
    model = contract.bank_model
    if model is None:
        return []
    settings = "".join(f", {name} {_shown(value)}" for name, value in sorted(model.settings.items()))
    return [f"  network    {model.kind}{settings}; {model.algorithm}, at most {model.rounds} rounds"]


def _noise(contract: Contract) -> list[str]:
    lines = []
    if labels := contract.privacy.labels:
        lines.append(f"  noise      on outcomes, epsilon {labels.epsilon:g}")
    if network := contract.privacy.network:
        lines.append(
            f"  noise      on the network, epsilon {network.epsilon:g}, delta {network.delta:g} in each run"
        )
    return lines


def _parties(fetched: FetchedContract, own: str) -> list[str]:
    lines = ["Parties (compare fingerprints with each institution by another channel)"]
    verdicts = fetched.verdicts()
    for party in fetched.contract.parties:
        you = ", this node" if party.id == own else ""
        lines += [
            f"  {party.id} ({party.role}{you}): {verdicts[party.id]}",
            f"    fingerprint  {fingerprint(party.identity_key_bytes())}",
            *(f"    column       {_column(column)}" for column in party.columns),
        ]
    return lines


def _column(column: Column) -> str:
    direction = "" if column.monotone == "none" else f", {column.monotone}"
    return f"{column.name}: {column.kind}, at most {column.bins} bins{direction}, {column.classification}"
