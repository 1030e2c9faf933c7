"""A federation on loopback for benchmarks: the real Exchange, and every party's real service in its own process.

    with Federation(Work(universe=100_000, customers=30_000)) as federation:
        federation.run()
        print(federation.marks["bank"])

Everything is as in a deployment (sessions, sealed primitives, gRPC with mutual TLS, Parquet sources through the
node's own reader, memory of each process its own), except that a loop here asks for the phases in Flower's place and
contracts are not fetched from a coordinator. ``Work(is_sealed=False)`` runs ``unsealed.py``'s roles instead.
"""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fedshare.audit.notes import COSIGNATURE, NoteSigner
from fedshare.contract.model import Contract, parse_contract
from fedshare.contract.signing import Decision, sign_decision
from fedshare.identity.certificates import (
    create_authority,
    issue_client,
    issue_server,
    key_to_pem,
    public_key_digest,
    to_pem,
)
from fedshare.identity.keys import IdentityKey, encode_public_key
from fedshare.sealed.randomness import Stream
from fedshare_clients.node import service as node_service
from fedshare_clients.node.config import NodeConfig, PrivacyConfig
from fedshare_clients.node.data import load
from fedshare_clients.node.exchange import ExchangeClient
from fedshare_clients.node.privacy import PrivacyAccount
from fedshare_clients.node.score_service import ScoreServer
from fedshare_clients.node.score_tls import client_identity, open_authority, server_identity
from fedshare_clients.node.serving import ScoringSettings
from fedshare_clients.node.state import NodeState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from multiprocessing.connection import Connection

    from fedshare_clients.node.enrolment import TlsIdentity
    from fedshare_clients.node.progress import Progress

RUN = 1
BANK = "bank"
CODE_DIGEST = "c0" * 32
START_METHOD = "spawn"  # a child has the memory of a process of its own
NEVER = 1e-15  # a tolerance that no iteration reaches: training ends at the iteration limit


@dataclass(frozen=True)
class Work:
    """What to train.

    Attributes:
        universe: rows of every holder.
        customers: rows of each bank, all of them known to every holder.
        holders: how many.
        columns: numeric columns of each holder; the bank has two.
        bins: per column.
        iterations: exactly so many.
        is_sealed: False for the roles that send everything in the clear.
        banks: how many; their customers differ, up to chance.
        drops: whether the second of two banks drops whom the first one has too.
    """

    universe: int
    customers: int
    holders: int = 2
    columns: int = 10
    bins: int = 10
    iterations: int = 8
    is_sealed: bool = True
    banks: int = 1
    drops: bool = False

    @property
    def bank_ids(self) -> list[str]:
        return [BANK, *(f"{BANK}-{index}" for index in range(1, self.banks))]

    @property
    def holder_ids(self) -> list[str]:
        return [f"holder-{index}" for index in range(self.holders)]

    @property
    def parties(self) -> list[str]:
        return [*self.bank_ids, *self.holder_ids]

    def column_names(self, party: str) -> list[str]:
        return [f"x{index}" for index in range(2 if party in self.bank_ids else self.columns)]

    def identity(self, party: str) -> IdentityKey:
        return IdentityKey.generate(Stream(hashlib.sha256(party.encode()).digest()).read)

    def contract(self) -> Contract:
        """Return the same contract in every process."""
        parties = [
            {
                "id": party,
                "role": "label_holder" if party in self.bank_ids else "feature_holder",
                "identity_key": encode_public_key(self.identity(party).public_bytes()),
                "flower_key": hashlib.sha256(party.encode()).hexdigest(),
                "columns": [{"name": name, "bins": self.bins} for name in self.column_names(party)],
            }
            for party in self.parties
        ]
        return parse_contract(
            {
                "name": "benchmark",
                "purpose": "a benchmark",
                "parties": parties,
                "model": {"max_iterations": self.iterations, "tolerance": NEVER},
                "alignment": {"identifier": "opaque", "quota": self.customers},
                "between_banks": {"accept_two": self.banks == 2, "drop_shared_customers": self.drops},
                "minimum_cohort": 30,
                "scoring": {"quota": 10 * self.universe},
                "valid_from": "2026-01-01T00:00:00Z",
                "valid_until": "2100-01-01T00:00:00Z",
                "code_digest": CODE_DIGEST,
                "log": {
                    "key": NoteSigner("bench/log", self.identity("log").signing_key).key.vkey,
                    "coordinator_key": encode_public_key(self.identity("coordinator").public_bytes()),
                    "witnesses": {
                        party: NoteSigner(
                            f"{party}/w", self.identity(party).signing_key, COSIGNATURE
                        ).key.vkey
                        for party in self.parties
                    },
                    "quorum": len(self.parties),
                },
                "nonce": "11" * 32,
            }
        )

    def config(self, party: str, folder: Path) -> NodeConfig:
        data: dict[str, Any] = {
            "source": "parquet",
            "path": folder / f"{party}.parquet",
            "identifier": "id",
            "identifier_kind": "opaque",
            "columns": {name: {"kind": "numeric"} for name in self.column_names(party)},
        }
        if party in self.bank_ids:
            data["label"] = "label"
        return NodeConfig.model_validate(
            {
                "party": party,
                "role": "label_holder" if party in self.bank_ids else "feature_holder",
                "coordinator": {"address": "127.0.0.1:1", "fleet": "127.0.0.1:1"},
                "data": data,
            }
        )


