"""The rounds of a run as a state machine: what to ask whom, and what the answers lead to.

Pure: no clock, no Flower, no database. ``fedshare_server.app`` does the sending, the waiting and the
storing. A run goes through its phases in order, ``PHASES`` if it trains and ``SERVING_PHASES`` if it serves a model
that was trained; a phase ends when every party of the contract has answered ``ok``. A serving run then stays in its
phase ``serve`` (``is_held``) until ``release``. The first refusal, failure, loss or abort is the *cause* and
stays; after it only ``close`` is sent, with the cause as its reason, so that every party's run ends with the same
sentence.

Example::

    rounds = Rounds("ab" * 32, ("bank", "tax"))
    while not rounds.is_over:
        for party, request in rounds.begin().items():
            ...  # send
        rounds.accept("bank", Reply.from_record({"status": "ok", "hello": b"..."}))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["AWAITED", "LOST", "PHASES", "SERVING_PHASES", "Cause", "Reply", "Request", "Rounds"]

PHASES: Final = ("hello", "align", "prepare", "train", "evaluate", "close")
SERVING_PHASES: Final = ("hello", "publish", "serve", "close")
# The kind of the event that says for whose nodes a run waits.
AWAITED: Final = "awaited"
# The kind of the event that says whom a run goes on without.
LOST: Final = "lost"
# Phases in which an expendable party may be lost without the run, and what such a party then says itself.
_SURVIVABLE: Final = frozenset({"train", "evaluate", "serve"})
_CUT_OFF: Final = frozenset({"RunFailedError", "UnavailableError"})
_STATUSES: Final = frozenset({"ok", "refused", "failed"})
_MAX_TEXT: Final = 1000
Value = str | bytes | list[bytes]


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a run ended before its model was complete.

    Attributes:
        status: ``refused`` or ``failed``, as the run's record says it.
        code: a stable word.
        reason: a sentence without data.
        party: who refused, failed or was lost; empty if it was the coordinator.
    """

    status: str
    code: str
    reason: str
    party: str = ""

    def __str__(self) -> str:
        """Return the sentence that every party's run ends with."""
        return f"{self.party}: {self.reason} [{self.code}]" if self.party else f"{self.reason} [{self.code}]"


@dataclass(frozen=True, slots=True)
class Request:
    """What one party is asked."""

    phase: str
    contract_digest: str
    hellos: tuple[bytes, ...] = ()
    reason: str = ""

    def to_record(self) -> dict[str, Value]:
        """Return the content of the Flower message."""
        record: dict[str, Value] = {"phase": self.phase, "contract_digest": self.contract_digest}
        if self.hellos:
            record["hellos"] = list(self.hellos)
        if self.reason:
            record["reason"] = self.reason
        return record


@dataclass(frozen=True, slots=True)
class Reply:
    """What one party answered."""

    status: str
    code: str = ""
    reason: str = ""
    party: str = ""
    hello: bytes = b""
    metrics: str = ""

    @classmethod
    def from_record(cls, record: Mapping[str, object]) -> Reply:
        """Return the reply in a message; one that is malformed counts as a failure and says so."""
        status = record.get("status")
        if not isinstance(status, str) or status not in _STATUSES:
            return cls("failed", "malformed_reply", "the node's reply has no status: update the node")
        hello, metrics = record.get("hello", b""), record.get("metrics", "")
        return cls(
            status,
            str(record.get("code", ""))[:_MAX_TEXT],
            str(record.get("reason", ""))[:_MAX_TEXT],
            str(record.get("party", ""))[:_MAX_TEXT],
            hello if isinstance(hello, bytes) else b"",
            metrics if isinstance(metrics, str) else "",
        )


class Rounds:
    """Where a run stands.

    Attributes:
        phase: the current phase.
        waiting: the parties whose answer to it is outstanding.
        is_held: whether every party serves, until ``release``.
        cause: why the run failed, or ``None``.
        metrics: what parties let the coordinator see, by party.
    """

    def __init__(
        self,
        contract_digest: str,
        parties: Iterable[str],
        phases: tuple[str, ...] = PHASES,
        expendable: frozenset[str] = frozenset(),
    ) -> None:
        self.parties: Final = tuple(sorted(parties))
        self._phases: Final = phases
        self._digest = contract_digest
        self._hellos: dict[str, bytes] = {}
        self._expendable = expendable
        self._lost: set[str] = set()
        self._begun = False
        self.phase = phases[0]
        self.waiting: set[str] = set(self.parties)
        self.cause: Cause | None = None
        self.metrics: dict[str, str] = {}
        self.is_held = False
        self.is_over = False

    def begin(self) -> dict[str, Request]:
        """Return what to send for the current phase, by party; empty if it has been returned already."""
        if self._begun or self.is_over:
            return {}
        self._begun = True
        reason = str(self.cause) if self.cause else ""
        hellos = tuple(self._hellos[party] for party in self.parties) if self.phase == self._phases[1] else ()
        request = Request(self.phase, self._digest, hellos, reason)
        return dict.fromkeys(sorted(self.waiting), request)

    def accept(self, party: str, reply: Reply) -> None:
        """Take a party's answer to the current phase.

        A party that the run goes on without and that lost its connection is lost; one that fails otherwise ends the run.
        """
        if party not in self.waiting:
            return
        if self._goes_on_without(party) and reply.status == "failed" and reply.code in _CUT_OFF:
            self.lose(party, reply.reason)
            return
        if self.phase == "close":
            self._answered(party)
        elif reply.status != "ok":
            self.fail(
                Cause(reply.status, reply.code or reply.status, reply.reason or "no reason given", party)
            )
        elif reply.party and reply.party != party:
            # Prevent one party from speaking under another's Flower key.
            self.fail(Cause("failed", "wrong_party", "its node says that it is another party", party))
        elif self.phase == "hello" and not reply.hello:
            self.fail(Cause("failed", "malformed_reply", "its reply to hello has no hello in it", party))
        else:
            if self.phase == "hello":
                self._hellos[party] = reply.hello
            if reply.metrics:
                self.metrics[party] = reply.metrics
            self._answered(party)

    def release(self) -> None:
        """End a serving run in good order."""
        if self.is_held:
            self._enter("close")

    def fail(self, cause: Cause) -> None:
        """End the run with ``cause`` unless it has one; what is left is to close it at every party."""
        if self.cause is None and self.phase != "close":
            self.cause = cause
            self._enter("close")

    def lose(self, party: str, reason: str) -> None:
        """Take note that a party cannot be reached any more; nobody waits for it again."""
        goes_on = self._goes_on_without(party)
        self._lost.add(party)
        if not goes_on:
            self.fail(Cause("failed", "node_lost", reason, party))
        if goes_on or self.phase == "close":
            self._answered(party)

    def expire(self) -> None:
        """The current phase has taken too long."""
        if self.phase == "close":
            self.is_over = True
            return
        late = ", ".join(sorted(self.waiting))
        self.fail(Cause("failed", "phase_timeout", f"no answer to phase {self.phase} in time from {late}"))

    def _goes_on_without(self, party: str) -> bool:
        return party in self._expendable and self.phase in _SURVIVABLE

    def _answered(self, party: str) -> None:
        self.waiting.discard(party)
        if self.waiting:
            return
        if self.phase == "close":
            self.is_over = True
        elif self.phase == "serve":
            self.is_held = True
        else:
            self._enter(self._phases[self._phases.index(self.phase) + 1])

    def _enter(self, phase: str) -> None:
        self.phase, self._begun, self.is_held = phase, False, False
        self.waiting = set(self.parties) - self._lost
        self.is_over = not self.waiting
