"""The node's side of a run: what happens when the coordinator asks for a phase.

The coordinator's requests are not trusted: a phase runs only for a contract that this party and every other has
signed, in the contract's order, once, and after this node's own data and code have been checked against it. The reply
says ``ok``, ``refused`` or ``failed`` with a reason that carries no data.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from fedshare.audit.statements import MAX_TOTALS, Envelopes, ModelManifest, PrivacySpent, Refusal
from fedshare.contract.enforcement import verify_ready, verify_runs, verify_valid
from fedshare.errors import (
    ConfigError,
    DataError,
    FedshareError,
    ProtocolError,
    RefusedError,
    RunFailedError,
    StorageError,
)
from fedshare.identity.session import PendingSession

from .channel import Channel
from .feature_holder import FeatureHolder
from .label_holder import LabelHolder
from .manifest import announce, commit_result, public_metrics, with_manifest
from .serving import BankServing, serving_role
from .serving_holder import ServingHolder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from fedshare.audit.statements import Statement
    from fedshare.contract.model import Contract
    from fedshare.identity.keys import IdentityKey
    from fedshare.identity.session import Session
    from fedshare.sealed.randomness import Randomness

    from .bank_portfolio import BankPortfolio
    from .channel import Transport
    from .consents import Withdrawals
    from .data.table import Table
    from .label_holder import BankMemory
    from .privacy import PrivacyAccount
    from .progress import ProgressSink
    from .serving import ScoringSettings

__all__ = ["PHASES", "SERVING_PHASES", "NodeService", "Platform"]

PHASES = ("hello", "align", "prepare", "train", "evaluate", "close")
SERVING_PHASES = ("hello", "publish", "serve", "close")

# Of the reason in an entry of the audit log.
_MAX_REASON = 500
# Every run trains from nothing: its model has no parents.
_FIRST_VERSION = 1

_log = logging.getLogger(__name__)


class Platform(Protocol):
    """What the service needs of the process around it; the simulator of the tests is another one."""

    party: str
    identity: IdentityKey
    code_digest: str
    holdout_seed: bytes
    scoring: ScoringSettings
    withdrawals: Withdrawals
    privacy: PrivacyAccount
    memory: BankMemory
    receive_timeout_seconds: float
    randomness: Randomness

    def now(self) -> datetime:
        """Return the time, with its zone."""

    def approved_contract(self, digest: str) -> tuple[Contract, Mapping[str, bytes]]:
        """Return the contract that this party signed, and every party's signed decision by party id.

        Raises:
            RefusedError: this party has not approved a contract with this digest.
        """

    def await_run(self, contract: Contract, run_id: int, model_run: int | None) -> None:
        """Return once the audit log says, as the contract's witnesses saw, that this run serves this model, or trains.

        Raises: as ``await_opening``.
        """

    def await_opening(self, contract: Contract, run_id: int, phase: str) -> None:
        """Return once the opening of the phase is in the audit log and the contract's witnesses have seen it.

        Raises:
            RefusedError: what the coordinator shows is no such opening, or this party took its approval back.
            UnavailableError: the witnesses have not seen it in time.
        """

    def begin_run(self, contract: Contract, run_id: int) -> None:
        """Remember durably that a run has begun here.

        Raises:
            ProtocolError: it has begun before, in whatever process, or has ended.
            StorageError: the disk refused: the run must not begin.
        """

    def spend(self, contract: Contract, what: str, amount: int, limit: int) -> int:
        """Return what had been spent of one of the contract's limits, and durably add ``amount`` if that fits."""

    def verify_own_approval(self, contract: Contract) -> None:
        """Check that this party has not taken its approval back; asks nobody.

        Raises:
            RefusedError: it has.
        """

    def load_table(self, contract: Contract) -> Table:
        """Return this party's checked data.

        Raises:
            DataError: the data cannot be used.
            RefusedError: the configured columns are not the contract's.
        """

    def portfolio(self, contract: Contract) -> BankPortfolio | None:
        """Return this bank's exposures, if the contract has them added up."""

    def open_transport(self, run_id: int, peers: frozenset[str]) -> Transport:
        """Connect to the Exchange for one run."""

    def progress(self, run_id: int, contract: Contract) -> ProgressSink:
        """Return where the progress of a run goes."""

    def load_result(self, run_id: int) -> Mapping[str, Any] | None:
        """Return what this party kept of a completed run, or ``None``."""

    def save_result(
        self, run_id: int, result: Mapping[str, Any], customers: Mapping[str, Any] | None
    ) -> None:
        """Store what this party keeps of a completed run.

        Raises:
            ProtocolError: something is kept of this run already.
        """

    def save_failure(self, run_id: int, phase: str, error: FedshareError) -> None:
        """Store why a run ended here, in full, for this party's own eyes."""

    def log(self, kind: type[Statement], **fields: Any) -> None:  # noqa: ANN401 - the statement checks them
        """Sign a statement of ``fedshare.audit.statements`` as this party, and log it durably.

        Args:
            kind: ``PrivacySpent``, ``Scoring``, ...; issuer and time are filled in.
            fields: the rest of it. Nothing in it may identify an enterprise.

        Raises:
            StorageError: the disk refused: what was to be stated must not happen.
        """