def write_tables(work: Work, folder: Path) -> None:
    """Write every party's rows: the outcome depends on two columns of each holder and on the bank's own."""
    rng = np.random.default_rng(5)
    names = pa.array([f"{row:018d}" for row in range(work.universe)])
    logit = np.full(work.universe, -2.0)
    for party in work.holder_ids:
        columns = {name: rng.normal(size=work.universe) for name in work.column_names(party)}
        for values in list(columns.values())[:2]:
            logit += 0.8 * np.sin(values) + 0.3 * values
        pq.write_table(pa.table({"id": names, **columns}), folder / f"{party}.parquet")
    for bank in work.bank_ids:
        own = rng.normal(size=(2, work.customers))
        rows = rng.permutation(work.universe)[: work.customers]
        chance = 1.0 / (1.0 + np.exp(-(logit[rows] + own[0])))
        label = (rng.random(work.customers) < chance).astype(np.int8)
        table = pa.table({"id": names.take(pa.array(rows)), "label": label, "x0": own[0], "x1": own[1]})
        pq.write_table(table, folder / f"{bank}.parquet")


@dataclass(frozen=True)
class Mark:
    """A party's counters when it reported progress."""

    phase: str
    iteration: int
    seconds: float
    cpu_seconds: float
    bytes_sent: int
    bytes_received: int


