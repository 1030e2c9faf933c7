"""Pairwise masks that cancel in a sum over a group of parties.

Every two parties of a group share a secret that their session derives from their ephemeral keys; both expand it to
the same words of Z_2^64, one adds them and the other subtracts them. Whoever adds up the contributions of the whole
group sees the sum and nothing else, as long as two members of the group do not give their secrets away. The arithmetic is
that of :mod:`fedshare.sealed.masked_sum`.

Assumes: if a group member disappears, the run ends or the sum is made anew under another purpose, so no mask ever has
to be recovered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedshare.sealed import masked_sum

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from fedshare.identity.session import Session

__all__ = ["masked", "sign_towards"]


def sign_towards(party: str, peer: str) -> int:
    """Return +1 for the first of the two names in order and -1 for the other, so that the pair cancels."""
    return 1 if party < peer else -1


def masked(
    words: NDArray[np.int64], session: Session, group: Iterable[str], purpose: str
) -> NDArray[np.int64]:
    """Return ``words`` plus the masks that this party shares with every other member of ``group``, modulo 2^64.

    Args:
        words: shape ``[count]``; may be empty.
        group: names of the parties whose contributions will be added up; this party may be among them.
        purpose: says which sum this is; used for one sum only within a session.
    """
    return masked_sum.masked(
        words,
        [
            (sign_towards(session.party, peer), session.shared_secret(peer, f"mask|{purpose}"))
            for peer in group
            if peer != session.party
        ],
    )
