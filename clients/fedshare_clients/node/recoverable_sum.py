"""One attempt at a sum over banks that survives the loss of a bank: ``lost_bank: recover``.

The steps, all in envelopes; the first bank leads. The cryptography is that of :mod:`fedshare.sealed.recovery`.

1. Every bank draws a key and a self-mask seed for this attempt, and gives every other bank the public key and one share
   of each (``SumKeys``).
2. Every bank sends the leader its vector under all masks, or says whose keys never came (``MaskedVector``).
3. The leader says who was lost before its vector came (``SumOutcome``). If keys of a lost bank never came to somebody, the
   attempt ends here: nobody hands over a share, and its vectors stay hidden for good.
4. Every active bank hands over one share per bank, never both of one (``SumShares``).
5. The leader takes the masks off the sum and tells everyone the total (``BankTotal``).

Rules, whatever leader and coordinator say, as long as all other banks follow the protocol:

- A bank goes on only if the Exchange has told it of every loss that it hears of.
- Whoever goes on does so with ``fewest`` banks, more than half of those that began. Since banks meet only if they are at the
  same attempt, at the same sum, with the same banks (``purpose``), two groups cannot both go on: of any vector at most
  one sum is ever opened.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from fedshare.errors import PartyLostError, ProtocolError, RunFailedError
from fedshare.sealed.masked_sum import add_up
from fedshare.sealed.masked_sum import masked as masked_by_seeds
from fedshare.sealed.recovery import (
    SHARE_BYTES,
    RecoverableMask,
    join,
    missing_masks,
    threshold,
    verify_outcome,
)
from fedshare.wire.v1 import payload_pb2 as payload

from .masks import sign_towards
from .words import pack_words, unpack_words, verify_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from fedshare.sealed.randomness import Randomness

    from .channel import Channel

__all__ = ["RecoverableSum", "rest", "verify_losses"]

_KEY_BYTES = 32


def rest(step: str, banks: Sequence[str], lost: Iterable[str], fewest: int) -> tuple[str, ...]:
    """Return the banks that are left.

    Raises:
        RunFailedError: fewer than ``fewest``.
    """
    gone = set(lost)
    left = tuple(bank for bank in banks if bank not in gone)
    if len(left) < fewest:
        raise RunFailedError(
            f"{step}: {', '.join(sorted(gone))} lost; at least {fewest} banks must be left, or the sum would protect "
            "them less than the contract says"
        )
    return left


def verify_losses(
    channel: Channel, step: str, banks: Sequence[str], told_by: str, lost: Iterable[str]
) -> None:
    """Check that the Exchange has said, too, that these banks are lost; the leader, ``banks[0]``, never is.

    Raises:
        ProtocolError: it has not.
    """
    # Prevent a leader from taking a bank out of a sum that it has the bank's vector for.
    spared = set(banks[1:]) - {channel.session.party, told_by}
    if any(bank not in spared or not channel.is_lost(bank) for bank in lost):
        raise ProtocolError(f"{step}: {told_by} leaves out banks that are not lost")


class RecoverableSum:
    """One bank's part in one attempt; its secrets end with it."""

    def __init__(
        self, channel: Channel, banks: Sequence[str], step: str, index: int, randomness: Randomness
    ) -> None:
        """Draw this attempt's secrets.

        Args:
            channel: of the phase.
            banks: four or more that take part, this one among them, in the contract's order.
            step: names the sum in errors, without data.
            index: number of the attempt within the run, the same at every bank.
            randomness: of this bank.
        """
        self._channel = channel
        self._banks = tuple(banks)
        self._party = channel.session.party
        self._others = [bank for bank in banks if bank != self._party]
        self._step = step
        self._index = index
        self._needed = threshold(len(banks))
        self._purpose = _purpose(channel.session.id, index, step, banks)
        self._mask = RecoverableMask.create(randomness)
        self._dealt = dict(zip(banks, self._mask.shares(len(banks), randomness), strict=True))
        self._publics = {self._party: self._mask.public}
        # By owner: this bank's share of the key and of the self-mask seed.
        self._held = {self._party: self._dealt.pop(self._party)}

    def total(
        self, words: NDArray[np.int64], fewest: int
    ) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
        """Return the sum of the active banks' ``words``, ``None`` if it has to be made anew, and the banks that are left.

        Raises:
            ProtocolError: a bank is at another sum, sent a malformed message, or calls a bank lost that is not.
            RunFailedError: fewer than ``fewest`` banks are left, or too few to take the masks off.
        """
        missing = self._exchange_keys()
        part = self._lead if self._party == self._banks[0] else self._follow
        return part(words, missing, fewest)

    def _exchange_keys(self) -> list[str]:
        """Tell every bank the key and its shares, take theirs, and return the banks that were lost before theirs came."""
        for bank, (key_share, self_share) in self._dealt.items():
            message = payload.SumKeys(
                purpose=self._purpose, key=self._mask.public, key_share=key_share, self_share=self_share
            )
            self._channel.send(bank, message, self._index)
        missing = []
        for bank in self._others:
            try:
                found = self._channel.receive(bank, payload.SumKeys, self._index)
            except PartyLostError:
                missing.append(bank)
                continue
            if found.purpose != self._purpose:
                raise ProtocolError(f"{self._step}: {bank} is at another sum, or at one of other banks")
            sizes = (len(found.key), len(found.key_share), len(found.self_share))
            if sizes != (_KEY_BYTES, SHARE_BYTES, SHARE_BYTES):
                raise ProtocolError(
                    f"{self._step}: expected a key and two shares of {bank}, found other sizes"
                )
            self._publics[bank] = found.key
            self._held[bank] = (found.key_share, found.self_share)
        return missing

    def _hidden(self, words: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return ``words`` under the masks with every other bank, and the self mask."""
        seeds = [
            (
                sign_towards(self._party, bank),
                self._mask.seed_with(bank, self._publics[bank], self._party, self._purpose),
            )
            for bank in self._others
        ]
        return masked_by_seeds(words, [*seeds, (1, self._mask.self_seed)])

    def _lead(
        self, words: NDArray[np.int64], missing: list[str], fewest: int
    ) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
        vectors, lost, without_keys = [], [], set(missing)
        if not missing:
            vectors.append(self._hidden(words))
        for bank in self._others:
            try:
                message = self._channel.receive(bank, payload.MaskedVector, self._index)
            except PartyLostError:
                lost.append(bank)
                continue
            if message.lost:
                verify_losses(self._channel, self._step, self._banks, bank, message.lost)
                without_keys.update(message.lost)
            else:
                what = f"{self._step}: the vector of {bank}"
                vectors.append(unpack_words(message.words, len(words), what))
        left = rest(self._step, self._banks, without_keys | set(lost), fewest)
        gone = [bank for bank in self._banks if bank not in left]
        again = bool(without_keys)
        for bank in left[1:]:
            self._channel.send(bank, payload.SumOutcome(lost=gone, again=again), self._index)
        if again:
            return None, left
        total = self._uncovered(add_up(vectors), lost)
        verify_range(total, self._step)
        for bank in left[1:]:
            self._channel.send(bank, payload.BankTotal(words=pack_words(total)), self._index)
        return total, left

    def _follow(
        self, words: NDArray[np.int64], missing: list[str], fewest: int
    ) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
        leader = self._banks[0]
        mine = (
            payload.MaskedVector(lost=missing)
            if missing
            else payload.MaskedVector(words=pack_words(self._hidden(words)))
        )
        self._channel.send(leader, mine, self._index)
        outcome = self._channel.receive(leader, payload.SumOutcome, self._index)
        verify_losses(self._channel, self._step, self._banks, leader, outcome.lost)
        left = rest(self._step, self._banks, outcome.lost, fewest)
        if outcome.again and outcome.lost:
            return None, left
        if outcome.again or missing:
            raise ProtocolError(f"{self._step}: {leader} goes on as if other keys had come than have")
        shares = b"".join(self._hand_over(outcome.lost).values())
        self._channel.send(leader, payload.SumShares(shares=shares), self._index)
        message = self._channel.receive(leader, payload.BankTotal, self._index)
        total = unpack_words(message.words, len(words), f"{self._step}: the total of {leader}")
        verify_range(total, self._step)
        return total, left

    def _hand_over(self, lost: Sequence[str]) -> dict[str, bytes]:
        """Return one share per bank, by owner: of its key if it is lost, of its self mask if it is active. Once."""
        verify_outcome([bank for bank in self._banks if bank not in lost], lost, self._banks)
        held, self._held = self._held, {}  # the other share of each is gone with this
        return {owner: held[owner][0 if owner in lost else 1] for owner in self._banks}

    def _uncovered(self, total: NDArray[np.int64], lost: Sequence[str]) -> NDArray[np.int64]:
        """Return ``total`` without the active banks' self masks and their masks with the lost ones."""
        handed = {self._party: self._hand_over(lost)}
        active = [bank for bank in self._banks if bank not in lost]
        for bank in active[1:]:
            try:
                shares = self._channel.receive(bank, payload.SumShares, self._index).shares
            except PartyLostError:
                continue  # its vector counts
            handed[bank] = self._parted(bank, shares)
        if len(handed) < self._needed:
            raise RunFailedError(
                f"{self._step}: {len(handed)} of {len(self._banks)} banks are left to take the masks off, at least "
                f"{self._needed} must be"
            )
        corrections: list[tuple[int, bytes]] = []
        for owner in self._banks:
            shares_of_owner = {self._banks.index(giver) + 1: handed[giver][owner] for giver in handed}
            secret = join(shares_of_owner, self._needed)
            corrections += (
                missing_masks(owner, secret, self._publics, active, self._purpose)
                if owner in lost
                else [(-1, secret)]
            )
        return masked_by_seeds(total, corrections)

    def _parted(self, bank: str, shares: bytes) -> dict[str, bytes]:
        if len(shares) != SHARE_BYTES * len(self._banks):
            raise ProtocolError(f"{self._step}: expected a share of {bank} for each bank, found another size")
        parts = (shares[at : at + SHARE_BYTES] for at in range(0, len(shares), SHARE_BYTES))
        return dict(zip(self._banks, parts, strict=True))


def _purpose(session: bytes, index: int, step: str, banks: Sequence[str]) -> bytes:
    """Return 32 bytes that differ between any two sums, attempts and sets of banks."""
    words = (b"fedshare sum v1", session, index.to_bytes(8, "big"), step.encode(), *map(str.encode, banks))
    return hashlib.sha256(b"".join(len(word).to_bytes(4, "big") + word for word in words)).digest()
