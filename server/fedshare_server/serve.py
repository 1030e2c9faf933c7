"""The running coordinator: Flower's SuperLink and our gRPC services, started and ended together.

The gRPC port opens first, so that a taken one is known at once; an enrolment that comes before Flower
answers is told to try again. The ready file is written last and removed first. Whatever ends one part ends
the others, and a run under way is ended at every party while its streams are still open.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from fedshare.errors import ConfigError
from fedshare.wire.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server
from fedshare.wire.v1.contracts_pb2_grpc import add_ContractServiceServicer_to_server
from fedshare.wire.v1.enrolment_pb2_grpc import add_EnrolmentServiceServicer_to_server
from fedshare.wire.v1.exchange_pb2_grpc import add_ExchangeServiceServicer_to_server
from fedshare_server.authority import load_authority, load_tls, renew_server
from fedshare_server.config import replace_file
from fedshare_server.keeper import Keeper
from fedshare_server.log_keys import LogKeys
from fedshare_server.notary import Notary
from fedshare_server.service import start_grpc
from fedshare_server.service_audit import AuditService
from fedshare_server.service_contracts import ContractService
from fedshare_server.service_enrolment import EnrolmentService
from fedshare_server.service_exchange import ExchangeService
from fedshare_server.superlink import Superlink, SuperlinkSettings
from fedshare_server.witness_http import HttpWitness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import grpc

    from fedshare.audit.publication import WitnessClient
    from fedshare_server.commands import State
    from fedshare_server.config import ServerConfig, StateFolder
    from fedshare_server.storage import Store

__all__ = ["serve", "superlink_of"]

_WATCH_SECONDS = 0.5
_GRACE_SECONDS = 2.0


def serve(state: State, ready_file: Path) -> None:
    """Serve until SIGTERM or SIGINT comes.

    Raises:
        ConfigError: another coordinator runs on this state, or a certificate is missing or not valid.
        UnavailableError: a port is taken, or the SuperLink did not start or died.
    """
    settings, store = state.settings, state.store
    with ExitStack() as stack:
        stack.enter_context(_only_one(state.folder))
        stopping = stack.enter_context(_signals())
        if renew_server(state.folder, settings, _now()):
            print("The server's certificate was renewed.", flush=True)
        _end_orphans(store)
        superlink = superlink_of(state)
        exchange = ExchangeService(store, expendable=store.expendable_parties)
        stack.callback(exchange.stop)
        keys = LogKeys.load(state.folder)
        notary = stack.enter_context(Notary(state.folder.log_folder, keys, store, _outside(settings)))
        server = _start_services(state, superlink, exchange, keys, notary)
        stack.callback(lambda: server.stop(_GRACE_SECONDS).wait())
        stack.callback(superlink.stop)
        superlink.start()
        for party in store.parties():
            superlink.register_node(party.flower_key)
        stack.callback(
            _end_runs, store, exchange, "", "the coordinator was stopped during the run: start training again"
        )
        stack.enter_context(_ready(settings, ready_file))
        keeper = Keeper(store, superlink, _now)
        while not stopping.wait(_WATCH_SECONDS):
            superlink.verify_alive()
            notary.verify_alive()
            keeper.look()
        print("Stopping.", flush=True)


def _outside(settings: ServerConfig) -> dict[str, WitnessClient]:
    return {name: HttpWitness(witness.url) for name, witness in settings.witnesses.items()}


def _start_services(
    state: State, superlink: Superlink, exchange: ExchangeService, keys: LogKeys, notary: Notary
) -> grpc.Server:
    store, settings = state.store, state.settings
    authority = load_authority(state.folder, _now())
    enrolment = EnrolmentService(store, authority, settings, keys, superlink.register_node, _now)
    audit = AuditService(store, notary, partial(_end_runs, store, exchange))
    return start_grpc(
        f"{settings.bind}:{settings.grpc_port}",
        load_tls(state.folder),
        store,
        [
            partial(add_EnrolmentServiceServicer_to_server, enrolment),
            partial(add_ContractServiceServicer_to_server, ContractService(store, _now)),
            partial(add_ExchangeServiceServicer_to_server, exchange),
            partial(add_AuditServiceServicer_to_server, audit),
        ],
    )


def superlink_of(state: State) -> Superlink:
    """Return the handle on this coordinator's SuperLink, whether this process runs it or another."""
    certificate, key = state.folder.server_files
    return Superlink(
        SuperlinkSettings(
            folder=state.folder.flower_folder,
            database_url=state.folder.database_url(state.settings),
            certificate=certificate,
            key=key,
            fleet_port=state.settings.fleet_port,
            superlink_port=state.settings.superlink_port,
            bind=state.settings.bind,
        )
    )


def _end_orphans(store: Store) -> None:
    """End the runs whose ServerApp died with an earlier coordinator, so that their parties hear of it."""
    for run in store.runs():
        if run.status == "running":
            store.abort(run.run_id, "the coordinator was restarted during the run: start training again")
        store.close_run(run.run_id, "coordinator_restarted")


def _end_runs(store: Store, exchange: ExchangeService, digest: str, reason: str) -> None:
    """End the runs of a contract, or of all with an empty ``digest``, at every party that is connected."""
    for run in store.runs():
        if run.status == "running" and digest in {"", run.digest}:
            exchange.exchange.abort(run.run_id, reason)


def _now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def _only_one(folder: StateFolder) -> Iterator[None]:
    """Hold the state folder, so that two coordinators never serve the same state."""
    with os.fdopen(os.open(folder.path / "lock", os.O_CREAT | os.O_RDWR, 0o600)) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"{folder.path}: another fedshare-server runs on this state: end it first"
            ) from error
        yield


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Yield what SIGTERM and SIGINT set, and put the earlier handlers back at the end."""
    stopping = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stopping.set()) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ready(settings: ServerConfig, file: Path) -> Iterator[None]:
    """Tell people and programs that the coordinator answers, for as long as it does."""
    address = f"{settings.name}:{settings.grpc_port}"
    replace_file(file, f"{address}\n".encode())
    print(f"Ready: gRPC at {address}, fleet at {settings.name}:{settings.fleet_port}.", flush=True)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
