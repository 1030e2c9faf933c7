"""Categories as vectors of a learned table, beside the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from fedshare.training.network.inputs import Schema

__all__ = ["Embeddings"]


class Embeddings(nn.Module):
    """One row of numbers per customer: the numeric ones, then a vector of ``size`` per categorical column."""

    def __init__(self, schema: Schema, size: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(count, size) for count in schema.categories)
        self.width = schema.numeric + size * len(schema.categories)

    def forward(self, numeric: Tensor, categories: Tensor) -> Tensor:
        """Return float32 of shape ``[n, width]``."""
        vectors = [table(categories[..., index]) for index, table in enumerate(self.tables)]
        return torch.cat([numeric, *vectors], dim=-1)
