"""Randomised response on outcomes: what a bank uses of its labels instead of them.

A label is flipped with probability ``pi = 1 / (1 + exp(epsilon))`` (Warner 1965), once: the flip follows from a secret of
the node, the label epoch, epsilon and the identifier, so that every run of every contract sees the same noisy label, and
no number of runs or iterations tells more than the first. All that is computed from noisy labels is post-processing:
pure epsilon-label privacy (Ghazi et al. 2021, "Deep Learning with Label Differential Privacy", section 2).

Training uses the debiased label ``(y' - pi) / (1 - 2 pi)``, whose mean over the flips is the label. The log loss is linear in
the label, so it is unbiased and stays convex.

    >>> used = training_labels(labels, identifiers, key, "2026", 2.0)

Another epsilon in the same epoch draws flips that are independent of the first: the two add up
(``fedshare.privacy.budget``). Flips that shared their draw would show the label wherever they differ.
"""

from __future__ import annotations

import hmac
import math
from typing import TYPE_CHECKING

import numpy as np

from fedshare.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["debias", "flip_probability", "label_bound", "randomise", "training_labels"]

_KEY_BYTES = 32
#: Beyond it a flip is rarer than one in 10^8, and 64 bits would show in its probability.
_LARGEST_EPSILON = 20.0


def flip_probability(epsilon: float) -> float:
    """Return pi, between 0 and 1/2.

    Raises:
        ParameterError: ``epsilon`` is not above 0 and at most 20.
    """
    if not 0.0 < epsilon <= _LARGEST_EPSILON:
        raise ParameterError(
            f"expected a label epsilon above 0 and up to {_LARGEST_EPSILON:g}, got {epsilon}"
        )
    return 1.0 / (1.0 + math.exp(epsilon))


def label_bound(epsilon: float | None) -> float:
    """Return the largest magnitude of a debiased label, and of p - y with it; 1 without label privacy."""
    if epsilon is None:
        return 1.0
    flip = flip_probability(epsilon)
    return (1.0 - flip) / (1.0 - 2.0 * flip)


def randomise(
    labels: NDArray[np.float64], identifiers: Sequence[bytes], key: bytes, epoch: str, epsilon: float
) -> NDArray[np.float64]:
    """Return the noisy labels, 0 or 1, shape ``[c]``.

    Args:
        labels: 0 or 1, shape ``[c]``.
        identifiers: of the customers, in the same order.
        key: the node's secret for this purpose, 32 bytes; who knows it can undo the flips.
        epoch: which outcome of a customer this is; an outcome that is defined anew needs a new epoch.
        epsilon: privacy of one label, above 0 and up to 20.

    Raises:
        ParameterError: the key has another length, epsilon is outside its range, or the lengths differ.
    """
    if len(key) != _KEY_BYTES or len(labels) != len(identifiers):
        raise ParameterError(f"expected a key of {_KEY_BYTES} bytes and one identifier per label")
    # Rounded up, so that no flip is less likely than epsilon asks for.
    threshold = math.ceil(flip_probability(epsilon) * 2**64)
    context = f"fedshare label noise v1|{epsilon!r}|{len(epoch)}|{epoch}|".encode()
    draws = (
        int.from_bytes(hmac.digest(key, context + identifier, "sha256")[:8], "big")
        for identifier in identifiers
    )
    flips = np.fromiter((draw < threshold for draw in draws), dtype=np.bool_, count=len(identifiers))
    noisy: NDArray[np.float64] = np.where(flips, 1.0 - labels, labels)
    return noisy


def debias(noisy: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    """Return the debiased labels of ``noisy`` ones; their mean over the flips is the label."""
    flip = flip_probability(epsilon)
    debiased: NDArray[np.float64] = (noisy - flip) / (1.0 - 2.0 * flip)
    return debiased


def training_labels(
    labels: NDArray[np.float64],
    identifiers: Sequence[bytes],
    key: bytes,
    epoch: str,
    epsilon: float | None,
) -> NDArray[np.float64]:
    """Return what training uses instead of ``labels``: debiased noisy ones, the labels themselves without an epsilon.

    Arguments and errors as in ``randomise``.
    """
    if epsilon is None:
        return labels
    return debias(randomise(labels, identifiers, key, epoch, epsilon), epsilon)
