"""What a feature holder does in a serving run: release its scores, sealed, and answer banks that ask for row keys.

It learns how many identifiers each bank asks for and when, and not which. What a bank may ask for in all serving runs of a
contract is counted on this holder's disk before it is answered (docs/protocol.md, "Serve").
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedshare.audit.statements import PrivateEvent
from fedshare.credit.points import PointScale
from fedshare.credit.values import is_missing
from fedshare.errors import FedshareError, PartyLostError, RefusedError
from fedshare.scoring.saved import SavedModel
from fedshare.sealed import OprfKey, Sealer, derive, evaluate, pair_row_keys
from fedshare.sealed.oblivious import ELEMENT_BYTES, RowKeys
from fedshare.wire.v1 import payload_pb2 as payload

from .feature_holder import SCORE_BITS, WORKERS
from .masks import sign_towards
from .progress import Progress
from .serving_threads import start_threads
from .words import encode_fixed, pack_words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from numpy.typing import NDArray

    from fedshare.contract.model import Contract
    from fedshare.contract.scoring import Scoring
    from fedshare.sealed.randomness import Randomness

    from .channel import Channel
    from .consents import ConsentDesk
    from .data.table import Table
    from .progress import ProgressSink

__all__ = ["Allowance", "ServingHolder", "score_label"]

# Counted at a time, so that not every question waits for the disk. What is left is given back at the end of the run; a node
# that is killed has spent it.
_RESERVED_AT_A_TIME: Final = 256
_FIFTHS: Final = (0.2, 0.4, 0.6, 0.8)


def score_label(session_id: bytes, epoch: int, group: str = "") -> bytes:
    """Return the label of a score column, or of one of its groups; none is used twice in any two sessions."""
    return b"fedshare score column v1|" + session_id + epoch.to_bytes(4, "big") + b"|" + group.encode()


class Allowance:
    """What one bank may still ask for, counted durably and ahead of use.

    ``take`` is for one thread, ``keep_filled`` for another.

    Args:
        spend: ``spend(amount)`` returns what had been spent before, and adds ``amount`` if it fits ``quota``.
        quota: of the contract.
    """

    def __init__(self, spend: Callable[[int], int], quota: int) -> None:
        self._spend = spend
        self._quota = quota
        self._spending = threading.Lock()
        self._lock = threading.Lock()
        self._reserved = 0
        self._low = threading.Event()
        self._closed = False

    def take(self, asked: int) -> int | None:
        """Return ``None`` if ``asked`` identifiers may be answered, which are then used up; else how many may be."""
        if self._use(asked):
            return None
        with self._spending:
            if self._use(asked):  # it has been filled meanwhile
                return None
            missing = asked - self._reserved
            for amount in (max(missing, _RESERVED_AT_A_TIME), missing):
                left = self._reserve(amount)
                if amount <= left:
                    self._use(asked)
                    return None
            return self._reserved + max(left, 0)

    def keep_filled(self) -> None:
        """Reserve more whenever little is left, until ``close``, so that no question waits for the disk."""
        while self._low.wait() and not self._closed:
            self._low.clear()
            self.refill()

    def refill(self) -> None:
        """Reserve what is used up, if it fits the quota."""
        with self._spending:
            if not self._closed:
                self._reserve(_RESERVED_AT_A_TIME - self._reserved)

    def close(self) -> None:
        """Give back what was reserved and not used: the run is over."""
        self._closed = True
        self._low.set()
        with self._spending:
            self._reserve(-self._reserved)

    def _use(self, asked: int) -> bool:
        with self._lock:
            if asked > self._reserved:
                return False
            self._reserved -= asked
            if self._reserved < _RESERVED_AT_A_TIME // 2:
                self._low.set()
            return True

    def _reserve(self, amount: int) -> int:
        """Count ``amount`` on the disk if it fits the quota; return how much does."""
        left = self._quota - self._spend(amount)
        if amount <= left:
            with self._lock:
                self._reserved += amount
        return left


@dataclass(frozen=True, slots=True)
class _Rows:
    """The holder's rows as they were last read.

    Attributes:
        identifiers: one per row.
        columns: the fixed-point score, and the whole points of every reason group, shape ``[n]`` each.
        filled: how many columns of the model have a value, shape ``[n]``.
        read_at: when.
    """

    identifiers: list[bytes]
    columns: list[NDArray[np.int64]]
    filled: NDArray[np.int64]
    read_at: datetime


class ServingHolder:
    """One serving run of one feature holder. Secrets live in this object only and end with it."""

    def __init__(
        self,
        contract: Contract,
        scoring: Scoring,
        party: str,
        saved: Mapping[str, Any],
        load: Callable[[], Table],
        randomness: Randomness,
        report: ProgressSink,
        spend: Callable[[str, int, int], int],
        verify_valid: Callable[[], None],
        consents: ConsentDesk,
        now: Callable[[], datetime],
        log: Callable[..., None],
        fail: Callable[[FedshareError], None],
        clock: Callable[[], float],
    ) -> None:
        """Look at the rows once, so that data that cannot be scored is refused before anything is sent.

        Args:
            contract: the contract.
            scoring: its section on scoring.
            party: this holder.
            saved: what it kept of the training run.
            load: reads its rows as they are now.
            randomness: for the oblivious key.
            report: where progress goes.
            spend: ``spend(what, amount, limit)`` counts against a limit of the contract, as ``service.Platform`` does.
            verify_valid: raises when the contract is no longer in force.
            consents: checks consents of enterprises.
            now: the time, in UTC.
            log: signs a statement as this party.
            fail: told what ends the run from a thread of this object.
            clock: seconds, monotonic.

        Raises:
            ConfigError: what was kept is no model.
            DataError: the rows cannot be scored.
        """
        self._contract = contract
        self._scoring = scoring
        self._party = party
        self._banks = [bank.id for bank in contract.banks()]
        self._peers = [holder.id for holder in contract.holders() if holder.id != party]
        self._groups = [group for group in scoring.reasons if group.party == party]
        self._scale = PointScale(**contract.points.model_dump())
        self._model = SavedModel.from_result(saved)
        self._load = load
        self._key = OprfKey.generate(randomness)
        self._report = report
        self._spend = spend
        self._verify_valid = verify_valid
        self._consents = consents
        self._now = now
        self._log = log
        self._fail = fail
        self._clock = clock
        self._closing = threading.Event()
        self._place: dict[bytes, int] = {}
        self._keys = RowKeys(np.empty((0, 16), dtype=np.uint8), np.empty((0, 16), dtype=np.uint8))
        self._epoch = 0
        self._answered = dict.fromkeys(self._banks, 0)
        self._profiles = 0
        self._rows = self._score(load())

    def publish(self, channel: Channel) -> None:
        """Release the first column to every bank."""
        self._release(channel)

    def serve(self, channel: Channel) -> None:
        """Begin to answer banks and to refresh the column, in threads of this object, until ``close``."""
        works: list[Callable[[], None]] = [partial(self._refresh, channel)]
        for bank in self._banks:
            allowance = Allowance(partial(self._spend_of, bank), self._scoring.quota)
            works += [partial(self._answer, channel, bank, allowance), allowance.keep_filled]
        start_threads("serving", works, self._closing.is_set, self._fail)

    def close(self, _reason: str) -> None:
        """Stop; what waits for a bank ends when the transport closes."""
        self._closing.set()

    def result(self) -> dict[str, Any]:
        """Return counts: epochs of columns, identifiers answered by bank, and profiles shown."""
        return {
            "columns_released": self._epoch,
            "identifiers_answered": dict(self._answered),
            "profiles_shown": self._profiles,
        }

    def _spend_of(self, bank: str, amount: int) -> int:
        return self._spend(f"scored/{bank}", amount, self._scoring.quota)

    def _answer(self, channel: Channel, bank: str, allowance: Allowance) -> None:
        try:
            self._answer_within(channel, bank, allowance)
        except PartyLostError as lost:
            self._report(Progress("serve", self._epoch, f"serves the other banks only: {lost}"))
        finally:
            allowance.close()

    def _answer_within(self, channel: Channel, bank: str, allowance: Allowance) -> None:
        answered = profiles = withdrawals = 0
        while True:
            message: Any = channel.receive_any(
                bank,
                {
                    payload.BlindedIdentifiers: answered,
                    payload.ProfileRequest: profiles,
                    payload.ConsentWithdrawn: withdrawals,
                },
            )
            if isinstance(message, payload.BlindedIdentifiers):
                channel.send(bank, self._reply(bank, allowance, message.elements), answered)
                answered += 1
            elif isinstance(message, payload.ProfileRequest):
                channel.send(bank, self._profile(bank, message.consent), profiles)
                profiles += 1
            else:
                self._consents.withdraw(message.withdrawal)
                withdrawals += 1

    def _reply(
        self, bank: str, allowance: Allowance, blinded: bytes
    ) -> payload.EvaluatedIdentifiers | payload.KeysRefused:
        try:
            self._verify_valid()
        except RefusedError as error:
            return payload.KeysRefused(code=error.code)
        asked = len(blinded) // ELEMENT_BYTES
        left = allowance.take(asked)
        if left is not None:
            return payload.KeysRefused(code="quota_exceeded", left=left)
        self._answered[bank] += asked
        return payload.EvaluatedIdentifiers(elements=evaluate(self._key, blinded, workers=WORKERS))

    def _profile(self, bank: str, consent: bytes) -> payload.Profile:
        """Return what the contract lets ``bank`` see of the enterprise that consented, after noting that it is shown."""
        try:
            self._verify_valid()
            agreed, digest = self._consents.verify(consent, bank)
        except RefusedError as error:
            return payload.Profile(refusal=error.code)
        self._log(PrivateEvent, event="profile_shown", facts={"consent": digest, "bank": bank})
        self._profiles += 1
        rows = self._rows
        until = rows.read_at + timedelta(seconds=self._scoring.max_age_seconds)
        shown = payload.Profile(as_of=rows.read_at.isoformat(), valid_until=until.isoformat())
        try:
            row = rows.identifiers.index(agreed.enterprise.encode())
        except ValueError:
            return shown
        shown.known = True
        releases = self._scoring.profile.releases if self._scoring.profile else ()
        if "coverage" in releases:
            shown.columns_with_value, shown.columns = int(rows.filled[row]), len(self._model.columns)
        if "band" in releases:
            score, *_ = rows.columns
            shown.band = 1 + int(np.count_nonzero(np.quantile(score, _FIFTHS) < score[row]))
        if "reasons" in releases:
            points = zip(self._groups, rows.columns[1:], strict=True)
            shown.reasons.extend(group.name for group, values in points if values[row] < 0)
        return shown

    def _refresh(self, channel: Channel) -> None:
        # Times on a grid: holders that take longer than others to read their rows must not fall behind them for good.
        due = self._clock() + self._scoring.refresh_seconds
        while not self._closing.wait(max(0.0, due - self._clock())):
            due += self._scoring.refresh_seconds
            try:
                self._verify_valid()
                self._rows = self._score(self._load())
            except FedshareError as error:
                # The banks keep the column that they have, until it is too old for the contract.
                self._report(Progress("serve", self._epoch, f"no new column: {error}"))
                self._skip(channel)
                continue
            self._release(channel)

    def _skip(self, channel: Channel) -> None:
        """Say that there is no column in this epoch, so that the next one is of the same epoch as the other holders'."""
        for bank in self._banks:
            channel.send(bank, payload.ScoreColumn(groups=[b""] * len(self._groups)), self._epoch)
        self._epoch += 1

    def _score(self, table: Table) -> _Rows:
        read_at = self._now().replace(microsecond=0)
        codes = self._model.assign(table, party=self._party)
        above = self._model.contributions(codes)
        columns = [encode_fixed(self._model.scores(codes), SCORE_BITS, "partial score")]
        columns += [
            self._scale.bin_points(self._model.group(above, set(group.columns))) for group in self._groups
        ]
        cells = [table.column(column.name) for column in self._model.columns]
        filled = np.sum([~is_missing(each) for each in cells], axis=0)
        return _Rows(table.identifiers, columns, np.broadcast_to(filled, len(table)), read_at)

    def _release(self, channel: Channel) -> None:
        """Seal the columns of the rows as they were last seen, in the order of their tags, and send them."""
        session, identifiers, columns = channel.session, self._rows.identifiers, self._rows.columns
        keys = self._row_keys(identifiers)
        order = np.argsort(keys.tags.view("S16").ravel())
        pad_keys = np.ascontiguousarray(keys.pad_keys[order])
        ordered = [identifiers[row] for row in order.tolist()]
        masks = [
            (
                sign_towards(self._party, peer),
                pair_row_keys(session.shared_secret(peer, "score masks"), ordered),
            )
            for peer in self._peers
        ]
        score, *groups = (column[order] for column in columns)
        sealer, open_sealer = Sealer(pad_keys, masks), Sealer(pad_keys, [])
        message = payload.ScoreColumn(
            tags=keys.tags[order].tobytes(),
            values=pack_words(sealer.seal(score, score_label(session.id, self._epoch))),
            groups=[
                pack_words(open_sealer.seal(values, score_label(session.id, self._epoch, group.name)))
                for group, values in zip(self._groups, groups, strict=True)
            ],
        )
        for bank in self._banks:
            channel.send(bank, message, self._epoch)
        self._epoch += 1
        self._report(Progress("serve", self._epoch, f"scores of {len(ordered)} rows released"))

    def _row_keys(self, identifiers: list[bytes]) -> RowKeys:
        """Return the keys of the rows; only those of enterprises that are new to this session are derived."""
        new = [identifier for identifier in identifiers if identifier not in self._place]
        if new:
            self._place.update((each, len(self._keys) + at) for at, each in enumerate(new))
            fresh = derive(self._key, new, workers=WORKERS)
            self._keys = RowKeys(
                np.concatenate([self._keys.pad_keys, fresh.pad_keys]),
                np.concatenate([self._keys.tags, fresh.tags]),
            )
        rows = np.fromiter((self._place[each] for each in identifiers), np.int64, len(identifiers))
        return RowKeys(self._keys.pad_keys[rows], self._keys.tags[rows])
