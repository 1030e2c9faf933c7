"""The node's process around its service: clock, randomness, data, files and the connection to the coordinator."""

from __future__ import annotations

import io
import logging
import os
import signal
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import pyarrow as pa
import pyarrow.parquet as pq

from fedshare.audit.notes import NoteKey
from fedshare.contract.codedigest import installed_code_digest
from fedshare.contract.enforcement import verify_not_revoked
from fedshare.errors import FedshareError, ProtocolError, RefusedError
from fedshare.scoring.answer import Band
from fedshare_clients.auditor.witness import Witness

from .audit_client import AuditClient
from .bank_portfolio import BankPortfolio, StoredAnswer, memory_name
from .contracts import ContractClient, tls_identity, verify_own_part
from .data import load
from .exchange import ExchangeClient
from .executor import run_node as take_tasks
from .gate import PhaseGate
from .privacy import PrivacyAccount
from .score_service import ScoreServer
from .score_tls import open_authority, server_identity
from .service import NodeService
from .serving import ScoringSettings
from .state import RunRecord, write_private
from .supernode import SuperNodeSettings
from .trail import Trail
from .witness_link import WitnessLink

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fedshare.audit.statements import Statement
    from fedshare.contract.model import Contract

    from .config import NodeConfig
    from .consents import Withdrawals
    from .data import Table
    from .label_holder import BankMemory
    from .progress import Progress, ProgressSink
    from .state import NodeState
    from .supernode import SuperNode

__all__ = ["NodePlatform", "run_node"]

_log = logging.getLogger(__name__)


