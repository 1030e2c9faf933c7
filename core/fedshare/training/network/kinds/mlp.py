"""A multilayer perceptron with embeddings for categorical columns (Gorishniy et al. 2021, section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from .embeddings import Embeddings

if TYPE_CHECKING:
    from fedshare.training.network.inputs import Schema

__all__ = ["mlp"]


class _Mlp(nn.Module):
    def __init__(self, schema: Schema, hidden: int, layers: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.embeddings = Embeddings(schema, embedding)
        widths = [self.embeddings.width, *[hidden] * layers]
        steps: list[nn.Module] = []
        for index in range(layers):
            steps += [nn.Linear(widths[index], hidden), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*steps, nn.Linear(widths[-1], 1))

    def forward(self, numeric: Tensor, categories: Tensor) -> Tensor:
        scores: Tensor = self.layers(self.embeddings(numeric, categories)).squeeze(-1)
        return scores


def mlp(
    schema: Schema, *, hidden: int = 64, layers: int = 2, embedding: int = 4, dropout: float = 0.0
) -> nn.Module:
    """Return the network.

    Args:
        hidden: width of the hidden layers.
        layers: how many of them.
        embedding: numbers per category.
        dropout: share of hidden units left out of each step.
    """
    return _Mlp(schema, hidden, layers, embedding, dropout)
