"""Sums over the banks of a run, which show each bank the sum and nothing of another bank.

Every bank masks its vector with the secrets it shares with each other bank (``masks``) and sends it, sealed, to the
*leader*, the first bank of the contract. The leader adds up what comes and sends the total back, sealed again. So the
coordinator sees ciphertexts only, and the leader sees vectors under masks that it cannot take off: docs/adr/0003.

    sums = BankSums(party, [bank.id for bank in contract.banks()])       # once per run
    total = sums.total(channel, "bin counts", counts, bits=0)            # at every bank, in the same order
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedshare.errors import ProtocolError
from fedshare.sealed.masked_sum import add_up, decode, encode
from fedshare.wire.v1 import payload_pb2 as payload

from .masks import masked
from .words import pack_words, unpack_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .channel import Channel

__all__ = ["BankSums"]


class BankSums:
    """One bank's part in all sums of one run. Every bank asks for the same sums in the same order."""

    def __init__(self, party: str, banks: Sequence[str]) -> None:
        """Take part as ``party``; the first of ``banks`` adds up."""
        self.leader = banks[0]
        self.others = tuple(bank for bank in banks if bank != party)
        self._party = party
        self._banks = tuple(banks)
        self._count = 0

    @property
    def leads(self) -> bool:
        """Whether this party is the one that adds up."""
        return self._party == self.leader

    def total(
        self, channel: Channel, step: str, values: NDArray[np.float64], bits: int
    ) -> NDArray[np.float64]:
        """Return the sum of every bank's ``values``, exact to half a step of 2^-``bits`` per bank.

        Args:
            channel: of the phase.
            step: names the sum in errors, without data.
            values: this bank's vector, shape ``[n]``, the same n at every bank; magnitudes below
                ``masked_sum.limit(bits, banks)``.
            bits: fractional bits, the same at every bank.

        Raises:
            ParameterError: a value is not finite or outside the range; nothing has been sent.
            ProtocolError: a bank sent a vector of another length, or one that was not masked for this sum.
        """
        collected = self.collect(channel, step, values, bits)
        if not self.others:
            return values.copy()
        index = self._count - 1
        if collected is not None:
            message = payload.BankTotal(words=pack_words(collected))
            for bank in self.others:
                channel.send(bank, message, index)
            return decode(collected, bits=bits)
        words = unpack_words(
            channel.receive(self.leader, payload.BankTotal, index).words,
            len(values),
            f"{step}: the total of {self.leader}",
        )
        _verify_range(words, step)
        return decode(words, bits=bits)

    def total_at_leader(
        self, channel: Channel, step: str, values: NDArray[np.float64], bits: int
    ) -> NDArray[np.float64] | None:
        """Return the sum at the leader, ``None`` at the others; arguments and errors as ``total``."""
        collected = self.collect(channel, step, values, bits)
        return None if collected is None else decode(collected, bits=bits)

    def collect(
        self, channel: Channel, step: str, values: NDArray[np.float64], bits: int
    ) -> NDArray[np.int64] | None:
        """Return the sum in fixed point at the leader, ``None`` at the others; as ``total`` otherwise."""
        index = self._count
        self._count += 1
        words = encode(values, bits=bits, parties=len(self._banks), what=f"{self._party}, {step}")
        own = masked(words, channel.session, self._banks, f"bank sum/{index}")
        if not self.leads:
            channel.send(self.leader, payload.MaskedVector(words=pack_words(own)), index)
            return None
        received = [
            unpack_words(
                channel.receive(bank, payload.MaskedVector, index).words,
                len(values),
                f"{step}: the vector of {bank}",
            )
            for bank in self.others
        ]
        total = add_up([own, *received])
        _verify_range(total, step)
        return total


def _verify_range(words: NDArray[np.int64], step: str) -> None:
    """Check that masks cancelled: what remains of one is out of range in one word out of two."""
    if np.any(words > 2**62) or np.any(words < -(2**62)):
        raise ProtocolError(
            f"{step}: the banks' masks do not cancel; every bank must run the code that the contract names"
        )