class NodePlatform:
    """``service.Platform`` for a real node. Reads everything it needs of its own keys once, at the start."""

    def __init__(self, config: NodeConfig, state: NodeState, trail: Trail) -> None:
        state.verify_private()
        self._config = config
        self._state = state
        self._trail = trail
        self._gate = PhaseGate(
            AuditClient(config.coordinator.address, tls_identity(config, state)), state, config.party
        )
        self._contracts = ContractClient(config, state)
        # Weak: a node lives through many runs, and a run that has ended may leave megabytes that nobody took.
        self._transports: WeakValueDictionary[int, ExchangeClient] = WeakValueDictionary()
        self._tls = (
            config.coordinator.ca_certificate.read_bytes(),
            state.certificate_pem(),
            state.tls_key_pem(),
        )
        self.party = config.party
        self.identity = state.identity()
        self.code_digest = installed_code_digest()
        self.receive_timeout_seconds = config.limits.receive_timeout_seconds
        self.randomness = os.urandom
        self.withdrawals: Withdrawals = state
        self.memory: BankMemory = state
        self.scoring = ScoringSettings()
        if config.scoring is not None:
            self.scoring = ScoringSettings(
                bands=[Band(band.name, band.up_to) for band in config.scoring.bands],
                wait_seconds=config.scoring.answer_timeout_seconds,
            )
        self.holdout_seed = b""
        self.privacy = PrivacyAccount(config.party, config.privacy, state, self.now)
        if config.role == "label_holder":
            configured = config.holdout_seed
            self.holdout_seed = (
                bytes.fromhex(configured.get_secret_value()) if configured else state.holdout_seed()
            )

    def now(self) -> datetime:
        """Return the time, in UTC."""
        return datetime.now(UTC)

    def approved_contract(self, digest: str) -> tuple[Contract, Mapping[str, bytes]]:
        """Return the contract as this party signed it, and the decisions that the coordinator has now.

        The coordinator cannot forge a decision; one that it withholds only makes the node refuse.

        Raises:
            RefusedError: this party has not approved a contract with this digest.
            UnavailableError: the coordinator cannot be asked.
        """
        contract = self._state.approved_contract(digest)
        if contract is None:
            raise RefusedError(
                "contract_unsigned", f"this party has not approved contract {digest[:12]}", party=self.party
            )
        fetched = self._contracts.fetch(digest)
        verify_not_revoked(contract, self.party, fetched.revoked_by())
        return contract, fetched.decisions

    def await_run(self, contract: Contract, run_id: int, model_run: int | None) -> None:
        """Return once the run may begin; see ``PhaseGate``."""
        self._gate.await_run(contract, run_id, model_run)

    def await_opening(self, contract: Contract, run_id: int, phase: str) -> None:
        """Return once the phase may begin; see ``PhaseGate``."""
        seen = self._gate.await_opening(contract, run_id, phase)
        self._trail.note("phase_opened", run_id, phase=phase, log_size=str(seen.size))

    def begin_run(self, contract: Contract, run_id: int) -> None:
        """Remember in the node's state that a run begins; see ``NodeState.begin_run``."""
        self._state.begin_run(run_id, contract.digest(), self.now())

    def spend(self, contract: Contract, what: str, amount: int, limit: int) -> int:
        """Count ``amount`` of a limit in the node's state; see ``NodeState.spend``."""
        return self._state.spend(contract.digest(), what, amount, limit)

    def verify_own_approval(self, contract: Contract) -> None:
        """Check in the node's state that this party has not taken its approval back.

        Raises:
            RefusedError: it has.
        """
        own = [self.party] if self._state.revocation(contract.digest()) is not None else []
        verify_not_revoked(contract, self.party, own)

    def load_table(self, contract: Contract) -> Table:
        """Return the rows of the configured source, checked against ``contract`` first, without enterprises that withdrew."""
        verify_own_part(contract, self._config, self._state)
        return load(self._config).without(self._state.withdrawn_enterprises(contract.digest()))

    def portfolio(self, contract: Contract) -> BankPortfolio | None:
        """Return this bank's exposures and what it remembers of earlier answers, if the contract has them added up."""
        config = self._config
        if contract.portfolio is None or config.portfolio is None or config.pricing is None:
            return None
        memory = _Answers(self._state, memory_name(contract))
        return BankPortfolio(contract.portfolio, config.portfolio, config.pricing.loss_given_default, memory)

    def open_transport(self, run_id: int, peers: frozenset[str]) -> ExchangeClient:
        """Connect to the coordinator's Exchange."""
        client = ExchangeClient(
            self._config.coordinator.address,
            *self._tls,
            run_id,
            self.party,
            peers,
            connect_timeout_seconds=self._config.limits.connect_timeout_seconds,
            send_timeout_seconds=self._config.limits.receive_timeout_seconds,
        )
        self._transports[run_id] = client
        return client

    def progress(self, run_id: int, contract: Contract) -> ProgressSink:
        """Return what shows progress here and, as far as the contract lets it, at the coordinator."""
        started = time.monotonic()

        def show(progress: Progress) -> None:
            seconds = time.monotonic() - started
            losses = "" if progress.loss is None else f", loss {progress.loss:.6f}"
            if progress.holdout_loss is not None:
                losses += f", held out {progress.holdout_loss:.6f}"
            transport = self._transports.get(run_id)
            traffic = (
                f", sent {transport.bytes_sent:,} B, received {transport.bytes_received:,} B"
                if transport
                else ""
            )
            _log.info(
                "run %d: %s %d: %s%s, %.1f s%s",
                run_id, progress.phase, progress.iteration, progress.message, losses, seconds, traffic,
            )  # fmt: skip
            self._save(run_id, contract.digest(), "running", progress.phase, progress.message)
            if progress.iteration == 0:  # not what every iteration says
                self._trail.note("progress", run_id, phase=progress.phase, message=progress.message[:2000])
            if transport:
                shown = progress.loss if contract.outputs.coordinator_metrics else None
                with suppress(FedshareError):  # a report that is lost must not end a run
                    transport.report_progress(progress.phase, progress.iteration, seconds, shown)

        return show

    def load_result(self, run_id: int) -> Mapping[str, Any] | None:
        """Return ``result.json`` of a run, or ``None``."""
        return self._state.read_run_json(run_id, "result.json")

    def save_result(
        self, run_id: int, result: Mapping[str, Any], customers: Mapping[str, Any] | None
    ) -> None:
        """Store ``result.json`` and, at a bank, ``customers.parquet`` in the run's folder.

        Raises:
            ProtocolError: there is a ``result.json``: a model that parties have announced is never replaced.
        """
        if self.load_result(run_id) is not None:
            raise ProtocolError(f"a result of run {run_id} is kept already: it is not replaced")
        if customers is not None:
            buffer = io.BytesIO()
            pq.write_table(pa.table(dict(customers)), buffer)
            write_private(self._state.run_folder(run_id) / "customers.parquet", buffer.getvalue())
        self._state.write_run_json(run_id, "result.json", result)
        self._trail.note("completed", run_id, contract=result["contract_digest"])
        self._trail.commit_head(run_id, self.randomness)
        phase, message = ("evaluate", "model complete") if "weights" in result else ("serve", "served")
        self._save(run_id, result["contract_digest"], "completed", phase, message)

    def save_failure(self, run_id: int, phase: str, error: FedshareError) -> None:
        """Store ``failure.json`` in the run's folder and the run's end; a disk that refuses one of them is logged."""
        account = {
            "phase": phase,
            "error": type(error).__name__,
            "exit_code": error.exit_code,
            "message": str(error),
        }
        stores: tuple[Callable[[], object], ...] = (
            lambda: self._save(run_id, "", "failed", phase, str(error)),
            lambda: self._trail.note("failed", run_id, phase=phase[:64], message=str(error)[:2000]),
            lambda: self._trail.commit_head(run_id, self.randomness),
            lambda: self._save_first(run_id, account),
        )
        for store in stores:
            try:
                store()
            except FedshareError as storage:
                _log.error("run %d: the cause could not be stored: %s", run_id, storage)

    def _save_first(self, run_id: int, account: Mapping[str, Any]) -> None:
        """Write ``failure.json`` unless there is one: what was asked for after the end is not why the run ended."""
        if self._state.read_run_json(run_id, "failure.json") is None:
            self._state.write_run_json(run_id, "failure.json", account)

    def log(self, kind: type[Statement], **fields: Any) -> None:  # noqa: ANN401 - the statement checks them
        """Sign a statement of this party and log it."""
        self._trail.log(kind, **fields)

    def _save(self, run_id: int, digest: str, status: str, phase: str, message: str) -> None:
        changed = self.now().isoformat(timespec="seconds")
        self._state.save_run(RunRecord(run_id, digest, status, phase, message, changed))


