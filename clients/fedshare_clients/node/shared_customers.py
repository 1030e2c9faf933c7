"""How many customers every two banks share, if the contract asks for it; nobody learns which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedshare.errors import ProtocolError
from fedshare.sealed import OprfKey
from fedshare.sealed.intersection import count_common, raised, raised_again
from fedshare.wire.v1 import payload_pb2 as payload

from .feature_holder import WORKERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedshare.sealed.randomness import Randomness

    from .channel import Channel

__all__ = ["count_shared"]


def count_shared(
    channel: Channel, banks: Sequence[str], identifiers: Sequence[bytes], randomness: Randomness
) -> dict[str, int]:
    """Return how many of ``identifiers`` each other bank has among its own.

    Args:
        channel: of the phase.
        banks: all banks in the contract's order, in which every pair comes to its turn.
        identifiers: this bank's customers.
        randomness: for a fresh key per pair.

    Raises:
        ProtocolError: another bank sends no list of elements, or an impossible count.
    """
    party = channel.session.party
    found = {}
    for first in range(len(banks)):
        for second in range(first + 1, len(banks)):
            if party == banks[first]:
                found[banks[second]] = _ask(channel, banks[second], identifiers, randomness)
            elif party == banks[second]:
                found[banks[first]] = _answer(channel, banks[first], identifiers, randomness)
    return found


def _ask(channel: Channel, peer: str, identifiers: Sequence[bytes], randomness: Randomness) -> int:
    key = OprfKey.generate(randomness)
    own = raised(key, identifiers, randomness, workers=WORKERS)
    channel.send(peer, payload.CustomerElements(elements=own))
    answer = channel.receive(peer, payload.CustomerAnswer)
    if len(answer.again) != len(own):
        raise ProtocolError(f"{peer} answered {len(own)} bytes of elements with {len(answer.again)}")
    theirs = raised_again(key, answer.elements, randomness, workers=WORKERS)
    count = count_common(answer.again, theirs)
    channel.send(peer, payload.SharedCustomers(count=count))
    return count


def _answer(channel: Channel, peer: str, identifiers: Sequence[bytes], randomness: Randomness) -> int:
    key = OprfKey.generate(randomness)
    theirs = channel.receive(peer, payload.CustomerElements).elements
    again = raised_again(key, theirs, randomness, workers=WORKERS)
    own = raised(key, identifiers, randomness, workers=WORKERS)
    channel.send(peer, payload.CustomerAnswer(again=again, elements=own))
    count = channel.receive(peer, payload.SharedCustomers).count
    if count > len(identifiers):
        raise ProtocolError(f"{peer} counts more shared customers than this bank has")
    return int(count)
