"""Sums over the banks of a run, which show each bank the sum and nothing of another bank.

Every bank masks its vector with the secrets it shares with each other bank (``masks``) and sends it, sealed, to the
*leader*, the first bank of the contract. The leader adds up what comes and sends the total back, sealed again. So the
coordinator sees ciphertexts only, and the leader sees vectors under masks that it cannot take off: docs/adr/0003. What
becomes of a sum that a bank is lost from, the contract says: the run ends, the rest makes the sum anew, or the sum
of the rest is recovered (:mod:`.recoverable_sum`).

    sums = BankSums(party, [bank.id for bank in contract.banks()], randomness)   # once per run
    total = sums.total(channel, "bin counts", counts, bits=0)            # at every bank, in the same order
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fedshare.contract.banks import FEWEST_LEFT, FEWEST_TO_RECOVER
from fedshare.errors import PartyLostError
from fedshare.sealed.masked_sum import add_up, decode, encode
from fedshare.sealed.recovery import threshold
from fedshare.wire.v1 import payload_pb2 as payload

from .masks import masked
from .recoverable_sum import RecoverableSum, rest, verify_losses
from .words import pack_words, unpack_words, verify_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from fedshare.sealed.randomness import Randomness

    from .channel import Channel
    from .distinct_customers import Columns, DistinctCustomers

__all__ = ["BankSums"]


class BankSums:
    """One bank's part in all sums of one run. Every bank asks for the same sums in the same order.

    Attributes:
        banks: those that are left, in the contract's order; the same at every bank between two sums.
        distinct: if set, training sums leave out the other bank's customers that the leader has too.
    """

    def __init__(
        self,
        party: str,
        banks: Sequence[str],
        randomness: Randomness,
        *,
        lost_bank: Literal["end", "repeat", "recover"] = "end",
        fewest: int = FEWEST_LEFT,
    ) -> None:
        """Take part as ``party``; the first of ``banks`` adds up.

        Args:
            party: one of ``banks``.
            banks: in the contract's order.
            randomness: of this bank, for sums that survive a loss.
            lost_bank: what the contract says of the loss of a bank other than the first.
            fewest: how many banks must be left.
        """
        self.banks = tuple(banks)
        self._party = party
        self._randomness = randomness
        self._lost_bank = lost_bank
        self._fewest = fewest
        self._count = 0
        self.distinct: DistinctCustomers | None = None

    @property
    def leader(self) -> str:
        """The bank that adds up."""
        return self.banks[0]

    @property
    def leads(self) -> bool:
        """Whether this party is the one that adds up."""
        return self._party == self.leader

    @property
    def others(self) -> tuple[str, ...]:
        """The other banks that are left."""
        return tuple(bank for bank in self.banks if bank != self._party)

    @property
    def roundings(self) -> int:
        """How many numbers are rounded for an entry of a training sum, at most."""
        return 1 + len(self.others) + (self.distinct.rows if self.distinct else 0)

    def total(
        self, channel: Channel, step: str, values: NDArray[np.float64], bits: int
    ) -> NDArray[np.float64]:
        """Return the sum of every bank's ``values``, exact to half a step of 2^-``bits`` per bank.

        Args:
            channel: of the phase.
            step: names the sum in errors, without data; the same at every bank.
            values: this bank's vector, shape ``[n]``, the same n at every bank; magnitudes below
                ``masked_sum.limit(bits, banks)``.
            bits: fractional bits, the same at every bank.

        Raises:
            ParameterError: a value is not finite or outside the range; nothing has been sent.
            PartyLostError: a bank was lost and the contract goes on without none.
            ProtocolError: a bank sent a vector of another length, or one that was not masked for this sum; or a bank
                is left out that is not lost.
            RunFailedError: too few banks are left.
        """
        fewest = self._fewest
        if self._recovers():
            fewest = max(fewest, threshold(len(self.banks)))
        while True:
            index, words = self._encoded(step, values, bits)
            if not self.others:
                return values.copy()
            total, self.banks = (
                RecoverableSum(channel, self.banks, step, index, self._randomness).total(words, fewest)
                if self._recovers()
                else self._plain(channel, step, words, index, fewest)
            )
            if total is not None:
                return decode(total, bits=bits)

    def total_over(
        self, banks: tuple[str, ...], channel: Channel, step: str, values: NDArray[np.float64], bits: int
    ) -> NDArray[np.float64] | None:
        """Return the sum over all of ``banks``, ``None`` at every bank if one of them has been lost: no other sum is opened.

        For sums that, beside another one over these banks, would show what a lost bank had. The rest as ``total``.
        """
        if self.banks != banks:
            return None
        index, words = self._encoded(step, values, bits)
        if not self.others:
            return values.copy()
        total, self.banks = self._plain(channel, step, words, index, self._fewest)
        return None if total is None else decode(total, bits=bits)

    def total_at_leader(
        self,
        channel: Channel,
        step: str,
        values: NDArray[np.float64],
        bits: int,
        columns: Columns = lambda _rows: (),
    ) -> NDArray[np.float64] | None:
        """Return the sum at the leader, ``None`` at the others; arguments and errors as ``total``, but no loss is survived.

        Of customers that ``distinct`` drops it leaves out what ``columns`` says of each: for every entry of ``values``, what
        each of the given rows adds to it. The leader, who drops nobody, need not say it.
        """
        index, words = self._encoded(step, values, bits)
        if self.distinct:
            words += self.distinct.at_leader(channel, step, len(values), bits, columns)
        own = self._masked(channel, step, words, index)
        if not self.leads:
            channel.send(self.leader, payload.MaskedVector(words=pack_words(own)), index)
            return None
        vectors, lost = self._gather(channel, step, len(own), index)
        if lost:
            raise PartyLostError(lost[0])
        return decode(_added_up([own, *vectors], step), bits=bits)

    def _recovers(self) -> bool:
        """Whether the next sum survives a loss: three banks that are left go on as long as all of them do."""
        return self._lost_bank == "recover" and len(self.banks) >= FEWEST_TO_RECOVER

    def _encoded(self, step: str, values: NDArray[np.float64], bits: int) -> tuple[int, NDArray[np.int64]]:
        """Return the number of a new attempt at a sum, and this bank's vector in fixed point."""
        index = self._count
        self._count += 1
        return index, encode(values, bits=bits, parties=len(self.banks), what=f"{self._party}, {step}")

    def _masked(self, channel: Channel, step: str, words: NDArray[np.int64], index: int) -> NDArray[np.int64]:
        # The step: banks that are made to be at different sums must not have masks that cancel.
        return masked(words, channel.session, self.banks, f"bank sum/{index}/{step}")

    def _plain(
        self, channel: Channel, step: str, words: NDArray[np.int64], index: int, fewest: int
    ) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
        """Return the sum, ``None`` if banks were lost in it and none was opened, and the banks that are left."""
        own = self._masked(channel, step, words, index)
        return (
            self._lead(channel, step, own, index, fewest)
            if self.leads
            else self._follow(channel, step, own, index, fewest)
        )

    def _lead(
        self, channel: Channel, step: str, own: NDArray[np.int64], index: int, fewest: int
    ) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
        vectors, lost = self._gather(channel, step, len(own), index)
        left = self._rest(step, lost, fewest)
        total = None if lost else _added_up([own, *vectors], step)
        message = payload.BankTotal(lost=lost, words=b"" if total is None else pack_words(total))
        for bank in left[1:]:
            channel.send(bank, message, index)
        return total, left

    def _follow(
        self, channel: Channel, step: str, own: NDArray[np.int64], index: int, fewest: int
    ) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
        channel.send(self.leader, payload.MaskedVector(words=pack_words(own)), index)
        message = channel.receive(self.leader, payload.BankTotal, index)
        if message.lost:
            verify_losses(channel, step, self.banks, self.leader, message.lost)
            return None, self._rest(step, message.lost, fewest)
        words = unpack_words(message.words, len(own), f"{step}: the total of {self.leader}")
        verify_range(words, step)
        return words, self.banks

    def _rest(self, step: str, lost: Sequence[str], fewest: int) -> tuple[str, ...]:
        if not lost:
            return self.banks
        if self._lost_bank == "end":
            raise PartyLostError(lost[0])
        return rest(step, self.banks, lost, fewest)

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


def _added_up(vectors: Sequence[NDArray[np.int64]], step: str) -> NDArray[np.int64]:
    total = add_up(vectors)
    verify_range(total, step)
    return total
