"""How the common network follows from the banks' mean update. Every bank computes it, from the same sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from fedshare.contract.network import NetworkModel

__all__ = ["FedAdam", "server_step"]

# Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2 and section 4: the values of their experiments.
_BETA_1 = 0.9
_BETA_2 = 0.99
_ADAPTIVITY = 1e-3


class FedAdam:
    """Adam with the mean update in place of a gradient; no bias correction, as in the paper.

    Operations are exact to the bit by IEEE 754, so that all banks stay at the same network.
    """

    def __init__(self, learning_rate: float) -> None:
        self._learning_rate = learning_rate
        self._mean: NDArray[np.float64] | None = None
        self._square: NDArray[np.float64] | None = None

    def __call__(self, update: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the step to take, shape ``[P]``."""
        mean = np.zeros_like(update) if self._mean is None else self._mean
        square = np.full_like(update, _ADAPTIVITY**2) if self._square is None else self._square
        self._mean = _BETA_1 * mean + (1.0 - _BETA_1) * update
        self._square = _BETA_2 * square + (1.0 - _BETA_2) * update * update
        return self._learning_rate * self._mean / (np.sqrt(self._square) + _ADAPTIVITY)


def server_step(model: NetworkModel) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Return what turns mean updates, one after the other, into steps of the common network."""
    return FedAdam(model.server_learning_rate) if model.algorithm == "fedadam" else lambda update: update
