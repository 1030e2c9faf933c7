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

from fedshare.contract.banks import FEWEST_LEFT
from fedshare.errors import PartyLostError, ProtocolError, RunFailedError
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

    def __init__(self, party: str, banks: Sequence[str], *, repeats: bool = False) -> None:
        """Take part as ``party``; the first of ``banks`` adds up.

        ``repeats`` says whether the contract lets a total be repeated among the rest when another bank is lost.
        """
        self.leader = banks[0]
        self.others = tuple(bank for bank in banks if bank != party)
        self._party = party
        self._repeats = repeats
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
            PartyLostError: a bank was lost and the contract does not repeat sums.
            ProtocolError: a bank sent a vector of another length, or one that was not masked for this sum; or the leader
                leaves out a bank that is not lost.
            RunFailedError: too few banks are left.
        """
        while True:
            index, own = self._masked(channel, step, values, bits)
            if not self.others:
                return values.copy()
            words = (
                self._lead(channel, step, own, index)
                if self.leads
                else self._follow(channel, step, own, index)
            )
            if words is not None:
                return decode(words, bits=bits)

    def total_at_leader(
        self, channel: Channel, step: str, values: NDArray[np.float64], bits: int
    ) -> NDArray[np.float64] | None:
        """Return the sum at the leader, ``None`` at the others; arguments and errors as ``total``, but never repeated."""
        index, own = self._masked(channel, step, values, bits)
        if not self.leads:
            channel.send(self.leader, payload.MaskedVector(words=pack_words(own)), index)
            return None
        vectors, lost = self._gather(channel, step, len(own), index)
        if lost:
            raise PartyLostError(lost[0])
        return decode(_added_up([own, *vectors], step), bits=bits)

    def _masked(
        self, channel: Channel, step: str, values: NDArray[np.float64], bits: int
    ) -> tuple[int, NDArray[np.int64]]:
        """Return the number of a new sum, and this bank's vector under masks for it."""
        index = self._count
        self._count += 1
        banks = (self._party, *self.others)
        words = encode(values, bits=bits, parties=len(banks), what=f"{self._party}, {step}")
        return index, masked(words, channel.session, banks, f"bank sum/{index}")

    def _lead(
        self, channel: Channel, step: str, own: NDArray[np.int64], index: int
    ) -> NDArray[np.int64] | None:
        """Return the sum and tell the others; ``None`` if it has to be repeated without those who were lost."""
        vectors, lost = self._gather(channel, step, len(own), index)
        if lost:
            self._leave_out(step, lost)
            message = payload.BankTotal(lost=lost)
            total = None
        else:
            total = _added_up([own, *vectors], step)
            message = payload.BankTotal(words=pack_words(total))
        for bank in self.others:
            channel.send(bank, message, index)
        return total

    def _follow(
        self, channel: Channel, step: str, own: NDArray[np.int64], index: int
    ) -> NDArray[np.int64] | None:
        """Return the sum that the leader tells; ``None`` if it has to be repeated without those who were lost."""
        channel.send(self.leader, payload.MaskedVector(words=pack_words(own)), index)
        message = channel.receive(self.leader, payload.BankTotal, index)
        if message.lost:
            # Prevent a leader from taking a bank out of a sum that it has the bank's vector for.
            false = [bank for bank in message.lost if bank not in self.others or not channel.is_lost(bank)]
            if false or self.leader in message.lost:
                raise ProtocolError(f"{step}: {self.leader} leaves out banks that are not lost")
            self._leave_out(step, message.lost)
            return None
        words = unpack_words(message.words, len(own), f"{step}: the total of {self.leader}")
        _verify_range(words, step)
        return words

    def _gather(
        self, channel: Channel, step: str, count: int, index: int
    ) -> tuple[list[NDArray[np.int64]], list[str]]:
        """Return the others' vectors, and who was lost before theirs came."""
        vectors, lost = [], []
        for bank in self.others:
            try:
                words = channel.receive(bank, payload.MaskedVector, index).words
            except PartyLostError:
                lost.append(bank)
                continue
            vectors.append(unpack_words(words, count, f"{step}: the vector of {bank}"))
        return vectors, lost

    def _leave_out(self, step: str, lost: Sequence[str]) -> None:
        if not self._repeats:
            raise PartyLostError(lost[0])
        self.others = tuple(bank for bank in self.others if bank not in lost)
        if 1 + len(self.others) < FEWEST_LEFT:
            raise RunFailedError(
                f"{step}: {', '.join(lost)} lost; at least {FEWEST_LEFT} banks must be left for a sum that shows none of "
                "them"
            )


def _added_up(vectors: Sequence[NDArray[np.int64]], step: str) -> NDArray[np.int64]:
    total = add_up(vectors)
    _verify_range(total, step)
    return total


def _verify_range(words: NDArray[np.int64], step: str) -> None:
    """Check that masks cancelled: what remains of one is out of range in one word out of two."""
    if np.any(words > 2**62) or np.any(words < -(2**62)):
        raise ProtocolError(
            f"{step}: the banks' masks do not cancel; every bank must run the code that the contract names"
        )
