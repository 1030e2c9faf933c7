"""Whom a bank lets into the sums of a run, so that no runs together show the sum over few of its customers.

Everybody who sees the sums of two runs sees their difference. If one customer came or went between them, the difference
of the counts per bin is that customer's row, and that of the first residuals its outcome. So a bank remembers, as keyed
hashes, over whom the sums of every run were, under whatever contract, and holds customers back:

- new customers, as long as they are fewer than the minimum cohort;
- beside customers that left, as many others that were in the same runs as them as make up the minimum cohort.

The rule covers every linear combination of the sums of all runs, not pairs alone. Customers that were in the same sums are
an *atom*; a combination has one coefficient per atom, and one that shows few customers is zero at every atom of the minimum
cohort. None exists if the membership of every smaller atom is a linear combination of those of the large ones. A customer
whose outcome or weight changed counts, for the sums of outcomes, as one that left and another that came; so does one whose
outcome changed whatever became of the weights, because after a change of their unit a multiple of the earlier sum compares.

    >>> held = hold_back(customers, groups, earlier, minimum_cohort, party="bank")
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np

from fedshare.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Marks", "hold_back"]

_ABSENT = -1


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """Customers as keyed hashes of 8 bytes; two of a million share one with a chance of 3e-8.

    Attributes:
        customers: of the identifiers, shape ``[n]``, uint64.
        outcomes: of identifier, outcome and weight together, shape ``[n]``.
        unweighted: of identifier and outcome, shape ``[n]``.
    """

    customers: NDArray[np.uint64]
    outcomes: NDArray[np.uint64]
    unweighted: NDArray[np.uint64]

    @classmethod
    def of(
        cls,
        key: bytes,
        identifiers: Sequence[bytes],
        labels: NDArray[np.float64],
        weights: NDArray[np.float64],
    ) -> Marks:
        """Return the marks under ``key``, 32 bytes that only this bank has; labels as training uses them."""
        unweighted = [
            struct.pack("<d", label) + each for label, each in zip(labels.tolist(), identifiers, strict=True)
        ]
        outcomes = [
            struct.pack("<d", weight) + each
            for weight, each in zip(weights.tolist(), unweighted, strict=True)
        ]
        return cls(
            _hashes(key, b"customer|", identifiers),
            _hashes(key, b"outcome|", outcomes),
            _hashes(key, b"unweighted|", unweighted),
        )

    def take(self, chosen: NDArray[np.bool_]) -> Marks:
        """Return the marks of the ``chosen``, in an order that says nothing."""
        return Marks(*(np.sort(each[chosen]) for each in self.kinds()))

    def kinds(self) -> tuple[NDArray[np.uint64], ...]:
        """Return the arrays, in the order of the attributes."""
        return self.customers, self.outcomes, self.unweighted


def hold_back(
    marks: Marks, groups: NDArray[np.int64], earlier: Sequence[Marks], minimum: int, *, party: str
) -> NDArray[np.bool_]:
    """Return which customers must not enter a run, shape ``[n]``.

    Args:
        marks: of all customers that could.
        groups: which of the run's sums each would enter, numbered from 0: those of training, or of held-out customers.
        earlier: who was in each sum of every earlier run.
        minimum: the minimum cohort.
        party: this bank, for the error.

    Raises:
        RefusedError: ``few_customers_changed``: too few of those who were in the same runs as a customer that left are still
            there to be held back with it. The message does not say how many.
    """
    if not len(groups):
        return np.zeros(0, dtype=np.bool_)
    levels = [
        _Level(now, [each.kinds()[kind] for each in earlier], int(groups.max()) + 1)
        for kind, now in enumerate(marks.kinds())
    ]
    places = groups.copy()
    # Each step holds back one customer more at least.
    while True:
        found = (level.problem(places, minimum, party) for level in levels)
        rows = next((each for each in found if each is not None), None)
        if rows is None:
            held: NDArray[np.bool_] = places == _ABSENT
            return held
        places[rows] = _ABSENT


class _Level:
    """The memberships of one kind of mark: a column per earlier sum, and one per sum of this run."""

    def __init__(
        self, now: NDArray[np.uint64], earlier: Sequence[NDArray[np.uint64]], group_count: int
    ) -> None:
        self._items, at = np.unique(np.concatenate([now, *earlier]), return_inverse=True)
        self._item_of_row = at[: len(now)]
        self._row_of_item = np.full(len(self._items), -1, dtype=np.int64)
        self._row_of_item[self._item_of_row] = np.arange(len(now))
        self._before = np.zeros((len(self._items), len(earlier)), dtype=np.bool_)
        for column, each in enumerate(earlier):
            self._before[np.searchsorted(self._items, each), column] = True
        self._group_count = group_count

    def problem(self, places: NDArray[np.int64], minimum: int, party: str) -> NDArray[np.int64] | None:
        """Return the rows to hold back next, or None if no combination of sums shows few customers."""
        place = np.full(len(self._items), _ABSENT)
        place[self._item_of_row] = places
        now = place[:, None] == np.arange(self._group_count)
        atoms, atom_of_item, sizes = _distinct(np.hstack([self._before, now]))
        past = atoms[:, : self._before.shape[1]]
        # What earlier sums show of few customers, under a smaller cohort, they show for good: such customers stay together.
        classes, class_of_atom, _ = _distinct(past)
        class_sizes = np.bincount(class_of_atom, sizes, len(classes)).astype(np.int64)
        shown = _outside(classes, class_sizes >= minimum)
        whole = shown[class_of_atom] & (sizes == class_sizes[class_of_atom])
        outside = _outside(atoms, (sizes >= minimum) | whole)
        if not outside.any():
            return None
        present = atoms[:, self._before.shape[1] :].any(axis=1)
        if (outside & present).any():
            return self._row_of_item[(outside & present)[atom_of_item]]
        left = int(np.argmax(outside))
        lacking = minimum - int(sizes[left])
        alike = present & (class_of_atom == class_of_atom[left]) & (sizes >= minimum + lacking)
        if not alike.any():
            raise RefusedError(
                "few_customers_changed",
                f"customers of earlier runs are gone, or have another outcome, and too few are left to hold {minimum} back "
                "together: the runs' difference would show them; take their earlier rows, or wait until more have changed",
                party=party,
                private=True,
            )
        # Items ascend by keyed hash: which come first says nothing about them.
        company = np.flatnonzero(atom_of_item == np.argmax(np.where(alike, sizes, 0)))[:lacking]
        return self._row_of_item[company]


def _distinct(
    rows: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct rows, which of them each row is, and how often each occurs."""
    if not rows.shape[1]:
        return rows[:1], np.zeros(len(rows), dtype=np.int64), np.array([len(rows)])
    packed = np.ascontiguousarray(np.packbits(rows, axis=1))
    words = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, of_row, counts = np.unique(words, return_index=True, return_inverse=True, return_counts=True)
    return rows[first], of_row.ravel().astype(np.int64), counts.astype(np.int64)


