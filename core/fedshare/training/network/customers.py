"""One bank's customers and the network that stands at them: scores, losses, and parameters as one vector.

The log-odds of a customer are ``network(inputs) + own intercept + offset``. The own intercept is zero unless each bank has
one; it is trained with the network and never leaves the bank. The offset is what other parties' columns add, and is not
trained here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedshare.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .inputs import Inputs

__all__ = ["NetworkCustomers"]

# Rows that a network scores at once: keeps its activations within some 100 MiB.
_CHUNK_ROWS = 65_536


class NetworkCustomers:
    """See the module. Tensors are on the CUDA device if there is one.

    Attributes:
        network: the module.
        intercept: the bank's own, a scalar parameter.
        has_own_intercept: whether it is trained.
        device: where the tensors are.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Inputs,
        labels: NDArray[np.float64],
        weights: NDArray[np.float64],
        training: NDArray[np.bool_],
        *,
        own_intercept: bool = False,
    ) -> None:
        """Take the customers.

        Args:
            network: called as ``network(numeric, categories)``.
            inputs: of ``c`` customers.
            labels: 0 or 1, or debiased noisy labels, shape ``[c]``.
            weights: above 0, shape ``[c]``.
            training: which customers train, shape ``[c]``; the others are held out.
            own_intercept: whether this bank has an intercept of its own.

        Raises:
            ParameterError: the lengths differ, or a label or weight is not finite.
        """
        count = len(inputs.numeric)
        if not count == len(inputs.categories) == len(labels) == len(weights) == len(training):
            raise ParameterError("inputs, labels, weights and training must be as many")
        if not (np.isfinite(labels).all() and np.isfinite(weights).all()):
            raise ParameterError("labels and weights must be finite")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.to(self.device)
        self.intercept = nn.Parameter(torch.zeros((), device=self.device))
        self.has_own_intercept = own_intercept
        self._numeric = self._tensor(inputs.numeric)
        self._categories = self._tensor(inputs.categories)
        self._labels = self._tensor(labels.astype(np.float32))
        self._weights = self._tensor(weights.astype(np.float32))
        self._offsets = torch.zeros(count, device=self.device)
        self.training_rows = torch.from_numpy(np.flatnonzero(training)).to(self.device)
        self._holdout_rows = torch.from_numpy(np.flatnonzero(~training)).to(self.device)

    def set_offsets(self, offsets: NDArray[np.float64]) -> None:
        """Take what other parties' columns add to each customer's log-odds, shape ``[c]``."""
        self._offsets = self._tensor(offsets.astype(np.float32))

    def parameters(self) -> NDArray[np.float64]:
        """Return the network's parameters as one vector, shape ``[P]``."""
        vector = nn.utils.parameters_to_vector(self.network.parameters())
        found: NDArray[np.float64] = vector.detach().cpu().numpy().astype(np.float64)
        return found

    def load(self, vector: NDArray[np.float64]) -> None:
        """Set the network's parameters."""
        with torch.no_grad():
            nn.utils.vector_to_parameters(self._tensor(vector.astype(np.float32)), self.network.parameters())

    def rows(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return numbers, categories, labels, weights and offsets of some customers."""
        return (
            self._numeric[rows],
            self._categories[rows],
            self._labels[rows],
            self._weights[rows],
            self._offsets[rows],
        )

    def batch_loss(self, rows: Tensor) -> Tensor:
        """Return the mean weighted log loss of some customers, in nats, with its gradients."""
        numeric, categories, labels, weights, offsets = self.rows(rows)
        scores = self.network(numeric, categories) + offsets + self.intercept
        loss: Tensor = (weights @ (functional.softplus(scores) - labels * scores)) / weights.sum()
        return loss

    def own_scores(self) -> NDArray[np.float64]:
        """Return the log-odds of every customer without the offsets, shape ``[c]``."""
        self.network.eval()
        with torch.no_grad():
            parts = zip(
                torch.split(self._numeric, _CHUNK_ROWS),
                torch.split(self._categories, _CHUNK_ROWS),
                strict=True,
            )
            scores = torch.cat([self.network(*part) for part in parts]) + self.intercept
        found: NDArray[np.float64] = scores.cpu().numpy().astype(np.float64)
        return found

    def losses(self) -> tuple[float, float]:
        """Return the weighted log loss of the training and of the held-out customers, in nats times weight."""
        scores = self.own_scores() + self._offsets.cpu().numpy()
        labels, weights = (each.cpu().numpy().astype(np.float64) for each in (self._labels, self._weights))
        with np.errstate(invalid="ignore"):  # what is not finite is found where it would be sent
            each = weights * (np.logaddexp(0.0, scores) - labels * scores)
        training, holdout = self.training_rows.cpu().numpy(), self._holdout_rows.cpu().numpy()
        return float(each[training].sum()), float(each[holdout].sum())

    def weight_sums(self) -> tuple[float, float]:
        """Return the weight of the training and of the held-out customers."""
        weights = self._weights.double()
        return float(weights[self.training_rows].sum()), float(weights[self._holdout_rows].sum())

    def _tensor(self, values: NDArray[np.float32] | NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
