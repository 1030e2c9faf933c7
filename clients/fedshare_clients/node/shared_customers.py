"""About how many customers every two banks share, if the contract asks for it; nobody learns which.

They are counted once per contract, and the number is shown as a band as wide as the minimum cohort: the difference of two exact
counts would say of a single customer whether the other bank has it too, and so would one near nothing or near a bank's size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fedshare.errors import ProtocolError
from fedshare.privacy.bands import Band, band_of, cap_of
from fedshare.sealed import OprfKey
from fedshare.sealed.intersection import count_common, raised, raised_again
from fedshare.wire.v1 import payload_pb2 as payload

from .feature_holder import WORKERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedshare.contract.model import Contract
    from fedshare.sealed.randomness import Randomness

    from .channel import Channel

__all__ = ["BandMemory", "count_shared"]


_UNKNOWN = Band(0, 0)


class BandMemory(Protocol):
    """Where bands are kept, per contract and other bank."""

    def shared_band(self, digest: str, peer: str) -> Band | None:
        """Return the band, ``None`` if nothing was ever said to ``peer``."""

    def save_shared_band(self, digest: str, peer: str, band: Band) -> None:
        """Store it durably. Raises ``StorageError`` if the disk refuses; nothing may be sent then."""


def count_shared(
    channel: Channel,
    contract: Contract,
    identifiers: Sequence[bytes],
    memory: BandMemory,
    randomness: Randomness,
) -> dict[str, Band]:
    """Return about how many of ``identifiers`` each other bank has among its own: as in the contract's first run.

    Args:
        channel: of the phase.
        contract: whose banks take turns, pair by pair in its order.
        identifiers: this bank's customers.
        memory: of this bank.
        randomness: for a fresh key per pair.

    Raises:
        ProtocolError: another bank sends no list of elements, or an impossible band.
        StorageError: a band cannot be stored.
    """
    party, banks = channel.session.party, [bank.id for bank in contract.banks()]
    pair = _Pair(channel, contract, identifiers, memory, randomness)
    found = {}
    for first in range(len(banks)):
        for second in range(first + 1, len(banks)):
            if party == banks[first]:
                found[banks[second]] = pair.ask(banks[second])
            elif party == banks[second]:
                found[banks[first]] = pair.answer(banks[first])
    return found


class _Pair:
    """This bank's side towards each other one."""

    def __init__(
        self,
        channel: Channel,
        contract: Contract,
        identifiers: Sequence[bytes],
        memory: BandMemory,
        randomness: Randomness,
    ) -> None:
        self._channel = channel
        self._digest = contract.digest()
        self._minimum = contract.minimum_cohort
        self._identifiers = identifiers
        self._memory = memory
        self._randomness = randomness

    def ask(self, peer: str) -> Band:
        """Return the band that is stored, or count; tell ``peer``."""
        band = self._memory.shared_band(self._digest, peer)
        if band is None:
            band = self._count(peer)
            self._memory.save_shared_band(self._digest, peer, band)
        else:
            self._channel.send(peer, payload.CustomerElements())
        self._channel.send(peer, payload.SharedCustomers(at_least=band.at_least, below=band.below))
        return band

    def _count(self, peer: str) -> Band:
        key = OprfKey.generate(self._randomness)
        own = raised(key, self._identifiers, self._randomness, workers=WORKERS)
        self._channel.send(peer, payload.CustomerElements(elements=own))
        answer = self._channel.receive(peer, payload.CustomerAnswer)
        if not answer.elements:
            return _UNKNOWN  # it has answered in a run that did not come to its end
        if len(answer.again) != len(own):
            raise ProtocolError(f"{peer} answered {len(own)} bytes of elements with {len(answer.again)}")
        theirs = raised_again(key, answer.elements, self._randomness, workers=WORKERS)
        cap = min(answer.cap, cap_of(len(self._identifiers), self._minimum))
        return band_of(count_common(answer.again, theirs), self._minimum, cap)

    def answer(self, peer: str) -> Band:
        """Answer ``peer`` if it counts and this bank has not answered under the contract before; return the band."""
        theirs = self._channel.receive(peer, payload.CustomerElements).elements
        stored = self._memory.shared_band(self._digest, peer)
        if theirs:
            self._channel.send(peer, self._answer_once(peer, theirs, stored))
        message = self._channel.receive(peer, payload.SharedCustomers)
        if stored and stored != _UNKNOWN:
            return stored
        band = Band(message.at_least, message.below)
        if max(band.at_least, band.below) > cap_of(len(self._identifiers), self._minimum):
            raise ProtocolError(f"{peer} counts more shared customers than this bank lets be shown")
        self._memory.save_shared_band(self._digest, peer, band)
        return band

    def _answer_once(self, peer: str, theirs: bytes, stored: Band | None) -> payload.CustomerAnswer:
        if stored is not None:
            return payload.CustomerAnswer()
        key = OprfKey.generate(self._randomness)
        again = raised_again(key, theirs, self._randomness, workers=WORKERS)
        own = raised(key, self._identifiers, self._randomness, workers=WORKERS)
        # Before it leaves: a run that ends now must not be followed by another count.
        self._memory.save_shared_band(self._digest, peer, _UNKNOWN)
        return payload.CustomerAnswer(
            again=again, elements=own, cap=cap_of(len(self._identifiers), self._minimum)
        )
