"""A party's part in a serving run, put together: from what it kept of the training run and from its rows as they are now."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from fedshare.audit.statements import Scoring as ScoringStatement
from fedshare.contract.enforcement import verify_model, verify_scoring, verify_valid
from fedshare.errors import FedshareError

from .consents import ConsentDesk
from .manifest import served_model
from .own_part import OwnPart
from .scorer import Scorer, ScoringDesk
from .serving_bank import ServingBank
from .serving_holder import ServingHolder
from .serving_threads import start_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fedshare.contract.model import Contract
    from fedshare.scoring.answer import Band

    from .channel import Channel
    from .progress import ProgressSink
    from .service import Platform

__all__ = ["BankServing", "ScoringSettings", "serving_role"]

_STATE_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScoringSettings:
    """What a bank decides about its answers.

    Attributes:
        desk: where its systems find who answers.
        bands: decision bands; none at a feature holder.
        wait_seconds: how long an enterprise that is asked for the first time may take.
    """

    desk: ScoringDesk = field(default_factory=ScoringDesk)
    bands: Sequence[Band] = ()
    wait_seconds: float = 5.0


def serving_role(
    platform: Platform,
    contract: Contract,
    model_run: int,
    report: ProgressSink,
    fail: Callable[[FedshareError], None],
) -> tuple[ServingHolder | BankServing, bytes]:
    """Return this party's part in a serving run of the model of ``model_run``, and the digest of that model's manifest.

    ``fail`` is told what ends the run.

    Raises:
        ConfigError: what was kept of the training run is no model.
        DataError: the rows cannot be scored.
        ProtocolError: what was kept of the training run was altered, or is not what its manifest lists.
        RefusedError: the contract does not speak of scoring, or nothing was kept of the training run.
    """
    party = platform.party
    scoring = verify_scoring(contract, party)
    saved = verify_model(contract, party, model_run, platform.load_result(model_run))
    commitment, model = served_model(saved, party, model_run)
    load = partial(platform.load_table, contract)

    still_valid = _InForce(contract, platform, time.monotonic)
    consents = ConsentDesk(contract, platform.withdrawals, platform.now)
    if contract.party(party).role == "feature_holder":
        spend = partial(platform.spend, contract)
        holder = ServingHolder(
            contract,
            scoring,
            party,
            saved,
            load,
            platform.randomness,
            report,
            spend,
            still_valid,
            consents,
            platform.now,
            platform.log,
            fail,
            time.monotonic,
        )
        return holder, model
    own = OwnPart(saved, load, contract.bank_model)
    patience = platform.receive_timeout_seconds
    bank = ServingBank(contract, scoring, party, platform.randomness, time.monotonic, patience, report, fail)
    scorer = Scorer(
        contract,
        scoring,
        f"{contract.digest()}/{model_run}/{commitment}",
        own,
        bank,
        platform.identity,
        platform.scoring.bands,
        platform.now,
        still_valid,
        platform.scoring.wait_seconds,
        consents,
    )
    role = BankServing(
        bank, own, scorer, platform.scoring.desk, scoring.refresh_seconds, time.monotonic, platform.log, fail
    )
    return role, model


class _InForce:
    """Checks, whenever it is called, that the contract is in force; looks for an own revocation once a second."""

    def __init__(self, contract: Contract, platform: Platform, clock: Callable[[], float]) -> None:
        self._contract = contract
        self._platform = platform
        self._clock = clock
        self._looked_at = -_LOOK_SECONDS

    def __call__(self) -> None:
        """Return if it is.

        Raises:
            RefusedError: the contract has expired, or this party took its approval back.
        """
        verify_valid(self._contract, self._platform.party, self._platform.now())
        if self._clock() >= self._looked_at + _LOOK_SECONDS:
            self._platform.verify_own_approval(self._contract)
            self._looked_at = self._clock()


class BankServing:
    """A bank's part: its own part of the model, the holders' columns, and who answers its systems.

    Scores are counted in the audit log once a minute and at the end.

    Args:
        bank: the holders' columns.
        own: the bank's own part.
        scorer: answers.
        desk: where the bank's systems find the scorer.
        refresh_seconds: how often the own rows are read again.
        clock: seconds, monotonic.
        log: signs a statement as this party.
        fail: told what ends the run from a thread of this object.
    """

    def __init__(
        self,
        bank: ServingBank,
        own: OwnPart,
        scorer: Scorer,
        desk: ScoringDesk,
        refresh_seconds: float,
        clock: Callable[[], float],
        log: Callable[..., None],
        fail: Callable[[FedshareError], None],
    ) -> None:
        self._bank = bank
        self._own = own
        self._scorer = scorer
        self._desk = desk
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._log = log
        self._fail = fail
        self._closing = threading.Event()

    def publish(self, channel: Channel) -> None:
        """Take every holder's first column."""
        self._bank.publish(channel)

    def serve(self, channel: Channel) -> None:
        """Begin to answer the bank's systems."""
        self._bank.serve(channel)
        self._desk.open(self._scorer)
        start_threads("serving-tend", [self._tend], self._closing.is_set, self._fail)

    def close(self, reason: str) -> None:
        """Stop asking holders; what is asked from now on has no shared score, for this reason."""
        self._closing.set()
        self._bank.close(reason)
        self._state_count()

    def result(self) -> dict[str, Any]:
        """Return counts; see ``ServingBank.result``."""
        return self._bank.result()

    def _tend(self) -> None:
        due = self._clock() + self._refresh_seconds
        while not self._closing.wait(min(_STATE_SECONDS, self._refresh_seconds)):
            self._state_count()
            if self._clock() >= due:
                due += self._refresh_seconds
                try:
                    self._own.refresh()
                except FedshareError as error:
                    _log.warning("the bank's own rows stay as they were: %s", error)

    def _state_count(self) -> None:
        if count := self._scorer.take_count():
            self._log(ScoringStatement, contract_digest=self._scorer.digest, count=count)
