"""What a bank does in a serving run: keep the holders' sealed columns, and open rows of them for its own systems.

The row keys of an enterprise are asked for once, blinded, in one message to every holder; questions that come while one is
under way go together in the next. From then on, until the run ends, the enterprise's sum is opened here alone, and anew
whenever every holder has refreshed its column. No holder learns which enterprises these are.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedshare.errors import FedshareError, ProtocolError, RefusedError, UnavailableError
from fedshare.sealed import blind, finalize, open_sum
from fedshare.sealed.oblivious import RowKeys
from fedshare.wire.v1 import payload_pb2 as payload

from .feature_holder import SCORE_BITS, WORKERS
from .progress import Progress
from .serving_holder import score_label
from .serving_threads import start_threads
from .words import decode_fixed, unpack_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from fedshare.contract.model import Contract
    from fedshare.contract.scoring import Scoring
    from fedshare.sealed import Blinds
    from fedshare.sealed.randomness import Randomness

    from .channel import Channel
    from .progress import ProgressSink

__all__ = ["Opened", "ServingBank"]

_TAG_BYTES: Final = 16
# Identifiers in one message: a large batch must not keep a single question waiting for long.
_MAX_BATCH: Final = 1000
# For how long after an answer the next question waits for those who were answered and those who came meanwhile.
_GATHER_SECONDS: Final = 0.003
# Columns of holders that are ahead of the slowest one; with more the slowest one counts as broken.
_MAX_AHEAD: Final = 8


@dataclass(frozen=True, slots=True)
class Opened:
    """What the holders together say of one enterprise.

    Attributes:
        total: sum of their partial scores, log-odds of default; ``None`` unless every holder knows the enterprise.
        known: whether each holder knows it, in the contract's order.
        points: whole points of every reason group, in the contract's order; empty without ``total``.
    """

    total: float | None
    known: tuple[bool, ...]
    points: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Column:
    tags: NDArray[np.bytes_]
    values: NDArray[np.int64]
    groups: list[NDArray[np.int64]]
    arrived: float


@dataclass(frozen=True, slots=True)
class _Block:
    """Enterprises whose row keys are here: per holder one key each, in one order."""

    identifiers: list[bytes]
    keys: dict[str, RowKeys] = field(repr=False)


@dataclass(slots=True)
class _Question:
    number: int
    identifiers: list[bytes]
    blinds: Blinds = field(repr=False)
    asked_at: float
    answers: dict[str, RowKeys | payload.KeysRefused] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class _Waiter:
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Opened]

    def settle(self, outcome: Opened | FedshareError) -> None:
        """Tell whoever waits; in the thread of its loop."""
        if self.future.done():
            return
        if isinstance(outcome, FedshareError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class ServingBank:
    """One serving run of one bank. Secrets live in this object only and end with it.

    Args:
        contract: the contract.
        scoring: its section on scoring.
        party: this bank.
        randomness: for blinding.
        clock: seconds, monotonic.
        patience_seconds: how long holders may take for an answer before the run ends.
        report: where progress goes.
        fail: told what ends the run from a thread of this object.
    """

    def __init__(
        self,
        contract: Contract,
        scoring: Scoring,
        party: str,
        randomness: Randomness,
        clock: Callable[[], float],
        patience_seconds: float,
        report: ProgressSink,
        fail: Callable[[FedshareError], None],
    ) -> None:
        self._patience_seconds = patience_seconds
        self.party = party
        self.holders = [holder.id for holder in contract.holders()]
        self._groups = {
            holder: [group.name for group in scoring.reasons if group.party == holder]
            for holder in self.holders
        }
        # The contract's order of groups, wherever they are.
        self.groups = [group.name for group in scoring.reasons]
        self._randomness = randomness
        self._clock = clock
        self._report = report
        self._fail = fail
        self._session_id = b""
        self._closed = ""
        self._changed = threading.Condition()
        self._waiting: dict[bytes, list[_Waiter]] = {}
        self._pending: list[bytes] = []
        # How many pending identifiers are worth waking the thread that asks for them.
        self._wanted = 1
        self._expected = 1
        self._answered_at = clock()
        self._question: _Question | None = None
        self._asked = 0
        self._updating = threading.Lock()
        self._epoch = -1
        self._latest = dict.fromkeys(self.holders, -1)
        self._columns: dict[str, dict[int, _Column]] = {holder: {} for holder in self.holders}
        self._blocks: list[_Block] = []
        self._opened: dict[bytes, Opened] = {}
        self._since = clock()
        self._naming = threading.Lock()
        self._channel: Channel | None = None
        # By number: what is under way only, for a serving run may last for years.
        self._profiles: dict[int, tuple[dict[str, payload.Profile], Future[dict[str, payload.Profile]]]] = {}
        self._profiles_asked = 0
        self._withdrawn = 0

    def publish(self, channel: Channel) -> None:
        """Take every holder's first column."""
        self._session_id = channel.session.id
        for holder in self.holders:
            self._take_column(holder, 0, channel.receive(holder, payload.ScoreColumn, 0))

    def serve(self, channel: Channel) -> None:
        """Begin to ask holders and to listen to them, in threads of this object, until ``close``."""
        self._channel = channel
        works = [partial(self._listen, channel, holder) for holder in self.holders]
        start_threads(
            "serving", [*works, partial(self._ask, channel)], lambda: bool(self._closed), self._fail
        )

    def close(self, reason: str) -> None:
        """Stop; whoever waits for an answer is told the reason."""
        with self._changed:
            self._closed = self._closed or reason
            waiting, self._waiting = self._waiting, {}
            self._pending.clear()
            self._changed.notify_all()
        _settle((waiters, UnavailableError(reason)) for waiters in waiting.values())
        for _, future in list(self._profiles.values()):
            if not future.done():
                future.set_exception(UnavailableError(reason))

    def result(self) -> dict[str, Any]:
        """Return counts: columns opened and identifiers asked for."""
        return {"columns_opened": self._epoch + 1, "identifiers_asked": self._asked}

    @property
    def closed(self) -> str:
        """Why nothing more is served; empty while it is."""
        return self._closed

    def age_seconds(self) -> float:
        """Return how old the columns are that are open now: since the first of them came."""
        return self._clock() - self._since

    def known(self, identifier: bytes) -> Opened | None:
        """Return what is known of an enterprise whose row keys are here, or ``None``."""
        return self._opened.get(identifier)

    async def ask(self, identifier: bytes) -> Opened:
        """Return what is known of an enterprise once every holder has answered; whoever gives up waiting changes nothing.

        Raises:
            RefusedError: a holder refuses.
            UnavailableError: the run ends first.
        """
        loop = asyncio.get_running_loop()
        with self._changed:
            # It may have come since the caller looked: asking again would count again.
            if (row := self._opened.get(identifier)) is not None:
                return row
            if self._closed:
                raise UnavailableError(self._closed)
            waiter = _Waiter(loop, loop.create_future())
            waiters = self._waiting.setdefault(identifier, [])
            waiters.append(waiter)
            if len(waiters) == 1:
                self._pending.append(identifier)
                if self._question is None and len(self._pending) >= self._wanted:
                    self._changed.notify_all()
        return await waiter.future

    def profile(self, consent: bytes) -> Future[dict[str, payload.Profile]]:
        """Return what every holder will show of the enterprise that consented, by holder; it is named to them."""
        future: Future[dict[str, payload.Profile]] = Future()
        with self._naming:
            channel = self._usable()
            number, self._profiles_asked = self._profiles_asked, self._profiles_asked + 1
            self._profiles[number] = ({}, future)
            for holder in self.holders:
                channel.send(holder, payload.ProfileRequest(consent=consent), number)
        return future

    def withdraw(self, withdrawal: bytes) -> None:
        """Tell every holder that a consent was taken back."""
        with self._naming:
            channel = self._usable()
            for holder in self.holders:
                channel.send(holder, payload.ConsentWithdrawn(withdrawal=withdrawal), self._withdrawn)
            self._withdrawn += 1

    def _usable(self) -> Channel:
        if self._channel is None or self._closed:
            raise UnavailableError(self._closed or "the serving run has not begun")
        return self._channel

    def _ask(self, channel: Channel) -> None:
        number = 0
        while True:
            with self._changed:
                # One question at a time: what comes meanwhile goes together in the next, at the cost of one.
                while not self._changed.wait_for(
                    lambda: self._closed or (self._pending and self._question is None), self._patience_seconds
                ):
                    self._verify_answered()
                # Callers that were answered together ask again together, a little apart.
                self._wanted = self._expected
                self._changed.wait_for(
                    lambda: self._closed or len(self._pending) >= self._wanted,
                    max(self._answered_at + _GATHER_SECONDS - self._clock(), 0.0),
                )
                self._wanted = 1
                if self._closed:
                    return
                identifiers, self._pending = self._pending[:_MAX_BATCH], self._pending[_MAX_BATCH:]
            # One blinding for all holders: to each of them, and to all together, it is a random element.
            blinds, elements = blind(identifiers, self._randomness, workers=WORKERS)
            self._question = _Question(number, identifiers, blinds, self._clock())
            self._asked += len(identifiers)
            for holder in self.holders:
                channel.send(holder, payload.BlindedIdentifiers(elements=elements), number)
            number += 1

    def _verify_answered(self) -> None:
        question = self._question
        if question is not None and self._clock() >= question.asked_at + self._patience_seconds:
            late = ", ".join(sorted(set(self.holders) - question.answers.keys()))
            raise UnavailableError(
                f"no answer about {len(question.identifiers)} enterprises within {self._patience_seconds:g} seconds "
                f"from {late}: is it running?"
            )

    def _listen(self, channel: Channel, holder: str) -> None:
        number, epoch, profiles = 0, 1, 0
        while True:
            message: Any = channel.receive_any(
                holder,
                {
                    payload.EvaluatedIdentifiers: number,
                    payload.KeysRefused: number,
                    payload.ScoreColumn: epoch,
                    payload.Profile: profiles,
                },
            )
            if isinstance(message, payload.ScoreColumn):
                self._take_column(holder, epoch, message)
                epoch += 1
            elif isinstance(message, payload.Profile):
                self._take_profile(holder, profiles, message)
                profiles += 1
            else:
                self._take_answer(holder, number, message)
                number += 1

    def _take_profile(self, holder: str, number: int, message: payload.Profile) -> None:
        with self._naming:
            if number not in self._profiles:
                raise ProtocolError(f"{holder} shows a profile that it was not asked for")
            shown, future = self._profiles[number]
            shown[holder] = message
            if len(shown) < len(self.holders):
                return
            del self._profiles[number]
            if not future.done():
                future.set_result(shown)

    def _take_answer(
        self, holder: str, number: int, message: payload.EvaluatedIdentifiers | payload.KeysRefused
    ) -> None:
        question = self._question
        if question is None or question.number != number:
            raise ProtocolError(f"{holder} answers a question that it was not asked")
        if isinstance(message, payload.KeysRefused):
            answer: RowKeys | payload.KeysRefused = message
        else:
            answer = finalize(question.blinds, message.elements, workers=WORKERS)
        with self._updating:
            question.answers[holder] = answer
            if len(question.answers) < len(self.holders):
                return
            refusals = [each for each in question.answers.values() if isinstance(each, payload.KeysRefused)]
            if refusals:
                self._refuse(question, refusals)
                return
            keys = {name: answer for name, answer in question.answers.items() if isinstance(answer, RowKeys)}
            block = _Block(question.identifiers, keys)
            self._blocks.append(block)
            self._opened.update(opened := self._open(block))
        with self._changed:
            self._take_next(question)
            settled = [(self._waiting.pop(identifier, []), row) for identifier, row in opened.items()]
        _settle(settled)

    def _take_next(self, question: _Question) -> None:
        """Let the next question begin, soon; the lock is held."""
        self._question = None
        self._expected = len(question.identifiers) + len(self._pending)
        self._answered_at = self._clock()
        self._changed.notify_all()

    def _refuse(self, question: _Question, refusals: Sequence[payload.KeysRefused]) -> None:
        """Ask again for as many as every holder still answers, and tell the others."""
        identifiers = question.identifiers
        first = min(refusals, key=lambda refusal: refusal.left)
        left = first.left if first.left < len(identifiers) else 0
        with self._changed:
            self._take_next(question)
            self._pending[:0] = identifiers[:left]
            refused = [self._waiting.pop(identifier, []) for identifier in identifiers[left:]]
        error = RefusedError(first.code[:64] or "refused", "a holder answers no more identifiers")
        _settle((waiters, error) for waiters in refused)

    def _take_column(self, holder: str, epoch: int, message: payload.ScoreColumn) -> None:
        column = self._parse(holder, message)
        if epoch == 0 and not len(column.tags):
            raise ProtocolError(f"score column of {holder}: expected rows in the first one, found none")
        with self._updating:
            self._latest[holder] = epoch
            if len(column.tags):  # else the holder has none in this epoch, and nobody's can be opened
                self._columns[holder][epoch] = column
            slowest = min(self.holders, key=lambda name: self._latest[name])
            if max(self._latest.values()) - self._latest[slowest] > _MAX_AHEAD:
                raise UnavailableError(
                    f"{slowest} has not refreshed its scores for {_MAX_AHEAD} times: see its log"
                )
            whole = set.intersection(*(set(columns) for columns in self._columns.values()))
            if max(whole, default=-1) > self._epoch:
                self._advance(max(whole))
            for columns in self._columns.values():
                # Of an epoch that everybody has come to, and that is not open, some holder's column is missing.
                for old in [
                    each for each in columns if each <= self._latest[slowest] and each != self._epoch
                ]:
                    del columns[old]

    def _parse(self, holder: str, message: payload.ScoreColumn) -> _Column:
        rows, rest = divmod(len(message.tags), _TAG_BYTES)
        tags = np.frombuffer(message.tags, dtype=f"S{_TAG_BYTES}") if not rest else np.empty(0, dtype="S16")
        if rest or not np.all(tags[:-1] < tags[1:]):
            raise ProtocolError(
                f"score column of {holder}: expected tags of 16 bytes in ascending order, all different"
            )
        names = self._groups[holder]
        if len(message.groups) != len(names):
            raise ProtocolError(
                f"score column of {holder}: expected {len(names)} reason groups, got {len(message.groups)}"
            )
        return _Column(
            tags,
            unpack_words(message.values, rows, f"score column of {holder}"),
            [
                unpack_words(group, rows, f"reason group {name} of {holder}")
                for name, group in zip(names, message.groups, strict=True)
            ],
            self._clock(),
        )

    def _advance(self, epoch: int) -> None:
        """Open every row anew in the columns of ``epoch``, which every holder has released."""
        self._epoch = epoch
        if len(self._blocks) > 1:
            merged = {
                holder: RowKeys(
                    np.concatenate([block.keys[holder].pad_keys for block in self._blocks]),
                    np.concatenate([block.keys[holder].tags for block in self._blocks]),
                )
                for holder in self.holders
            }
            self._blocks = [_Block([each for block in self._blocks for each in block.identifiers], merged)]
        opened: dict[bytes, Opened] = {}
        for block in self._blocks:
            opened |= self._open(block)
        self._opened = opened
        self._since = min(columns[epoch].arrived for columns in self._columns.values())
        self._report(Progress("serve", epoch, f"{len(opened)} enterprises opened in the new columns"))

    def _open(self, block: _Block) -> dict[bytes, Opened]:
        count = len(block.identifiers)
        columns = {holder: self._columns[holder][self._epoch] for holder in self.holders}
        rows = {holder: _find(columns[holder].tags, block.keys[holder].tags) for holder in self.holders}
        known = np.column_stack([rows[holder] >= 0 for holder in self.holders])
        whole = np.flatnonzero(known.all(axis=1))
        at = {holder: rows[holder][whole] for holder in self.holders}
        pads = {holder: block.keys[holder].pad_keys[whole] for holder in self.holders}
        totals = decode_fixed(
            open_sum(
                [columns[holder].values[at[holder]] for holder in self.holders],
                list(pads.values()),
                score_label(self._session_id, self._epoch),
            ),
            SCORE_BITS,
        )
        points = {
            name: open_sum(
                [columns[holder].groups[index][at[holder]]],
                [pads[holder]],
                score_label(self._session_id, self._epoch, name),
            )
            for holder in self.holders
            for index, name in enumerate(self._groups[holder])
        }
        opened = {
            block.identifiers[row]: Opened(None, tuple(map(bool, known[row])), ()) for row in range(count)
        }
        everyone = (True,) * len(self.holders)
        for place, row in enumerate(whole.tolist()):
            reasons = tuple(int(points[name][place]) for name in self.groups)
            opened[block.identifiers[row]] = Opened(float(totals[place]), everyone, reasons)
        return opened


def _settle(outcomes: Iterable[tuple[list[_Waiter], Opened | FedshareError]]) -> None:
    """Tell everybody who waits, with one call into each event loop: its thread would wake up for every single one."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Waiter, Opened | FedshareError]]] = defaultdict(list)
    for waiters, outcome in outcomes:
        for waiter in waiters:
            by_loop[waiter.loop].append((waiter, outcome))

    def tell(told: list[tuple[_Waiter, Opened | FedshareError]]) -> None:
        for waiter, outcome in told:
            waiter.settle(outcome)

    for loop, told in by_loop.items():
        with suppress(RuntimeError):  # it is closed, and nobody waits there any more
            loop.call_soon_threadsafe(tell, told)


def _find(tags: NDArray[np.bytes_], own: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the row of each own tag among ``tags``, which ascend, and -1 where it is not there."""
    wanted = np.ascontiguousarray(own).view(f"S{_TAG_BYTES}").ravel()
    if not len(tags):
        return np.full(len(wanted), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(tags, wanted), len(tags) - 1)
    return np.where(tags[place] == wanted, place, -1).astype(np.int64)
