"""Numbers of customers shown as bands as wide as the minimum cohort, and open before they come near a bank's size.

>>> band_of(count, minimum, min(cap_of(bank, minimum) for bank in sizes))
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Band", "band_of", "cap_of"]


@dataclass(frozen=True, slots=True)
class Band:
    """Between which bounds a number of customers lies.

    Attributes:
        at_least: the number is not smaller.
        below: and smaller than this; 0 if there is no upper bound. Both 0 says nothing.
    """

    at_least: int
    below: int


def band_of(count: int, minimum: int, cap: int) -> Band:
    """Return what may be shown of ``count``: a multiple of ``minimum`` and the next, or ``cap`` and more."""
    if count >= cap:
        return Band(cap, 0)
    low = count // minimum * minimum
    return Band(low, low + minimum)


def cap_of(customers: int, minimum: int) -> int:
    """Return the number from which bands stay open, 0 if none may be shown.

    It is ``minimum`` times a power of two, which says no more of ``customers`` than its order of magnitude, and leaves at least
    ``minimum`` customers of the bank that may not be shared.
    """
    room = customers // minimum - 1
    return minimum << (room.bit_length() - 1) if room > 0 else 0
