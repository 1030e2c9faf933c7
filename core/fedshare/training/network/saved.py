"""A network that was trained, as a bank kept it, applied to rows that training never saw."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from fedshare.credit.column import ColumnBins
from fedshare.errors import ConfigError, DataError

from .inputs import Schema, encode
from .registry import build_network

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedshare.contract.network import NetworkModel
    from fedshare.credit.bins import ColumnTable

__all__ = ["SavedNetwork"]


class SavedNetwork:
    """See the module.

    Attributes:
        column_names: what it needs of a row.
    """

    def __init__(self, document: Mapping[str, Any], model: NetworkModel) -> None:
        """Build the network that ``document``, a part of ``result.json``, describes.

        Args:
            document: bins of the inputs, parameters (little-endian float32 in base64) and intercept.
            model: what the contract says of the network.

        Raises:
            ConfigError: the document is damaged, or describes a network of another size.
        """
        try:
            self._columns = [ColumnBins.from_dict(column) for column in document["inputs"]]
            vector = np.frombuffer(base64.b64decode(document["parameters"], validate=True), dtype="<f4")
            self._intercept = float(document["intercept"])
        except (KeyError, TypeError, ValueError, DataError) as error:
            raise ConfigError("the saved network of the training run is damaged: name another run") from error
        sizes = tuple(each.size for each in self._columns if each.kind == "categorical")
        with torch.random.fork_rng():
            self._network = build_network(model, Schema(2 * (len(self._columns) - len(sizes)), sizes))
        expected = sum(each.numel() for each in self._network.parameters())
        if len(vector) != expected or not np.isfinite((*vector, self._intercept)).all():
            raise ConfigError(f"the saved network of the training run has not {expected} finite parameters")
        with torch.no_grad():
            nn.utils.vector_to_parameters(torch.from_numpy(vector.copy()), self._network.parameters())
        self._network.eval()
        self.column_names = [column.name for column in self._columns]

    def scores(self, table: ColumnTable, *, party: str = "") -> NDArray[np.float64]:
        """Return what the network adds to the log-odds of every row, its intercept included, shape ``[n]``.

        Raises:
            DataError: a column is missing, or a cell of a numeric one is text or infinite.
        """
        inputs = encode(self._columns, table, party=party)
        with torch.no_grad():
            scores = self._network(torch.from_numpy(inputs.numeric), torch.from_numpy(inputs.categories))
        found: NDArray[np.float64] = scores.numpy().astype(np.float64) + self._intercept
        return found
