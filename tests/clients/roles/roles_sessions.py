"""Sessions between parties that exist in a test only."""

from __future__ import annotations

import hashlib
import queue
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from fedshare.errors import FedshareError, PartyLostError, UnavailableError
from fedshare.identity.keys import IdentityKey
from fedshare.identity.session import PendingSession, Session
from fedshare.sealed.randomness import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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

    def is_lost(self, party: str) -> bool:
        return False

    def abort(self, reason: str) -> None:
        raise AssertionError(reason)

    def close(self) -> None:
        pass


class Post:
    """Mailboxes between several parties that run in threads."""

    def __init__(self) -> None:
        self.boxes: dict[tuple[str, str], queue.SimpleQueue[Envelope]] = {}
        self.crossed: list[Envelope] = []
        self.lost: set[tuple[str, str]] = set()  # who has been told that whom is lost

    def box(self, sender: str, recipient: str) -> queue.SimpleQueue[Envelope]:
        return self.boxes.setdefault((sender, recipient), queue.SimpleQueue())

    def at(self, party: str) -> PostTransport:
        return PostTransport(self, party)


class PostTransport:
    def __init__(self, post: Post, party: str) -> None:
        self._post = post
        self._party = party
        self.bytes_sent = 0
        self.bytes_received = 0

    def send(self, envelope: Envelope) -> None:
        self._post.crossed.append(envelope)
        self._post.box(envelope.sender, envelope.recipient).put(envelope)

    def receive(self, sender: str, timeout_seconds: float) -> Envelope:
        give_up = time.monotonic() + timeout_seconds
        while True:
            is_lost = self.is_lost(sender)
            try:
                return self._post.box(sender, self._party).get(timeout=0.3 if is_lost else 0.05)
            except queue.Empty:
                if is_lost:
                    raise PartyLostError(sender) from None
                if time.monotonic() > give_up:
                    raise UnavailableError(f"nothing came from {sender} within {timeout_seconds} s") from None

    def is_lost(self, party: str) -> bool:
        return (self._party, party) in self._post.lost

    def abort(self, reason: str) -> None:
        raise AssertionError(reason)

    def close(self) -> None:
        pass


def together(parts: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Run each party's part in a thread; return what each returned, or the error that ended it."""

    def outcome(part: Callable[[], Any]) -> Any:
        try:
            return part()
        except FedshareError as error:
            return error

    with ThreadPoolExecutor(len(parts)) as pool:
        futures = {party: pool.submit(outcome, part) for party, part in parts.items()}
        return {party: future.result() for party, future in futures.items()}
