"""The gRPC service of a bank's node for the bank's own systems. It runs in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Final, Self

import grpc

from fedshare.errors import (
    ConfigError,
    DataError,
    FedshareError,
    ProtocolError,
    RefusedError,
    UnavailableError,
)
from fedshare.wire.v1 import scoring_pb2 as wire
from fedshare.wire.v1.scoring_pb2_grpc import ScoreServiceServicer, add_ScoreServiceServicer_to_server

from .score_wire import answer_to_wire, cells_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .enrolment import TlsIdentity
    from .scorer import Scorer, ScoringDesk

__all__ = ["MAX_QUESTIONS", "ScoreServer"]

MAX_QUESTIONS: Final = 1000
_GRACE_SECONDS: Final = 1.0
_OPTIONS: Final = [("grpc.so_reuseport", 0)]  # a taken port is an error, not a share of its connections

Context = grpc.aio.ServicerContext


class _ScoreService(ScoreServiceServicer):
    def __init__(self, desk: ScoringDesk) -> None:
        self._desk = desk

    async def Score(  # noqa: N802  gRPC's name
        self, request: wire.ScoreRequest, context: Context[wire.ScoreRequest, wire.ScoreResponse]
    ) -> wire.ScoreResponse:
        """Answer about one enterprise."""
        try:
            scorer = self._desk.find(request.contract)
            return wire.ScoreResponse(answer=await _answer(scorer, request.question))
        except FedshareError as error:
            await context.abort(_status(error), str(error))
            raise

    async def ScoreBatch(  # noqa: N802  gRPC's name
        self,
        requests: AsyncIterator[wire.ScoreBatchRequest],
        context: Context[wire.ScoreBatchRequest, wire.ScoreBatchResponse],
    ) -> AsyncIterator[wire.ScoreBatchResponse]:
        """Answer about many, batch by batch."""
        async for request in requests:
            try:
                if len(request.questions) > MAX_QUESTIONS:
                    raise DataError(f"expected at most {MAX_QUESTIONS} questions in a batch")
                scorer = self._desk.find(request.contract)
                answers = await asyncio.gather(*(_answer(scorer, each) for each in request.questions))
            except FedshareError as error:
                await context.abort(_status(error), str(error))
                raise
            yield wire.ScoreBatchResponse(answers=answers)

    async def ShowProfile(  # noqa: N802  gRPC's name
        self,
        request: wire.ShowProfileRequest,
        context: Context[wire.ShowProfileRequest, wire.ShowProfileResponse],
    ) -> wire.ShowProfileResponse:
        """Show what the contract lets the holders show of an enterprise that consented."""
        try:
            answer, holders = await self._desk.find(request.contract).profile(request.consent)
        except FedshareError as error:
            await context.abort(_status(error), str(error))
            raise
        return wire.ShowProfileResponse(answer=answer_to_wire(answer), holders=holders)

    async def WithdrawConsent(  # noqa: N802  gRPC's name
        self,
        request: wire.WithdrawConsentRequest,
        context: Context[wire.WithdrawConsentRequest, wire.WithdrawConsentResponse],
    ) -> wire.WithdrawConsentResponse:
        """Take note, here and at every holder, that a consent was taken back."""
        try:
            scorer = self._desk.find(request.contract)
            await asyncio.to_thread(scorer.withdraw, request.withdrawal)
        except FedshareError as error:
            await context.abort(_status(error), str(error))
            raise
        return wire.WithdrawConsentResponse()


async def _answer(scorer: Scorer, question: wire.Question) -> wire.ScoreAnswer:
    return answer_to_wire(await scorer.answer(question.enterprise, cells_of(question)))


def _status(error: FedshareError) -> grpc.StatusCode:
    if isinstance(error, DataError | ProtocolError):
        return grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(error, RefusedError):
        return grpc.StatusCode.PERMISSION_DENIED
    if isinstance(error, UnavailableError):
        return grpc.StatusCode.UNAVAILABLE
    if isinstance(error, ConfigError):
        return grpc.StatusCode.FAILED_PRECONDITION
    return grpc.StatusCode.INTERNAL


class ScoreServer:
    """The running service; use it as a context manager.

    Args:
        desk: who answers.
        listen: ``host:port``.
        tls: the service's side of mutual TLS.

    Raises:
        UnavailableError: the port is taken, or the address is not this host's.
    """

    def __init__(self, desk: ScoringDesk, listen: str, tls: TlsIdentity) -> None:
        self._desk = desk
        self._listen = listen
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="score-service", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise UnavailableError(
                f"cannot listen on {listen} for the bank's systems: another process has the port, or the address is "
                "not this host's (scoring.listen in node.yaml)"
            ) from self._failure

    def __enter__(self) -> Self:
        """Return the running service."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except RuntimeError as error:
            self._failure = error
        finally:
            self._loop.close()
            self._started.set()

    async def _serve(self) -> None:
        server = grpc.aio.server(options=_OPTIONS)
        add_ScoreServiceServicer_to_server(_ScoreService(self._desk), server)
        credentials = grpc.ssl_server_credentials(
            [(self._tls.key_pem, self._tls.certificate_pem)],
            root_certificates=self._tls.ca_pem,
            require_client_auth=True,
        )
        server.add_secure_port(self._listen, credentials)
        await server.start()
        self._started.set()
        await self._stopping.wait()
        await server.stop(_GRACE_SECONDS)
