"""Logistic regression on the scaled numbers, with one coefficient per category."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from .embeddings import Embeddings

if TYPE_CHECKING:
    from fedshare.training.network.inputs import Schema

__all__ = ["logistic"]


class _Logistic(nn.Module):
    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.numeric = schema.numeric
        self.embeddings = Embeddings(schema, 1)
        self.linear = nn.Linear(schema.numeric, 1)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, numeric: Tensor, categories: Tensor) -> Tensor:
        coefficients = self.embeddings(numeric, categories)[..., self.numeric :]
        scores: Tensor = self.linear(numeric).squeeze(-1) + coefficients.sum(dim=-1)
        return scores


def logistic(schema: Schema) -> nn.Module:
    """Return a network without hidden layers, all of whose coefficients start at zero."""
    return _Logistic(schema)
