"""Whether two runs are far enough apart that the difference of their sums says nothing of a single customer.

A feature holder sees, run after run, the training customers per bin and sums of their residuals. If one customer came
or went between two runs, the difference of the counts is that customer's row of bins, and the holder looks up whose it
is; if one outcome changed, the difference of the first sums says whose and how. So a bank trains on the very customers
and outcomes of an earlier run, or on a set that differs from it by at least the minimum cohort. It remembers whom it
trained on as keyed hashes.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedshare.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["TrainedOn", "verify_apart"]

_HASH_BYTES = 8


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """Whom a run trained on: one keyed hash of 8 bytes each, sorted.

    Attributes:
        customers: of the identifiers.
        outcomes: of identifier, label and weight together.
    """

    customers: bytes
    outcomes: bytes

    @classmethod
    def of(
        cls,
        key: bytes,
        identifiers: Sequence[bytes],
        labels: NDArray[np.float64],
        weights: NDArray[np.float64],
    ) -> TrainedOn:
        """Return the hashes under ``key``, 32 bytes that only this bank has."""
        numbers = zip(labels.tolist(), weights.tolist(), strict=True)
        ends = [struct.pack("<dd", *each) for each in numbers]
        return cls(
            _hashes(key, b"customer|", identifiers),
            _hashes(key, b"outcome|", [end + each for end, each in zip(ends, identifiers, strict=True)]),
        )

    def least_difference(self, other: TrainedOn) -> int:
        """Return by how many customers the two differ, or by how many outcomes if that is fewer; 0 only if by none."""
        differences = {
            _difference(self.customers, other.customers),
            _difference(self.outcomes, other.outcomes),
        } - {0}
        return min(differences, default=0)


def verify_apart(now: TrainedOn, before: TrainedOn, minimum_cohort: int, party: str) -> None:
    """Check that a run on ``now`` after one on ``before`` shows nothing of fewer customers than the minimum cohort.

    Raises:
        RefusedError: it would; the message does not say how many differ.
    """
    if 0 < now.least_difference(before) < minimum_cohort:
        raise RefusedError(
            "few_customers_changed",
            f"training customers or their outcomes differ from those of an earlier run for fewer than {minimum_cohort}: "
            "a holder could tell from the difference who they are; train on the earlier rows, or when more have changed",
            party=party,
        )


def _hashes(key: bytes, domain: bytes, texts: Sequence[bytes]) -> bytes:
    digests = b"".join(hmac.digest(key, domain + text, "sha256")[:_HASH_BYTES] for text in texts)
    return np.sort(np.frombuffer(digests, dtype="<u8")).tobytes()


def _difference(one: bytes, other: bytes) -> int:
    """Return the larger number of hashes that only one of the two has."""
    ours, theirs = np.frombuffer(one, dtype="<u8"), np.frombuffer(other, dtype="<u8")
    common = len(np.intersect1d(ours, theirs, assume_unique=True))
    return max(len(ours), len(theirs)) - common
