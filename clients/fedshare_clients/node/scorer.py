"""Answers about enterprises for a bank's own systems: the holders' sum, the bank's own part, points, band and receipt.

A ``Scorer`` belongs to one serving run and stays when that has ended: where there is no shared score, for whatever reason,
it answers as the contract's ``fallback`` says, marked, with the reason.

====================== =================================================================
``unknown_enterprise``  a holder does not know the enterprise; ``coverage`` says which
``quota_exceeded``      a holder answers no more identifiers under this contract
``holder_offline``      a holder did not answer in time
``no_serving_run``      the serving run has ended
``stale_scores``        the holders' columns are older than the contract allows
``consent_withdrawn``   the enterprise took a consent under this contract back: nothing is scored
``contract_expired``    the contract is over: nothing is scored, not even as a fallback
``contract_revoked``    this party took its approval back: the same
====================== =================================================================
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fedshare.credit.identifiers import normalise_identifiers
from fedshare.credit.points import PointScale
from fedshare.errors import ConfigError, RefusedError, UnavailableError
from fedshare.scoring.answer import Answer, band_of, probability_of, signed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from fedshare.contract.model import Contract
    from fedshare.contract.scoring import Scoring
    from fedshare.identity.keys import IdentityKey
    from fedshare.scoring.answer import Band, OwnColumns, Status
    from fedshare.wire.v1 import payload_pb2 as payload

    from .consents import ConsentDesk
    from .own_part import OwnPart, OwnRow
    from .serving_bank import Opened, ServingBank

__all__ = ["Scorer", "ScoringDesk"]

_MAX_REASONS: Final = 4


@dataclass(slots=True)
class _Case:
    """What is known so far of the enterprise that is asked about."""

    name: str
    own: OwnRow
    own_columns: OwnColumns
    coverage: dict[str, bool] = field(default_factory=dict)
    age_seconds: float | None = None


class Scorer:
    """See the module.

    Args:
        contract: with a section on scoring.
        scoring: that section.
        model: what answers call the model.
        own: the bank's own part.
        bank: this party's part of the serving run.
        identity: signs receipts.
        bands: the bank's decision bands.
        now: the time, in UTC.
        verify_valid: raises when the contract is no longer in force.
        wait_seconds: how long an enterprise that is asked for the first time may take.
        consents: checks consents of enterprises.
    """

    def __init__(
        self,
        contract: Contract,
        scoring: Scoring,
        model: str,
        own: OwnPart,
        bank: ServingBank,
        identity: IdentityKey,
        bands: Sequence[Band],
        now: Callable[[], datetime],
        verify_valid: Callable[[], None],
        wait_seconds: float,
        consents: ConsentDesk,
    ) -> None:
        self.name = contract.name
        self.digest = contract.digest()
        self._alignment = contract.alignment
        self._scoring = scoring
        self._scale = PointScale(**contract.points.model_dump())
        self._model = model
        self._own = own
        self._bank = bank
        self._identity = identity
        self._bands = bands
        self._now = now
        self._verify_valid = verify_valid
        self._wait_seconds = wait_seconds
        self._consents = consents
        self._withdrawn = consents.withdrawn()
        self._lock = threading.Lock()
        self._scored = 0

    def take_count(self) -> int:
        """Return how many answers carried a score since this was last asked."""
        with self._lock:
            count, self._scored = self._scored, 0
        return count

    async def answer(self, identifier: str, cells: Mapping[str, float | str | None]) -> Answer:
        """Return the answer about one enterprise.

        Args:
            identifier: in any spelling.
            cells: own columns of the bank that come with the question; empty to take them from the bank's table.

        Raises:
            DataError: the identifier is malformed, or the cells are not the model's.
        """
        (name,) = normalise_identifiers(
            [identifier],
            self._alignment.identifier,
            check_digits=self._alignment.check_digits,
            party="",
            source="the request",
        )
        case = self._case(name, cells)
        try:
            self._verify_valid()
            self._verify_consenting(name)
        except RefusedError as error:
            return self._say(case, "withheld", error.code)
        try:
            opened = await self._open(name)
        except RefusedError as error:
            return self._without(case, error.code)
        except UnavailableError:
            return self._without(case, "no_serving_run" if self._bank.closed else "holder_offline")
        case.coverage = dict(zip(self._bank.holders, opened.known, strict=True))
        if opened.total is None:
            return self._without(case, "unknown_enterprise")
        case.age_seconds = round(self._bank.age_seconds(), 3)
        if case.age_seconds > self._scoring.max_age_seconds:
            return self._without(case, "stale_scores")
        return self._say(case, "scored", "", opened.total + case.own.shared, self._reasons(case, opened))

    async def profile(self, consent: bytes) -> tuple[Answer, dict[str, payload.Profile]]:
        """Return the answer about an enterprise that consented, and what each holder shows of it, by holder.

        Raises:
            ProtocolError: the consent is not signed by the contract's key.
            RefusedError: the contract shows no profiles, or the consent is not for this bank, over or withdrawn.
            UnavailableError: there is no serving run, or a holder does not answer.
        """
        self._verify_valid()
        agreed, _ = self._consents.verify(consent, self._bank.party)
        self._withdrawn = self._consents.withdrawn()
        # In a thread: sending waits for a holder that is behind.
        asked = asyncio.wrap_future(await asyncio.to_thread(self._bank.profile, consent))
        try:
            shown = await asyncio.wait_for(asked, self._wait_seconds)
        except TimeoutError:
            raise UnavailableError("a holder does not show its part of the profile in time") from None
        return await self.answer(agreed.enterprise, {}), shown

    def withdraw(self, withdrawal: bytes) -> None:
        """Take note that a consent was taken back, here and at every holder. Raises as ``profile``."""
        self._consents.withdraw(withdrawal)
        self._withdrawn = self._consents.withdrawn()
        self._bank.withdraw(withdrawal)

    def _case(self, name: bytes, cells: Mapping[str, float | str | None]) -> _Case:
        if cells:
            return _Case(name.decode(), self._own.given(cells), "given")
        row, has_columns = self._own.row(name), self._own.has_columns
        if row is None:
            return _Case(name.decode(), self._own.nothing, "missing" if has_columns else "none")
        return _Case(name.decode(), row, "table" if has_columns else "none")

    def _verify_consenting(self, name: bytes) -> None:
        # At once: the columns that are open now still have its row.
        if name in self._withdrawn:
            raise RefusedError("consent_withdrawn", "the enterprise has taken its consent back")

    async def _open(self, name: bytes) -> Opened:
        if self._bank.closed:
            raise UnavailableError(self._bank.closed)
        opened = self._bank.known(name)
        if opened is not None:
            return opened
        try:
            return await asyncio.wait_for(self._bank.ask(name), self._wait_seconds)
        except TimeoutError:
            raise UnavailableError("a holder does not answer") from None

    def _reasons(self, case: _Case, opened: Opened) -> tuple[str, ...]:
        """Return what costs most points: groups that holders release, and own columns."""
        own = self._scale.bin_points(case.own.contributions).tolist()
        points = [
            *zip(own, self._own.column_names, strict=True),
            *zip(opened.points, self._bank.groups, strict=True),
        ]
        return tuple(name for _, name in sorted(each for each in points if each[0] < 0)[:_MAX_REASONS])

    def _without(self, case: _Case, reason: str) -> Answer:
        """Answer as the contract says where there is no shared score."""
        if self._scoring.fallback == "withhold" or case.own_columns in {"missing", "none"}:
            return self._say(case, "withheld", reason)
        return self._say(case, "fallback", reason, case.own.alone)

    def _say(
        self,
        case: _Case,
        status: Status,
        reason: str,
        log_odds: float | None = None,
        reasons: tuple[str, ...] = (),
    ) -> Answer:
        probability, points = None, None
        if log_odds is not None:
            probability, points = probability_of(log_odds), round(float(self._scale.points(log_odds)))
            with self._lock:
                self._scored += 1
        answer = Answer(
            enterprise=case.name,
            status=status,
            reason=reason,
            probability=probability,
            points=points,
            band="" if probability is None else band_of(self._bands, probability),
            reasons=reasons,
            coverage=case.coverage,
            own_columns=case.own_columns,
            model=self._model,
            age_seconds=case.age_seconds,
            scored_at=self._now().isoformat(timespec="milliseconds"),
        )
        return signed(answer, self._identity)


class ScoringDesk:
    """The scorers of a node, one per contract: where the service for the bank's systems finds them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scorers: dict[str, Scorer] = {}

    def open(self, scorer: Scorer) -> None:
        """Let ``scorer`` answer for its contract, instead of an earlier one."""
        with self._lock:
            self._scorers[scorer.digest] = scorer

    def find(self, contract: str) -> Scorer:
        """Return the scorer of a contract, by name or 8 digits or more of its digest; if empty, the only one there is.

        Raises:
            ConfigError: there is none, or more than one.
        """
        with self._lock:
            scorers = list(self._scorers.values())
        found = [
            each
            for each in scorers
            if contract in ("", each.name) or (len(contract) >= 8 and each.digest.startswith(contract))
        ]
        if not found:
            raise ConfigError(
                f"no_serving_run: no contract{f' called {contract}' if contract else ''} is served here; a serving run must "
                "have begun (`fedshare-server serve`)"
            )
        if len(found) > 1:
            raise ConfigError(f"{len(found)} contracts that match are served here: name one by its digest")
        return found[0]
