"""Who learns what under one contract, in numbers, as text to read before signing."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from fedshare.identity.keys import fingerprint

from .between_banks import banks_learn, differences
from .bounds import bins_at_most, sums_at_most
from .ledger import LEDGER
from .use import scoring_shows_bank, scoring_shows_holder

if TYPE_CHECKING:
    from fedshare.contract.model import Contract, Party

    from .entry import Leak

__all__ = ["summarise"]

_SUMS = (
    "in every run first how many training customers are in each of its bins, small numbers included (0: no "
    "enterprise of the bin is one; as many as the bin has rows: all are), then sums of their residuals over bins of at least"
)
_EQUATIONS = (
    "where its columns alone nearly determine the score, it could set up and solve equations for who is a "
    "customer"
)
_TRAFFIC = (
    "which message goes from whom to whom, when, and its size; with that the sizes of universes, the number "
    "of identifiers asked for, the numbers of bins and of iterations"
)


def summarise(contract: Contract) -> str:
    """Return who learns what under ``contract``, as plain text to read before signing.

    Lines have 100 characters at most. Every number is an upper bound for all runs together.
    """
    runs = f"{contract.max_runs} run{'s' if contract.max_runs > 1 else ''}"
    parts = [f"What {runs} of contract {contract.name} ({contract.digest()[:12]}) tell each party, at most"]
    parts += [
        _section(f"{party.id} (feature_holder)", _holder_learns(contract, party))
        for party in contract.holders()
    ]
    parts += [_section(f"{party.id} (label_holder)", _bank_learns(contract)) for party in contract.banks()]
    parts.append(_section("the coordinator", _coordinator_learns(contract)))
    parts.append(
        _section(
            "an auditor with a copy of the log",
            [
                "this contract, who approved it, when runs and phases began and how they ended",
                "per phase and pair of parties the number and size of the messages, and a digest of them",
                "that all parties pinned down the same model"
                + ("; its metrics" if contract.outputs.coordinator_metrics else ""),
            ],
        )
    )
    parts.append("Message by message")
    parts += [_message(leak) for leak in LEDGER if leak.occurs(contract)]
    parts.append(
        _section(
            "Before you sign, compare these fingerprints with each institution, not through the coordinator",
            [f"{party.id}: {fingerprint(party.identity_key_bytes())}" for party in contract.parties],
        )
    )
    return "\n\n".join(parts) + "\n"


def _holder_learns(contract: Contract, holder: Party) -> list[str]:
    bins, queries = bins_at_most(holder), contract.model.max_iterations + 1
    sums, cohort = sums_at_most(contract, holder), contract.minimum_cohort
    counted = f"{bins:,} bins x {queries:,} queries x {contract.max_runs:,} runs = {sums:,} sums"
    return [
        f"how many identifiers each bank asks for, {contract.alignment.quota:,} or fewer, and not which",
        f"{counted} over all banks: {_SUMS} {cohort:,}",
        differences(contract),
        f"if its universe has fewer than {sums:,} rows: {_EQUATIONS}",
        "how the bank weighs the directions of all holders together",
        *_label_noise(contract),
        *scoring_shows_holder(contract),
    ]


def _label_noise(contract: Contract) -> list[str]:
    """Return what randomised response takes away from the sums."""
    epsilon = contract.label_epsilon()
    if epsilon is None:
        return []
    reach = "over all runs of this contract and of others with the same epsilon, within one label epoch"
    return [f"nothing of one outcome beyond label privacy of epsilon {epsilon:g}, {reach}"]


def _portfolio_shows(contract: Contract) -> list[str]:
    """Return what every bank learns of the portfolio of all banks."""
    agreed = contract.portfolio
    if agreed is None:
        return []
    cells = len(agreed.cells("industry")) + len(agreed.cells("region"))
    cohort, everyone = f"{contract.minimum_cohort:,}", "of all banks together"
    changes = "small numbers included, and how many changed since each earlier run"
    amounts = f"exposure and expected loss of {cohort} customers or more at a time"
    return [
        f"{everyone}: customers in each of {cells:,} cells by industry or region, {changes}",
        f"{everyone}: {amounts}, and how they changed since an earlier run if {cohort} or more customers did",
        f"by subtracting its own part: the same of all others, again of {cohort} customers or more",
        f"{everyone}: which of these cells some bank objects to show, for lack of customers of the others",
        "of such an amount one large customer may be the most: then it shows about what that one owes",
        "the tables by industry and by region each keep this by themselves, not against one another",
        "of a bank that joins or leaves, by comparing with a contract without it: its own part of these sums",
    ]


def _bank_learns(contract: Contract) -> list[str]:
    holders, quota = contract.holders(), contract.alignment.quota
    if not holders:
        return [
            *(f"of the other banks: {line}" for line in banks_learn(contract)),
            *_portfolio_shows(contract),
        ]
    known = (
        "which of its customers are on the public roster or known to every holder"
        if contract.alignment.missing_enterprises == "impute"
        else "which of its customers each holder knows"
    )
    lines = [
        "the size of every holder's universe and the number of its bins",
        known,
        f"the same of any other enterprise: {quota:,} identifiers at each holder, and nobody sees which",
    ]
    iterations = f"{contract.model.max_iterations:,} directions"
    if len(holders) == 1:
        lines.append(
            f"for each of its customers the partial scores of {holders[0].id} itself along {iterations}: "
            "there is no second holder to hide behind"
        )
    else:
        lines.append(
            f"for each of its customers the sum of the partial scores of {len(holders)} holders along "
            f"{iterations}; a holder's own only if all other holders help the bank"
        )
    lines.append("which of its customers are in equal bins at all holders: they have equal sums")
    lines += [f"of the other banks: {line}" for line in banks_learn(contract)]
    return [*lines, *_portfolio_shows(contract), *scoring_shows_bank(contract)]


def _coordinator_learns(contract: Contract) -> list[str]:
    shown = (
        "the training loss after every iteration; at the end the number of iterations, and AUC and KS of the "
        "shared and of the bank's own model"
        if contract.outputs.coordinator_metrics
        else "no loss, no AUC, no KS"
    )
    return [
        "this contract: parties, names of columns, terms",
        _TRAFFIC,
        "how far every party is, and why it stopped if it did, without data",
        shown,
    ]


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([title, *(_wrap("  - ", line) for line in lines)])


def _message(leak: Leak) -> str:
    where = f"{leak.phase + ': ' if leak.phase else ''}{leak.sender} -> {leak.recipient}"
    return "\n".join(
        [
            f"  {leak.message}  ({where}, {'sealed' if leak.sealed else 'not sealed'})",
            _wrap("    needed for      ", leak.needed),
            _wrap("    feature_holder  ", leak.feature_holder),
            _wrap("    label_holder    ", leak.label_holder),
            _wrap("    coordinator     ", leak.coordinator),
            _wrap("    auditor         ", leak.auditor),
        ]
    )


def _wrap(head: str, text: str) -> str:
    return textwrap.fill(
        text, 100, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False
    )
