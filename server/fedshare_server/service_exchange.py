"""The Exchange over gRPC: one stream per party and run, and the reports of the nodes."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from fedshare.errors import FedshareError, ProtocolError, RefusedError, RunFailedError
from fedshare.wire.v1 import exchange_pb2 as wire
from fedshare.wire.v1.exchange_pb2_grpc import ExchangeServiceServicer
from fedshare_server.exchange import Exchange
from fedshare_server.interceptor import peer
from fedshare_server.storage.records import ProgressRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import grpc

    from fedshare.wire.v1.envelope_pb2 import Envelope
    from fedshare_server.exchange import Connection
    from fedshare_server.storage.records import RunRecord

__all__ = ["ExchangeService", "Runs"]

_SWEEP_SECONDS = 1.0
_MAX_CODE = 64
_MAX_REASON = 1000
_log = logging.getLogger(__name__)


class Runs(Protocol):
    """What the service needs of the coordinator's store."""

    def find_run(self, run_id: int) -> RunRecord | None:
        """Return one run, or ``None``."""

    def parties_of_run(self, run_id: int) -> tuple[str, ...]:
        """Return the parties of a run; empty if there is none."""

    def abort(self, run_id: int, reason: str, party: str = "", code: str = "aborted") -> None:
        """End a run for every party."""

    def lose(self, run_id: int, party: str) -> None:
        """Store that a run goes on without a party."""

    def add_progress(self, progress: ProgressRecord) -> None:
        """Store a party's report."""


class ExchangeService(ExchangeServiceServicer):
    """Answers ``Connect``, ``ReportProgress`` and ``ReportFailure``.

    A thread of its own looks once a second for lost parties and for runs that were ended elsewhere (by the
    operator or by the Flower run), until ``stop``.
    """

    def __init__(
        self,
        runs: Runs,
        *,
        window_bytes: int = 16 * 2**20,
        grace_seconds: float = 30.0,
        expendable: Callable[[int], frozenset[str]] = lambda _run_id: frozenset(),
        tap: Callable[[Envelope], None] = lambda _envelope: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runs = runs
        self.exchange = Exchange(
            lambda run_id: frozenset(runs.parties_of_run(run_id)),
            clock,
            window_bytes=window_bytes,
            grace_seconds=grace_seconds,
            expendable=expendable,
            on_abort=runs.abort,
            on_loss=runs.lose,
            tap=tap,
        )
        self._stopping = threading.Event()
        threading.Thread(target=self._sweep, name="exchange-sweep", daemon=True).start()

    def stop(self) -> None:
        """End the sweeping thread."""
        self._stopping.set()

    def Connect(  # noqa: N802  gRPC's name
        self, requests: Iterator[wire.ConnectRequest], context: grpc.ServicerContext
    ) -> Iterator[wire.ConnectResponse]:
        """Relay envelopes until the party closes, the run ends or the connection is lost.

        Raises:
            ProtocolError: a frame is malformed or out of order.
            RefusedError: the caller is not a party of the run, or sends in another's name.
            RunFailedError: the run is over.
        """
        first = next(requests, None)
        if first is None or first.WhichOneof("frame") != "open":
            raise ProtocolError("expected the frame `open` first on a stream")
        self._verify_running(first.open.run_id)
        connection = self.exchange.connect(peer(context).common_name, first.open)
        if not context.add_callback(connection.lost):
            connection.lost()
            return
        threading.Thread(target=_read, args=(requests, connection), name="exchange-read", daemon=True).start()
        try:
            yield from connection.frames()
        finally:
            connection.lost()

    def ReportProgress(  # noqa: N802  gRPC's name
        self, request: wire.ReportProgressRequest, context: grpc.ServicerContext
    ) -> wire.ReportProgressResponse:
        """Store how far the caller is.

        Raises:
            RefusedError: the caller is not a party of the run.
        """
        party = self._party_of(request.run_id, context)
        self._runs.add_progress(
            ProgressRecord(
                run_id=request.run_id,
                party=party,
                phase=request.phase[:_MAX_CODE],
                iteration=request.iteration,
                seconds=request.seconds,
                bytes_sent=request.bytes_sent,
                bytes_received=request.bytes_received,
                loss=request.loss if request.HasField("loss") else None,
            )
        )
        return wire.ReportProgressResponse()

    def ReportFailure(  # noqa: N802  gRPC's name
        self, request: wire.ReportFailureRequest, context: grpc.ServicerContext
    ) -> wire.ReportFailureResponse:
        """End the run for every party, unless it went on without the caller.

        Raises:
            RefusedError: the caller is not a party of the run.
        """
        party = self._party_of(request.run_id, context)
        if self.exchange.is_gone(request.run_id, party):
            return wire.ReportFailureResponse()
        reason, code = request.reason[:_MAX_REASON], request.code[:_MAX_CODE]
        self.exchange.abort(request.run_id, f"party {party} ended the run: {reason} [{code}]")
        return wire.ReportFailureResponse()

    def _party_of(self, run_id: int, context: grpc.ServicerContext) -> str:
        party = peer(context).common_name
        if party not in self._runs.parties_of_run(run_id):
            raise RefusedError("not_a_party", f"{party} is not a party of run {run_id}")
        return party

    def _verify_running(self, run_id: int) -> None:
        run = self._runs.find_run(run_id)
        if run is not None and run.status != "running":
            raise RunFailedError(run.reason or f"run {run_id} is over: it is {run.status}")

    def _sweep(self) -> None:
        while not self._stopping.wait(_SWEEP_SECONDS):
            try:
                self.exchange.expire()
                for run_id in self.exchange.run_ids():
                    self._follow(run_id)
            except Exception:  # noqa: BLE001  a failing database must not end the watch over lost parties
                _log.exception("looking after the runs failed; trying again")

    def _follow(self, run_id: int) -> None:
        """End here what was ended elsewhere."""
        run = self._runs.find_run(run_id)
        if run is None or run.status == "running":
            return
        if run.status != "completed":
            self.exchange.abort(run_id, run.reason)
        self.exchange.forget(run_id)


def _read(requests: Iterator[wire.ConnectRequest], connection: Connection) -> None:
    """Hand the frames of a party to its connection until there are no more."""
    with suppress(Exception):  # gRPC raises a bare Exception when the connection is cut
        for request in requests:
            try:
                if not _take(request, connection):
                    return
            except FedshareError as error:
                connection.fail(error)
                return
    connection.lost()


def _take(request: wire.ConnectRequest, connection: Connection) -> bool:
    """Hand on one frame; say whether more may follow."""
    match request.WhichOneof("frame"):
        case "envelope":
            connection.accept(request.envelope)
        case "ack":
            connection.acknowledge(request.ack)
        case "close":
            connection.close()
            return False
        case _:
            raise ProtocolError(
                "expected one of the frames envelope, ack and close: both sides must agree on version 1"
            )
    return True
