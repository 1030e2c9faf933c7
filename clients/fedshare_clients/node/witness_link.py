"""This node as a witness of the coordinator's log: questions come over a stream that the node has opened."""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING, Self

import grpc

from fedshare.errors import StorageError
from fedshare.wire.v1 import audit_pb2 as wire
from fedshare.wire.v1.audit_pb2_grpc import AuditServiceStub

from .enrolment import connect
from .exchange import error_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedshare_clients.auditor.witness import Witness

    from .enrolment import TlsIdentity

__all__ = ["WitnessLink"]

_FIRST_BACKOFF_SECONDS = 0.5
_MAX_BACKOFF_SECONDS = 10.0
_CANNOT_STORE = 500
_log = logging.getLogger(__name__)


class WitnessLink:
    """Keeps a stream to the coordinator open and answers on it, in a thread, while the context lasts.

    Args:
        address: ``host:port`` of the coordinator.
        tls: this node's side of the connection.
        witness: answers, after storing what it answers about.
    """

    def __init__(self, address: str, tls: TlsIdentity, witness: Witness) -> None:
        self._address = address
        self._tls = tls
        self._witness = witness
        self._stopping = threading.Event()
        self._call: grpc.Call | None = None
        self._thread = threading.Thread(target=self._maintain, name="witness", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        call = self._call
        if call is not None:
            call.cancel()
        self._thread.join()

    def _maintain(self) -> None:
        backoff, is_known = _FIRST_BACKOFF_SECONDS, False
        while not self._stopping.is_set():
            try:
                with connect(self._address, self._tls) as channel:
                    for _ in self._answered(AuditServiceStub(channel)):
                        backoff, is_known = _FIRST_BACKOFF_SECONDS, False
            except grpc.RpcError as error:
                if not self._stopping.is_set() and not is_known:
                    is_known = True  # once per loss, not every few seconds
                    _log.warning("the coordinator asks no witness now: %s", error_of(error, self._address))
            self._stopping.wait(backoff)
            backoff = min(2 * backoff, _MAX_BACKOFF_SECONDS)

    def _answered(self, stub: AuditServiceStub) -> Iterator[None]:
        """Yield after each question that was answered."""
        answers: queue.SimpleQueue[wire.WitnessAnswer | None] = queue.SimpleQueue()
        call = stub.Witness(iter(answers.get, None))
        self._call = call
        if self._stopping.is_set():  # it was set while there was no call to cancel
            call.cancel()
        try:
            for question in call:
                answers.put(self._answer(question.body))
                yield
        finally:
            answers.put(None)
            call.cancel()

    def _answer(self, body: bytes) -> wire.WitnessAnswer:
        try:
            answer = self._witness.add_checkpoint(body)
        except StorageError:
            _log.exception("the witness cannot store what it sees: nothing is cosigned")
            return wire.WitnessAnswer(status=_CANNOT_STORE)
        if answer.status not in (200, 409):
            _log.error("the coordinator's log was not cosigned: %d %s", answer.status, answer.body.decode())
        return wire.WitnessAnswer(status=answer.status, body=answer.body)
