"""What banks learn of one another under a contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .bounds import MAX_POINTS

if TYPE_CHECKING:
    from fedshare.contract.model import Contract
    from fedshare.contract.network import NetworkModel
    from fedshare.contract.privacy import NetworkPrivacy

__all__ = ["banks_learn", "differences"]

_HELD_OUT = (
    "how many banks have the minimum cohort of held-out customers in each range of scores; customers and outcomes over "
    "groups of scores in which two banks at least have it: if all of the others' outcomes in one are equal, each of them"
)


def differences(contract: Contract) -> str:
    """Return what runs say beside one another, to whoever sees sums over customers."""
    return (
        "by comparing runs, of any contract, sums over customers that came, left or have another outcome: of a bank over "
        f"{contract.minimum_cohort:,} or more together, which may be few in a single bin; if instead columns changed, what "
        "that moved between bins"
    )


def banks_learn(contract: Contract) -> list[str]:
    """Return what banks learn of one another; the first of them leads."""
    banks = contract.banks()
    if len(banks) == 1:
        return []
    if contract.privacy.network:
        return _private_banks_learn(contract.privacy.network, contract.max_runs)
    points = MAX_POINTS * (contract.model.max_iterations + 1)
    coarse, fine = (
        "customers of all banks in cells of its columns, each a factor of four wide",
        "in ranges with many customers 1/128 of the value",
    )
    leads = (
        f"{banks[0].id} only, which leads: training customers of all banks per bin and their weights and defaults in all; the "
        "loss and the gradient"
    )
    at = f"over all banks at {points:,} points at most, over bins with the minimum cohort of the others' customers"
    lines = [
        f"{coarse}, {fine}; small numbers included, not who",
        differences(contract),
        f"{leads} {at}",
        _HELD_OUT,
    ]
    if contract.bank_model:
        lines.append(_network_updates(contract, contract.bank_model))
    if not contract.holders():
        lines = [line for line in lines if not line.startswith(leads)]  # nobody leads a search
    if contract.between_banks.count_shared_customers:
        lines.append(
            f"of each: about how many customers it shares with this bank, in steps of {contract.minimum_cohort:,} and once for "
            "all runs (exactly, at the node of the earlier of two banks), and how many it has to a factor of two"
        )
    if contract.between_banks.drop_shared_customers:
        lines += _dropping_shows(*(bank.id for bank in banks))
    if contract.between_banks.lost_bank != "end":
        lines.append(
            "of a bank that is lost: the weight of its customers, and about its last update and losses, from the sums before "
            "and after"
        )
    return [*lines, _banks_hide(contract)]


def _banks_hide(contract: Contract) -> str:
    """Return who together would see one bank's part of a sum."""
    banks = len(contract.banks())
    if banks == 2:
        return "by subtracting its own part, all of this of the other bank alone: accepted by accept_two"
    if contract.between_banks.lost_bank == "end":
        return f"of another bank alone only if all others help: {banks} banks hide each other"
    if contract.between_banks.lost_bank == "repeat":
        return (
            "of another bank alone only if all others that are left help, or if the first bank and the coordinator do not keep "
            f"to the protocol: {banks} banks, {contract.fewest_banks()} at least, hide each other"
        )
    from fedshare.sealed.recovery import threshold  # noqa: PLC0415 - the ledger itself needs no NumPy

    return (
        f"of another bank alone only if {threshold(banks)} of {banks} banks put together what they have, the first one among "
        "them; after a loss, more than half of those that are left"
    )


def _dropping_shows(first: str, second: str) -> list[str]:
    """Return what two banks learn where the second one drops the customers that both have, and what it costs that one."""
    together = (
        f"by comparing runs, nobody whom {second} drops, for all stay together: who of {second} may be dropped has to take "
        f"part, with the same outcome and noise, in every later run of {second} under any contract, and who {first} had in "
        "every later one that drops; without them none begins"
    )
    merged = (
        f"{second} only: from bins that {first} merged though it has the minimum cohort there, that it shares some of them, "
        "nearly all if few; from other bins, how many at most; from contracts with other cohorts, about how many"
    )
    beside = (
        f"beside a run of {first} and {second} that drops nobody: {second}, whether anyone is dropped, from the models; "
        f"{first} and holders, how many per bin of theirs, which where it is none or all says it of each"
    )
    return [
        f"{first} only: how many training customers of {second} it has too, exactly in its node's memory, not which",
        merged,
        beside,
        together,
    ]


def _network_updates(contract: Contract, model: NetworkModel) -> str:
    """Return what banks see of one another's training of their network."""
    rounds = model.rounds
    if contract.holders():
        rounds += model.rounds_per_iteration * contract.model.max_iterations
    return (
        f"the network of kind {model.kind} itself, and after each of {rounds:,} rounds the mean update and loss over "
        "all banks; a network may remember single customers, and no noise hides them here"
    )


def _private_banks_learn(private: NetworkPrivacy, runs: int) -> list[str]:
    """Return what banks learn of one another from a private network."""
    bound = f"epsilon {private.epsilon:g} and delta {private.delta:g}"
    number = f"{runs:,} run{'s' if runs > 1 else ''}"
    return [
        f"the network and its noisy gradients, with {bound} for the presence of each customer in each of {number}"
    ]