class _Runs:
    """The coordinator's store, in memory: one run."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        self._digests = digests

    def find_party(self, party: str) -> Any:
        digest = self._digests.get(party)
        return digest and SimpleNamespace(certificate_digest=digest, role="label_holder")

    def find_run(self, _run_id: int) -> Any:
        return SimpleNamespace(status="running", reason="")

    def parties_of_run(self, _run_id: int) -> tuple[str, ...]:
        return tuple(self._digests)

    def abort(self, _run_id: int, reason: str, party: str = "", code: str = "") -> None:
        print(f"run aborted: {reason} {party} {code}", file=sys.stderr)

    def lose(self, _run_id: int, party: str) -> None:
        print(f"lost: {party}", file=sys.stderr)

    def add_progress(self, progress: Any) -> None:
        pass


def serve_exchange(parties: list[str], pipe: Connection) -> None:
    """Be the coordinator's Exchange: say the port, the authority and the parties' certificates, then wait."""
    # Imported here: the parties' processes have no server in them.
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    from fedshare.wire.v1.exchange_pb2_grpc import add_ExchangeServiceServicer_to_server  # noqa: PLC0415
    from fedshare_server.authority import TlsFiles  # noqa: PLC0415
    from fedshare_server.service import start_grpc  # noqa: PLC0415
    from fedshare_server.service_exchange import ExchangeService  # noqa: PLC0415

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    now, day = datetime.now(UTC), timedelta(days=1)
    authority = create_authority(ec.generate_private_key(ec.SECP256R1()), "benchmark", now, day, os.urandom)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = issue_server(authority, key.public_key(), ["127.0.0.1"], now, day, os.urandom)
    clients, digests = {}, {}
    for party in parties:
        own = ec.generate_private_key(ec.SECP256R1())
        issued = issue_client(authority, own.public_key(), party, "label_holder", now, day, os.urandom)
        clients[party] = (to_pem(issued), key_to_pem(own))
        digests[party] = public_key_digest(own.public_key())
    runs = _Runs(digests)
    service = ExchangeService(runs)
    port = _free_port()
    ca = to_pem(authority.certificate)
    server = start_grpc(
        f"127.0.0.1:{port}",
        TlsFiles(ca, to_pem(certificate), key_to_pem(key)),
        runs,
        [lambda grpc_server: add_ExchangeServiceServicer_to_server(service, grpc_server)],
    )
    pipe.send((port, ca, clients))
    while pipe.recv() != "stop":
        pipe.send((time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
    server.stop(0).wait()
    service.stop()


def _free_port() -> int:
    import socket  # noqa: PLC0415

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class _Memory:
    """``BankMemory`` of a party whose every run is its first."""

    def extend_sums(self, choose: Any) -> None:
        choose(bytes(32), [])

    def shared_band(self, _digest: str, _peer: str) -> None:
        pass

    def save_shared_band(self, _digest: str, _peer: str, _band: Any) -> None:
        pass

    def fixed_customers(self, _side: str, _peer: str) -> None:
        pass

    def fix_customers(self, _side: str, _peer: str, _marks: Any, _name: bytes) -> None:
        pass

    def ever_droppable(self) -> list[Any]:
        return []


@dataclass
class _Platform:
    """A node's process around its service; what it reports is kept for the benchmark."""

    work: Work
    party: str
    folder: Path
    connection: tuple[Any, ...]
    randomness: Any = os.urandom
    code_digest: str = CODE_DIGEST
    holdout_seed: bytes = bytes(32)
    receive_timeout_seconds: float = 900.0
    marks: list[Mark] = field(default_factory=list)
    failure: str = ""
    scoring: ScoringSettings = field(default_factory=lambda: ScoringSettings(wait_seconds=60.0))
    kept: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    transport: ExchangeClient | None = None

    def __post_init__(self) -> None:
        self.identity = self.work.identity(self.party)
        folder = self.folder / f"{self.party}-state"
        folder.mkdir(mode=0o700, exist_ok=True)
        self.state = self.withdrawals = NodeState(folder)
        self.memory = _Memory()
        self.privacy = PrivacyAccount(self.party, PrivacyConfig(), self.state, self.now)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def approved_contract(self, digest: str) -> tuple[Contract, Mapping[str, bytes]]:
        decisions = {}
        for party in self.work.parties:
            decision = Decision(
                contract_digest=digest,
                party=party,
                verdict="approve",
                time=datetime.now(UTC).replace(microsecond=0),
            )
            decisions[party] = sign_decision(decision, self.work.identity(party))
        return self.work.contract(), decisions

    def await_run(self, contract: Contract, run_id: int, model_run: int | None) -> None:
        pass

    def begin_run(self, contract: Contract, run_id: int) -> None:
        pass

    def await_opening(self, contract: Contract, run_id: int, phase: str) -> None:
        pass

    def spend(self, contract: Contract, what: str, amount: int, limit: int) -> int:
        return self.state.spend(contract.digest(), what, amount, limit)

    def verify_own_approval(self, contract: Contract) -> None:
        pass

    def portfolio(self, contract: Contract) -> None:
        pass

    def load_table(self, _contract: Contract) -> Any:
        return load(self.work.config(self.party, self.folder))

    def open_transport(self, run_id: int, peers: frozenset[str]) -> ExchangeClient:
        port, ca, (certificate, key) = self.connection
        self.transport = ExchangeClient(
            f"127.0.0.1:{port}", ca, certificate, key, run_id, self.party, peers, send_timeout_seconds=900.0
        )
        return self.transport

    def progress(self, run_id: int, _contract: Contract) -> Any:
        def show(progress: Progress) -> None:
            transport = self.transport
            sent, received = (transport.bytes_sent, transport.bytes_received) if transport else (0, 0)
            now = time.perf_counter()
            self.marks.append(
                Mark(progress.phase, progress.iteration, now, time.process_time(), sent, received)
            )
            if transport:
                transport.report_progress(progress.phase, progress.iteration, now)

        return show

    def load_result(self, run_id: int) -> Mapping[str, Any] | None:
        return self.kept.get(run_id)

    def save_result(self, run_id: int, result: Mapping[str, Any], _customers: Any) -> None:
        self.kept[run_id] = result
        self.result = {name: result[name] for name in ("federated", "bank_only") if name in result}

    def save_failure(self, _run_id: int, phase: str, error: Any) -> None:
        self.failure = f"{self.party}, {phase}: {error}"

    def log(self, kind: Any, **fields: Any) -> None:
        kind(issuer=self.party, issued_at=0, **fields)


def serve_party(work: Work, party: str, folder: Path, connection: tuple[Any, ...], pipe: Connection) -> None:
    """Be one party: take phases from the pipe until it says stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not work.is_sealed:
        import unsealed  # noqa: PLC0415

        unsealed.install()
    platform = _Platform(work, party, folder, connection)
    service = node_service.NodeService(platform)
    stack = ExitStack()
    while (request := pipe.recv()) != "stop":
        if request == "score service":
            pipe.send(_start_scores(platform, stack))
            continue
        if request == "usage":
            pipe.send(time.process_time())
            continue
        if request == "report":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            pipe.send(
                {"marks": platform.marks, "peak_rss_bytes": peak, "result": getattr(platform, "result", {})}
            )
            continue
        run_id, phase, content = request
        started = time.perf_counter()
        reply = service.handle_phase(run_id, phase, content)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pipe.send((reply, platform.failure, time.perf_counter() - started, peak))
    stack.close()


def _start_scores(platform: _Platform, stack: ExitStack) -> tuple[str, TlsIdentity]:
    """Start the bank's score service; return its address and what a caller needs."""
    address, now = f"127.0.0.1:{_free_port()}", datetime.now(UTC)
    authority = open_authority(platform.folder, now, create=True)
    stack.enter_context(
        ScoreServer(platform.scoring.desk, address, server_identity(authority, ["127.0.0.1"], now))
    )
    return address, client_identity(authority, "benchmark", now)