def _outside(memberships: NDArray[np.bool_], is_large: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which rows are no linear combination of the large ones, exactly; rows of zeros always are one.

    A row is one if it is orthogonal to all that the large ones are orthogonal to.
    """
    rows, columns = memberships.astype(np.int64), memberships.shape[1]
    orthogonal = [[int(at == other) for other in range(columns)] for at in range(columns)]
    while orthogonal:
        products = _products(rows, orthogonal)
        hits = np.flatnonzero((products[is_large] != 0).any(axis=1))
        if not len(hits):
            outside: NDArray[np.bool_] = (products != 0).any(axis=1) & ~is_large
            return outside
        values = [int(value) for value in products[is_large][hits[0]]]
        pivot = min((at for at, value in enumerate(values) if value), key=lambda at: abs(values[at]))
        orthogonal = [
            _shortened([values[pivot] * x - value * y for x, y in zip(each, orthogonal[pivot], strict=True)])
            for at, (each, value) in enumerate(zip(orthogonal, values, strict=True))
            if at != pivot
        ]
    return np.zeros(len(rows), dtype=np.bool_)


def _products(rows: NDArray[np.int64], vectors: list[list[int]]) -> NDArray[Any]:
    """Return the inner products of ``rows`` of zeros and ones with ``vectors``, exactly."""
    fits = max(abs(value) for each in vectors for value in each) < 2**62 // rows.shape[1]
    products: NDArray[Any] = rows @ np.array(vectors, dtype=np.int64 if fits else object).T
    return products


def _shortened(vector: list[int]) -> list[int]:
    divisor = gcd(*vector)
    return [value // divisor for value in vector]


def _hashes(key: bytes, domain: bytes, texts: Sequence[bytes]) -> NDArray[np.uint64]:
    digests = b"".join(hmac.digest(key, domain + text, "sha256")[:8] for text in texts)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