class _Answers:
    """``PortfolioMemory`` in the state folder."""

    def __init__(self, state: NodeState, banks: str) -> None:
        self._state = state
        self._banks = banks

    def answers(self) -> list[StoredAnswer]:
        return [StoredAnswer(**each) for each in self._state.portfolio_answers(self._banks)]

    def remember(self, answer: StoredAnswer) -> None:
        self._state.add_portfolio_answer(self._banks, asdict(answer))


def run_node(config: NodeConfig, state: NodeState) -> None:
    """Serve the coordinator's runs until SIGTERM or ctrl-C.

    Raises:
        FedshareError: the node is not set up, or the coordinator cannot be reached or does not know this node.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Flower's client would log every poll for tasks
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    settings = SuperNodeSettings(
        fleet_address=config.coordinator.fleet,
        ca_certificate=config.coordinator.ca_certificate,
        private_key=state.flower_key_path,
        folder=state.flower_folder,
        connect_timeout_seconds=config.limits.connect_timeout_seconds,
    )

    def ready(_: SuperNode) -> None:
        _log.info("%s waits for runs of %s", config.party, config.coordinator.fleet)

    address, tls = config.coordinator.address, tls_identity(config, state)
    log_key = NoteKey.parse(state.log_trust().log_key)
    with (
        Trail(
            config.party,
            state.identity(),
            state.private_log_folder,
            state.private_log_signer(config.party),
            AuditClient(address, tls).submit,
            time.time,
        ) as trail,
        Witness(state.witness_folder, state.witness_signer(config.party), [log_key], time.time) as witness,
        WitnessLink(address, tls, witness),
        ExitStack() as stack,
    ):
        platform = NodePlatform(config, state, trail)
        state.fail_interrupted_runs(platform.now())
        if config.scoring is not None:
            authority = open_authority(state.folder, platform.now(), create=True)
            own = server_identity(authority, config.scoring.names, platform.now())
            stack.enter_context(ScoreServer(platform.scoring.desk, config.scoring.listen, own))
            _log.info("%s answers its own systems at %s", config.party, config.scoring.listen)
        take_tasks(settings, NodeService(platform), stopping, ready)