@dataclass(slots=True)
class _Run:
    contract: Contract
    role: FeatureHolder | LabelHolder | ServingHolder | BankServing
    pending: PendingSession
    report: ProgressSink
    phases: tuple[str, ...] = PHASES
    data_digest: str = ""
    serving: Channel | None = None
    transport: Transport | None = None
    session: Session | None = None
    done: list[str] = field(default_factory=list)
    busy: threading.Lock = field(default_factory=threading.Lock)
    seconds: dict[str, float] = field(default_factory=dict)


class NodeService:
    """Takes the phases of runs one after the other; keeps every secret of a run in memory only."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._runs: dict[int, _Run] = {}

    def handle_phase(self, run_id: int, phase: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return the reply to the coordinator's request; never raises.

        Args:
            content: ``contract_digest``; for the phase after ``hello``, ``hellos``: every party's signed hello; and
                ``model_run``: the training run whose model is served, ``None`` if the run trains.
        """
        started = time.monotonic()
        try:
            reply = self._handle(run_id, phase, content)
        except FedshareError as error:
            self._fail(run_id, phase, error, str(content.get("contract_digest", "")))
            status = "refused" if isinstance(error, RefusedError) else "failed"
            return {"status": status, **_public_cause(error)}
        except Exception:  # noqa: BLE001 - a defect must end the run at every party, not only here
            _log.exception("run %d: phase %s failed unexpectedly", run_id, phase)
            unexpected = FedshareError(
                f"phase {phase} failed unexpectedly; the log of {self._platform.party} says why"
            )
            self._fail(run_id, phase, unexpected, str(content.get("contract_digest", "")))
            return {"status": "failed", **_public_cause(unexpected)}
        run = self._runs.get(run_id)
        if run is not None:
            run.seconds[phase] = time.monotonic() - started
        return {"status": "ok", "party": self._platform.party, **reply}

    def _handle(self, run_id: int, phase: str, content: Mapping[str, Any]) -> dict[str, Any]:
        if phase == "close":
            self._close(run_id, str(content.get("reason", "")))
            return {}
        if phase == "hello":
            return {"hello": self._hello(run_id, str(content["contract_digest"]), content.get("model_run"))}
        run = self._runs.get(run_id)
        if run is None:
            raise RunFailedError(
                f"run {run_id} is not known here: this node was restarted or never said hello; start a new run"
            )
        # Prevent two requests at once from using the one-time secrets of a run in two threads.
        if not run.busy.acquire(blocking=False):
            raise ProtocolError(f"phase {phase} of run {run_id} was asked for while another was in progress")
        try:
            self._verify_next(run_id, run, phase, str(content["contract_digest"]))
            verify_valid(run.contract, self._platform.party, self._platform.now())
            self._platform.await_opening(run.contract, run_id, phase)
            return self._take(run_id, run, phase, content)
        finally:
            run.busy.release()

    def _take(self, run_id: int, run: _Run, phase: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Play this party's part in ``phase``, which is the next one of the run."""
        if phase == run.phases[1]:
            identity_keys = {party.id: party.identity_key_bytes() for party in run.contract.parties}
            run.session = run.pending.establish(content["hellos"], identity_keys)
            if run.phases is PHASES:
                self._count_run(run.contract, 1)
            run.transport = self._platform.open_transport(run_id, run.session.peers)
        if run.session is None or run.transport is None:
            raise ProtocolError(f"phase {phase} came before the parties had introduced themselves")
        # Banks ask when they have something to ask.
        patience = threading.TIMEOUT_MAX if phase == "serve" else self._platform.receive_timeout_seconds
        channel = Channel(run.session, run.transport, phase, patience)
        try:
            reply = self._play(run_id, run, phase, channel)
        except BaseException:
            # What passed before it went wrong may show who is wrong; the cause must not be lost for it.
            with suppress(FedshareError):
                self._log_envelopes(run_id, run, phase, channel)
            raise
        if phase == "serve":
            run.serving = channel
        else:
            self._log_envelopes(run_id, run, phase, channel)
        run.done.append(phase)
        return reply

    def _play(self, run_id: int, run: _Run, phase: str, channel: Channel) -> dict[str, Any]:
        role = run.role
        if isinstance(role, ServingHolder | BankServing):
            (role.publish if phase == "publish" else role.serve)(channel)
        elif phase == "align":
            role.align(channel)
        elif phase == "prepare":
            self._spend_privacy(run_id, run)
            role.prepare(channel)
        elif phase == "train":
            role.train(channel)
        else:
            return self._evaluate(run_id, run, role, channel)
        return {}

    def _spend_privacy(self, run_id: int, run: _Run) -> None:
        """Take what training takes from the budget, and say so, before anything that depends on it leaves this party."""
        if isinstance(run.role, LabelHolder):
            for each in self._platform.privacy.spend(run_id, run.contract):
                self._log_of_run(
                    run_id,
                    run,
                    PrivacySpent,
                    mechanism=each.mechanism,
                    epsilon=f"{each.epsilon:.9f}",
                    delta=f"{each.delta:.18f}",
                )

    def _log_envelopes(self, run_id: int, run: _Run, phase: str, channel: Channel) -> None:
        totals = channel.tally.totals()
        for at in range(0, len(totals), MAX_TOTALS):
            self._log_of_run(run_id, run, Envelopes, phase=phase, totals=totals[at : at + MAX_TOTALS])

    def _log_of_run(self, run_id: int, run: _Run, kind: type[Statement], **fields: Any) -> None:  # noqa: ANN401
        self._platform.log(kind, run_id=str(run_id), contract_digest=run.contract.digest(), **fields)

    def _hello(self, run_id: int, digest: str, model_run: int | None) -> bytes:
        """Check everything that can be checked before anything is computed, then introduce this party."""
        platform = self._platform
        contract, decisions = platform.approved_contract(digest)
        if contract.digest() != digest:
            raise RefusedError(
                "contract_digest_differs", "the coordinator asked for another contract", party=platform.party
            )
        verify_ready(
            contract,
            decisions,
            party=platform.party,
            identity_key=platform.identity.public_bytes(),
            code_digest=platform.code_digest,
            now=platform.now(),
        )
        if model_run is None:
            self._count_run(contract, 0)
        platform.await_run(contract, run_id, model_run)
        platform.await_opening(contract, run_id, "hello")
        # Prevent a whole run from being asked for again on its old openings, after a restart too.
        platform.begin_run(contract, run_id)
        report = platform.progress(run_id, contract)
        if model_run is None:
            role, data_digest = self._training_role(contract, report)
            run = _Run(contract, role, self._introduce(run_id, digest), report, data_digest=data_digest)
        else:
            fail = partial(self._fail_serving, run_id, digest)
            serving, model = serving_role(platform, contract, model_run, report, fail)
            pending = self._introduce(run_id, digest, model)
            run = _Run(contract, serving, pending, report, phases=SERVING_PHASES)
        run.done.append("hello")
        self._runs[run_id] = run
        return run.pending.hello

    def _introduce(self, run_id: int, digest: str, model: bytes = b"") -> PendingSession:
        platform = self._platform
        return PendingSession.start(
            platform.identity, digest, run_id, platform.party, platform.randomness, model
        )

    def _training_role(
        self, contract: Contract, report: ProgressSink
    ) -> tuple[FeatureHolder | LabelHolder, str]:
        """Return this party's part in training, and the digest of its rows."""
        platform = self._platform
        table = platform.load_table(contract)
        role: FeatureHolder | LabelHolder
        if contract.party(platform.party).role == "feature_holder":
            spend = partial(platform.spend, contract)
            role = FeatureHolder(contract, platform.party, table, platform.randomness, report, spend)
        else:
            platform.privacy.verify(contract, table)
            role = LabelHolder(
                contract,
                platform.party,
                table,
                platform.holdout_seed,
                platform.randomness,
                report,
                partial(platform.privacy.outcomes, contract),
                platform.memory,
                platform.portfolio(contract),
            )
        return role, table.digest()

    def _count_run(self, contract: Contract, number: int) -> None:
        """Count ``number`` runs, before anything of them leaves this party."""
        begun = self._platform.spend(contract, "runs", number, contract.max_runs)
        verify_runs(contract, self._platform.party, begun)

    def _verify_next(self, run_id: int, run: _Run, phase: str, digest: str) -> None:
        """Check that ``phase`` is the run's next one: a repeated or skipped phase is refused."""
        expected = run.phases[len(run.done)]
        if phase != expected:
            raise ProtocolError(
                f"expected phase {expected} of run {run_id}, the coordinator asked for {phase}"
            )
        if digest != run.contract.digest():
            raise RefusedError(
                "contract_digest_differs", "the run changed its contract", party=self._platform.party
            )

    def _evaluate(
        self, run_id: int, run: _Run, role: FeatureHolder | LabelHolder, channel: Channel
    ) -> dict[str, Any]:
        if isinstance(role, LabelHolder):
            role.evaluate(channel)
        result = role.result()
        customers = role.scored_customers() if isinstance(role, LabelHolder) else None
        transport = run.transport
        result |= {
            "party": self._platform.party,
            "role": run.contract.party(self._platform.party).role,
            "contract_digest": run.contract.digest(),
            "data_digest": run.data_digest,
            "seconds": dict(run.seconds),
            "bytes_sent": transport.bytes_sent if transport else 0,
            "bytes_received": transport.bytes_received if transport else 0,
        }
        if isinstance(run.role, LabelHolder):
            result["privacy"] = self._platform.privacy.statement(run.contract)
        result = commit_result(result, self._platform.randomness)
        components, metrics = announce(
            channel,
            run.contract,
            self._platform.party,
            result["commitment"]["digest"],
            public_metrics(run.contract, result),
        )
        manifest = {"version": _FIRST_VERSION, "components": components, "metrics": metrics}
        self._platform.save_result(run_id, with_manifest(result, manifest), customers)
        self._log_of_run(run_id, run, ModelManifest, **manifest)
        if not run.contract.outputs.coordinator_metrics or "federated" not in result:
            return {}
        public = {name: result[name] for name in ("iterations", "federated", "bank_only")}
        return {"metrics": json.dumps(public)}

    def _fail(self, run_id: int, phase: str, error: FedshareError, digest: str) -> None:
        _log.error("run %d: phase %s ended: %s", run_id, phase, error)
        self._platform.save_failure(run_id, phase, error)
        cause = _public_cause(error)
        if isinstance(error, RefusedError):
            # A refusal stands, logged or not.
            with suppress(FedshareError):
                self._platform.log(
                    Refusal,
                    contract_digest=digest,
                    run_id=str(run_id),
                    code=cause["code"],
                    reason=cause["reason"][:_MAX_REASON],
                )
        run = self._runs.pop(run_id, None)
        if run is not None:
            self._stop_serving(run_id, run, cause["reason"])
        if run is not None and run.transport is not None:
            # What the Exchange does not hear now it sees when the connection ends.
            with suppress(FedshareError):
                run.transport.abort(cause["reason"])
            with suppress(FedshareError):
                run.transport.close()

    def _fail_serving(self, run_id: int, digest: str, error: FedshareError) -> None:
        """End a serving run from one of its own threads."""
        if run_id in self._runs:
            self._fail(run_id, "serve", error, digest)

    def _close(self, run_id: int, reason: str) -> None:
        run = self._runs.pop(run_id, None)
        if run is None:
            return
        self._stop_serving(run_id, run, reason or "the serving run was ended")
        if run.serving is not None and not reason:
            kept = {
                "party": self._platform.party,
                "contract_digest": run.contract.digest(),
                **run.role.result(),
            }
            self._platform.save_result(run_id, kept, None)
        if run.transport is not None:
            run.transport.close()

    def _stop_serving(self, run_id: int, run: _Run, reason: str) -> None:
        """End what goes on in threads of a serving run, and state what passed; a cause must not be lost for it."""
        if not isinstance(run.role, ServingHolder | BankServing):
            return
        with suppress(FedshareError):
            run.role.close(reason)
        if run.serving is not None:
            with suppress(FedshareError):
                self._log_envelopes(run_id, run, "serve", run.serving)


def _public_cause(error: FedshareError) -> dict[str, str]:
    """Return what the coordinator may know of ``error``: its kind and, for data, the column's name only.

    The coordinator puts this party's name before it.
    """
    if isinstance(error, RefusedError):
        # Prevent what other contracts have spent or trained on from reaching this one's parties and the audit log.
        reason = (
            "only its own log says why, for it is about its earlier runs or its own limits"
            if error.private
            else error.reason
        )
        return {"code": error.code, "reason": reason}
    code = type(error).__name__
    if isinstance(error, DataError):
        place = f" (field {error.field})" if error.field else ""
        return {"code": code, "reason": f"its data does not pass its own checks{place}; see its log"}
    if isinstance(error, StorageError | ConfigError):
        # Prevent paths and settings of this party's machines from reaching the coordinator.
        return {"code": code, "reason": "its storage or its configuration failed; see its log"}
    return {"code": code, "reason": str(error)}
