"""The roles with the sealing switched off: what the benchmark of an iteration compares with.

Residuals and scores travel as plain float64 of the whole universe, over the same Exchange and the same
messages; nothing is padded, masked or encrypted end to end. Alignment and preparation stay as they are. This exists here and
nowhere in the product; ``install`` changes the process that it is called in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from fedshare.identity.session import Session
from fedshare.wire.v1 import payload_pb2 as payload
from fedshare_clients.node import service
from fedshare_clients.node.feature_holder import FeatureHolder
from fedshare_clients.node.label_holder import LabelHolder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedshare_clients.node.channel import Channel

TAG = bytes(16)


class UnsealedFeatureHolder(FeatureHolder):
    """Takes the residual as it is and sends its scores as they are."""

    def _total(self, columns: Any, products: Mapping[str, Any]) -> np.ndarray:
        if any(isinstance(message, payload.CountQuery) for message in products.values()):
            return super()._total(columns, products)
        matrix = self._plain_matrix()
        return sum(
            (matrix.T @ np.frombuffer(message.ciphertext, dtype=np.float64) for message in products.values()),
            start=np.zeros(columns.columns),
        )

    def _plain_matrix(self) -> scipy.sparse.csr_array:
        """Return the one-hot matrix as the fastest product takes it, made once."""
        if not hasattr(self, "_sparse"):
            codes = self._design.codes
            ends = np.arange(0, codes.size + 1, codes.shape[1], dtype=np.int32)
            self._sparse = scipy.sparse.csr_array(
                (np.ones(codes.size), codes.ravel(), ends), shape=(len(codes), self._design.width)
            )
        return self._sparse

    def _release(self, channel: Channel, iteration: int, scores: np.ndarray) -> None:
        message = payload.SealedColumn(values=scores.tobytes(), penalty=self._block.penalty_row().tobytes())
        for bank in self._banks:
            channel.send(bank, message, iteration)


class UnsealedLabelHolder(LabelHolder):
    """Sends the residual as it is and adds up the scores."""

    def _product(self, channel: Channel, holder: str, query: int, values: np.ndarray) -> tuple[bytes, bytes]:
        if query == 0:
            return super()._product(channel, holder, query, values)
        vector = np.zeros(self._universe[holder])
        vector[self._positions[holder]] = values
        return vector.tobytes(), b""

    def _open(self, channel: Channel, iteration: int) -> tuple[np.ndarray, np.ndarray]:
        scores, penalty = np.zeros(len(self._aligned)), np.zeros(iteration + 1)
        for holder in self._holders:
            message = channel.receive(holder, payload.SealedColumn, iteration)
            scores += np.frombuffer(message.values, dtype=np.float64)[self._positions[holder]]
            penalty += np.frombuffer(message.penalty, dtype=np.float64)
        return scores, penalty


class _Plain:
    """An envelope's cipher that encrypts nothing."""

    def encrypt(self, _nonce: bytes, data: Any, _associated: bytes) -> bytes:
        return bytes(data) + TAG

    def decrypt(self, _nonce: bytes, data: bytes, _associated: bytes) -> bytes:
        return data[: -len(TAG)]


def install() -> None:
    """Make every node service of this process use these roles, and no encryption in envelopes."""
    service.FeatureHolder = UnsealedFeatureHolder
    service.LabelHolder = UnsealedLabelHolder
    Session._cipher = lambda *_: _Plain()
