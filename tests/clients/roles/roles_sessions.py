"""Sessions between parties that exist in a test only."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import TYPE_CHECKING

from fedshare.errors import UnavailableError
from fedshare.identity.keys import IdentityKey
from fedshare.identity.session import PendingSession, Session
from fedshare.sealed.randomness import Stream

if TYPE_CHECKING:
    from fedshare.identity.envelope import Envelope

DIGEST = "d1" * 32


def sessions(*parties: str, seed: int = 0, run_id: int = 1) -> dict[str, Session]:
    """Return the session of each party in one run."""
    streams = {party: Stream(hashlib.sha256(f"{seed}|{party}".encode()).digest()) for party in parties}
    identities = {party: IdentityKey.generate(stream.read) for party, stream in streams.items()}
    pending = {
        party: PendingSession.start(identities[party], DIGEST, run_id, party, streams[party].read)
        for party in parties
    }
    keys = {party: identity.public_bytes() for party, identity in identities.items()}
    hellos = [each.hello for each in pending.values()]
    return {party: each.establish(hellos, keys) for party, each in pending.items()}


class Pipe:
    """A transport to oneself: what one channel sends, another that shares the pipe receives."""

    def __init__(self) -> None:
        self.envelopes: deque[Envelope] = deque()
        self.bytes_sent = 0
        self.bytes_received = 0

    def send(self, envelope: Envelope) -> None:
        self.envelopes.append(envelope)

    def receive(self, sender: str, timeout_seconds: float) -> Envelope:
        if not self.envelopes:
            raise UnavailableError(f"nothing came from {sender} within {timeout_seconds} s")
        return self.envelopes.popleft()

    def abort(self, reason: str) -> None:
        raise AssertionError(reason)

    def close(self) -> None:
        pass
