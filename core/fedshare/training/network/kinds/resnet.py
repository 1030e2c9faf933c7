"""The tabular residual network of Gorishniy et al. 2021, section 3.2, with layer instead of batch normalisation.

Batch normalisation keeps running means, which differ between banks, and lets one customer's gradient depend on the others
in its batch, which no clipping per customer can bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from .embeddings import Embeddings

if TYPE_CHECKING:
    from fedshare.training.network.inputs import Schema

__all__ = ["resnet"]


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.steps = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )

    def forward(self, values: Tensor) -> Tensor:
        added: Tensor = values + self.steps(values)
        return added


class _ResNet(nn.Module):
    def __init__(
        self, schema: Schema, width: int, hidden: int, blocks: int, embedding: int, dropout: float
    ) -> None:
        super().__init__()
        self.embeddings = Embeddings(schema, embedding)
        self.layers = nn.Sequential(
            nn.Linear(self.embeddings.width, width),
            *[_Block(width, hidden, dropout) for _ in range(blocks)],
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def forward(self, numeric: Tensor, categories: Tensor) -> Tensor:
        scores: Tensor = self.layers(self.embeddings(numeric, categories)).squeeze(-1)
        return scores


def resnet(
    schema: Schema,
    *,
    width: int = 64,
    hidden: int = 128,
    blocks: int = 2,
    embedding: int = 4,
    dropout: float = 0.1,
) -> nn.Module:
    """Return the network.

    Args:
        width: of the residual stream.
        hidden: width inside a block.
        blocks: how many of them.
        embedding: numbers per category.
        dropout: share of units left out of each step.
    """
    return _ResNet(schema, width, hidden, blocks, embedding, dropout)
