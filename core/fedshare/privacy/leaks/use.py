"""What the use of a model shows under a contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .bounds import columns_at_most

if TYPE_CHECKING:
    from fedshare.contract.model import Contract

__all__ = ["scoring_shows_bank", "scoring_shows_holder"]


def scoring_shows_holder(contract: Contract) -> list[str]:
    """Return what a feature holder learns where a model is used."""
    if contract.scoring is None:
        return []
    lines = [
        f"in scoring: how many identifiers each bank asks for and when, {contract.scoring.quota:,} or fewer each"
    ]
    if contract.scoring.profile is not None:
        lines.append(
            "in scoring: which enterprises consented to which bank's seeing a profile: they are named"
        )
    return lines


def scoring_shows_bank(contract: Contract) -> list[str]:
    """Return what a bank learns where a model is used."""
    scoring = contract.scoring
    if scoring is None:
        return []
    columns = columns_at_most(contract)
    changes = (
        f"how each changes over {columns:,} columns or fewer, and one more for every further serving run in which it is "
        "asked for, and counted, again: one that changes tells that some holder's columns did"
    )
    lines = [
        f"in scoring: the sum of the holders' scores of any {scoring.quota:,} enterprises, customers or not, and {changes}"
    ]
    lines += [
        f"in scoring: for each of these enterprises what {', '.join(group.columns)} of {group.party} add up to, in "
        f"whole points (reason group {group.name})"
        for group in scoring.reasons
    ]
    hidden = _hidden_by_groups(contract)
    if len(hidden) < 2 <= len(contract.holders()):
        whose = hidden[0] if hidden else "every holder"
        lines.append(
            f"in scoring: with these groups, for each of these enterprises the own score of {whose} to within the rounding "
            "of points: the groups leave nothing else in the sum"
        )
    if scoring.profile is not None:
        lines.append(
            "in scoring: of enterprises that consented by name, from each holder alone: "
            + ", ".join(scoring.profile.releases)
        )
        lines.append(
            "in scoring and training: which of its customers withdrew a consent under this contract, to whichever bank: "
            "holders leave their rows out from then on"
        )
    return lines


def _hidden_by_groups(contract: Contract) -> list[str]:
    """Return the holders some of whose columns are in no reason group: the others show their whole score by groups."""
    scoring = contract.scoring
    grouped = (
        {(group.party, name) for group in scoring.reasons for name in group.columns} if scoring else set()
    )
    return [
        holder.id
        for holder in contract.holders()
        if any((holder.id, column.name) not in grouped for column in holder.columns)
    ]
