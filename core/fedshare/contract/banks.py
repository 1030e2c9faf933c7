"""What a contract says about several banks: the section ``between_banks``, and what their columns must have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .model import Contract, Party

__all__ = ["FEWEST_LEFT", "FEWEST_TO_RECOVER", "BetweenBanks", "verify_banks", "verify_dropping"]

FEWEST_LEFT = 3
"""Banks that must be left after a loss: with two, each could subtract itself."""

FEWEST_TO_RECOVER = 4
"""Banks of a sum that survives a loss: with three, recovering would take the shares of the lost one itself."""

_SHARED = ("kind", "bins", "monotone", "categories")


class BetweenBanks(BaseModel):
    """What several banks agree on beside the model; with one bank it says nothing.

    Attributes:
        accept_two: with exactly two banks each can subtract its own part from every sum over both and so learns the
            other's: its counts and gradients, not its customers. Such a contract is refused unless this is true.
        personal_intercepts: whether every bank has an intercept of its own, which never leaves it, instead of
            one for all.
        count_shared_customers: whether every two banks learn about how many customers they share, not which. Such a customer
            counts once per bank either way.
        drop_shared_customers: whether, of two banks, the second one leaves its customers that the first one has too out of
            training, without learning which they are. Evaluation counts them once per bank.
        lost_bank: what the loss of a bank, other than the first, does to the training of a network without feature
            holders: ``end`` the run; ``repeat`` the sum that it is missing from among the rest; or ``recover`` the sum of
            the rest from the vectors that they have sent. Three banks at least must be left.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    accept_two: bool = False
    personal_intercepts: bool = False
    count_shared_customers: bool = False
    drop_shared_customers: bool = False
    lost_bank: Literal["end", "repeat", "recover"] = "end"


def verify_banks(banks: Sequence[Party], agreed: BetweenBanks) -> None:
    """Check that there is a bank, and that several can train one sub-model.

    Raises:
        ValueError: there is none; there are two and nobody accepted what follows; or their columns differ. The
            message names the columns and what differs.
    """
    if not banks:
        raise ValueError("a contract needs at least one label_holder")
    if len(banks) == 2 and not agreed.accept_two:
        raise ValueError(
            "with two label_holders each can subtract its own part from every sum and learns the other's counts and "
            "gradients; add a third one, or accept this with between_banks.accept_two: true"
        )
    first, *others = banks
    for other in others:
        if differences := _differences(first, other):
            raise ValueError(f"label_holders must have the same columns: {'; '.join(differences)}")
    if others:
        for column in first.columns:
            if column.kind == "categorical" and not column.categories:
                raise ValueError(
                    f"column {column.name} of several label_holders needs categories: the ones to tell apart"
                )


def verify_dropping(contract: Contract) -> None:
    """Check that all that shared customers are to be dropped from are sums over the customers of two banks.

    Raises:
        ValueError: the contract drops them and has something that is no such sum; the message names it.
    """
    if not contract.between_banks.drop_shared_customers:
        return
    if len(contract.banks()) != 2:
        raise ValueError(
            f"drop_shared_customers is for exactly two label_holders, found {len(contract.banks())}: of three, "
            "the last would have to drop whom neither of the others dropped; count the shared ones instead"
        )
    unsupported = {
        "bank_model": contract.bank_model is not None,
        "between_banks.personal_intercepts": contract.between_banks.personal_intercepts,
    }
    if found := [name for name, is_there in unsupported.items() if is_there]:
        raise ValueError(
            f"drop_shared_customers does not go with {', '.join(found)}: what comes of single customers there is no sum that "
            "some can be left out of"
        )


def _differences(first: Party, other: Party) -> list[str]:
    """Return how the columns of two banks differ, one sentence each."""
    mine = {column.name: column for column in first.columns}
    theirs = {column.name: column for column in other.columns}
    found = [f"{first.id} has {name}, {other.id} has not" for name in mine if name not in theirs]
    found += [f"{other.id} has {name}, {first.id} has not" for name in theirs if name not in mine]
    for name in mine.keys() & theirs.keys():
        found += [
            f"{name} has {field} {_shown(getattr(mine[name], field))} at {first.id} and "
            f"{_shown(getattr(theirs[name], field))} at {other.id}"
            for field in _SHARED
            if getattr(mine[name], field) != getattr(theirs[name], field)
        ]
    if not found and list(mine) != list(theirs):
        found.append(f"{first.id} and {other.id} list them in another order")
    return sorted(found)


def _shown(value: object) -> str:
    return f"({', '.join(value)})" if isinstance(value, tuple) else str(value)