class Federation:
    """All processes of one run.

    Attributes:
        seconds: per phase, the longest of all parties.
        peaks: peak resident bytes after each phase, per party.
        marks: per party, what it reported.
        exchange_cpu_seconds: of the coordinator's process, over the train phase.
        exchange_peak: resident bytes of that process, at most.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, dict[str, int]] = {party: {} for party in work.parties}
        self.marks: dict[str, list[Mark]] = {}
        self.results: dict[str, Any] = {}
        self.exchange_cpu_seconds = 0.0
        self.exchange_peak = 0
        self._stack = ExitStack()
        self._pipes: dict[str, Connection] = {}

    def __enter__(self) -> Self:
        with self._stack:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
            context = multiprocessing.get_context(START_METHOD)
            writer = context.Process(target=write_tables, args=(self.work, folder))
            writer.start()
            self._exchange = self._start(context, serve_exchange, self.work.parties)
            port, ca, clients = self._exchange.recv()
            writer.join()
            for party in self.work.parties:
                connection = (port, ca, clients[party])
                self._pipes[party] = self._start(
                    context, serve_party, self.work, party, folder, connection, name=party
                )
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, context: Any, target: Any, *arguments: Any, name: str = "exchange") -> Connection:
        ours, theirs = context.Pipe()
        process = context.Process(target=target, args=(*arguments, theirs), name=name, daemon=True)
        process.start()
        theirs.close()

        def stop() -> None:
            with suppress(OSError):
                ours.send("stop")
            process.join(20)
            process.kill()

        self._stack.callback(stop)
        return ours

    def run(self) -> Federation:
        """Take the run through all phases.

        Raises:
            RuntimeError: a phase failed; the message is the first cause that a party noted.
        """
        self._go(RUN, node_service.PHASES)
        return self

    def serve(self) -> tuple[str, TlsIdentity]:
        """Serve the model that ``run`` trained; return the bank's score service and what a caller of it needs.

        Raises:
            RuntimeError: as ``run``.
        """
        self._go(RUN + 1, node_service.SERVING_PHASES[:-1], RUN)
        self._pipes[BANK].send("score service")
        address, identity = self._pipes[BANK].recv()
        return address, identity

    def _go(self, run_id: int, phases: Sequence[str], model_run: int | None = None) -> None:
        hellos: list[bytes] = []
        for phase in phases:
            content: dict[str, Any] = {
                "contract_digest": self.work.contract().digest(),
                "model_run": model_run,
                "hellos": hellos,
            }
            before = self._exchange_cpu()
            for pipe in self._pipes.values():
                pipe.send((run_id, phase, content))
            replies = {party: pipe.recv() for party, pipe in self._pipes.items()}
            if phase == "train":
                self.exchange_cpu_seconds = self._exchange_cpu() - before
            failures = [failure for reply, failure, _, _ in replies.values() if reply["status"] != "ok"]
            if failures:
                raise RuntimeError("; ".join(failures))
            self.seconds[phase] = max(seconds for _, _, seconds, _ in replies.values())
            for party, (_, _, _, peak) in replies.items():
                self.peaks[party][phase] = peak
            if phase == "hello":
                hellos = [reply["hello"] for reply, _, _, _ in replies.values()]
            if phase == "evaluate":
                self._collect()

    def cpu_seconds(self) -> dict[str, float]:
        """Return the processor time of every process so far, by party, and of the coordinator's as ``exchange``."""
        for pipe in self._pipes.values():
            pipe.send("usage")
        return {"exchange": self._exchange_cpu()} | {
            party: pipe.recv() for party, pipe in self._pipes.items()
        }

    def _exchange_cpu(self) -> float:
        self._exchange.send("usage")
        seconds, self.exchange_peak = self._exchange.recv()
        return float(seconds)

    def _collect(self) -> None:
        for party, pipe in self._pipes.items():
            pipe.send("report")
            report = pipe.recv()
            self.marks[party], self.results[party] = report["marks"], report["result"]

    def iteration_seconds(self) -> list[float]:
        """Return the time of every iteration from the second on: between two residuals of the bank."""
        times = [mark.seconds for mark in self.marks[BANK] if mark.phase == "train"]
        return [later - earlier for earlier, later in itertools.pairwise(times)]
