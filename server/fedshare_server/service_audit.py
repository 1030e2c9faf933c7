"""The audit log over gRPC: what parties state, openings of phases, and questions to the parties' witnesses."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedshare.audit.entries import Entry, EntryVerifier
from fedshare.audit.statements import (
    Envelopes,
    ModelManifest,
    PrivacySpent,
    PrivateHead,
    Refusal,
    Revocation,
    Scoring,
)
from fedshare.errors import ProtocolError, RefusedError, UnavailableError
from fedshare.wire.v1 import audit_pb2 as wire
from fedshare.wire.v1.audit_pb2_grpc import AuditServiceServicer
from fedshare_server.interceptor import peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import grpc

    from fedshare.audit.statements import Statement
    from fedshare_server.notary import Notary
    from fedshare_server.storage import Store

__all__ = ["AuditService", "verified_statement"]

_MAX_ENTRIES = 1000
_PLACE_SECONDS = 15.0
_OPENING_SECONDS = 60.0
_WITNESS_SECONDS = 10.0


def verified_statement(data: bytes, party: str, key: bytes) -> Statement:
    """Return what an entry says, after checking that ``party`` says it and ``key`` signed it.

    Raises:
        ProtocolError: it is no entry, in another name, or signed with another key.
    """
    entry = Entry.parse(data)
    if entry.statement.issuer != party:
        raise ProtocolError(f"expected an entry in the name of {party}, found another name")
    EntryVerifier().verify(entry, key)
    return entry.statement


@dataclass(frozen=True, slots=True)
class AuditService(AuditServiceServicer):
    """Answers ``SubmitEntries``, ``GetOpening`` and ``Witness``.

    Attributes:
        store: where what is said waits for the log.
        notary: keeps the log.
        end_runs: ends the runs of the contract with a digest, for a reason.
    """

    store: Store
    notary: Notary
    end_runs: Callable[[str, str], None]

    def SubmitEntries(  # noqa: N802  gRPC's name
        self, request: wire.SubmitEntriesRequest, context: grpc.ServicerContext
    ) -> wire.SubmitEntriesResponse:
        """Log what the caller states, and return where.

        Raises:
            ProtocolError: an entry is not the caller's, or there are too many.
            RefusedError: an entry is of a kind that comes another way, or about something that is not the
                caller's, or over.
            UnavailableError: the entries are stored and not in the log yet.
        """
        party = peer(context).common_name
        enrolled = self.store.find_party(party)
        if enrolled is None or not 1 <= len(request.entries) <= _MAX_ENTRIES:
            raise ProtocolError(f"expected 1 to {_MAX_ENTRIES} entries of an enrolled party")
        statements = [verified_statement(entry, party, enrolled.identity_key) for entry in request.entries]
        numbers = [
            self._store(party, statement, entry)
            for statement, entry in zip(statements, request.entries, strict=True)
        ]
        return wire.SubmitEntriesResponse(indices=self.notary.await_places(numbers, _PLACE_SECONDS))

    def GetOpening(  # noqa: N802  gRPC's name
        self, request: wire.GetOpeningRequest, context: grpc.ServicerContext
    ) -> wire.GetOpeningResponse:
        """Return the opening of a phase, or of a run, as soon as the witnesses have seen it.

        Raises:
            RefusedError: the caller is not a party of the run.
            UnavailableError: they have not, in time.
        """
        party = peer(context).common_name
        if party not in self.store.parties_of_run(request.run_id):
            raise RefusedError("not_a_party", f"{party} is not a party of run {request.run_id}")
        opening = self.notary.opening(request.run_id, request.phase[:64], request.seen_size, _OPENING_SECONDS)
        return wire.GetOpeningResponse(receipt=opening.receipt, consistency=opening.consistency)

    def Witness(  # noqa: N802  gRPC's name
        self, answers: Iterator[wire.WitnessAnswer], context: grpc.ServicerContext
    ) -> Iterator[wire.WitnessQuestion]:
        """Put questions to the caller's witness until the stream ends."""
        party, line = peer(context).common_name, _WitnessLine()
        if not context.add_callback(line.close):
            return
        self.notary.connect(party, line)
        try:
            while (body := line.next_question()) is not None:
                yield wire.WitnessQuestion(body=body)
                answer = next(answers, None)
                if answer is None:
                    return
                line.answer(answer.status, answer.body)
        finally:
            line.close()
            self.notary.disconnect(party, line)

    def _store(self, party: str, statement: Statement, entry: bytes) -> int:
        match statement:
            case Envelopes() | ModelManifest() | PrivacySpent():
                return self.store.add_run_entry(
                    int(statement.run_id), statement.contract_digest, party, entry
                )
            case Refusal() | Scoring() | PrivateHead():
                return self.store.add_entry(entry)
            case Revocation():
                number = self.store.revoke(statement.contract_digest, party, entry)
                self.end_runs(statement.contract_digest, f"{party} has revoked its approval of the contract")
                return number
            case _:
                raise RefusedError(
                    "other_kind", f"an entry of kind {statement.kind} is not submitted this way"
                )


class _WitnessLine:
    """One question at a time to the witness at the other end of a stream; a `WitnessClient`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._question: bytes | None = None
        self._answer: tuple[int, bytes] | None = None
        self._is_closed = False
        self._asking = threading.Lock()

    def __call__(self, body: bytes, /) -> tuple[int, bytes]:
        """Return the answer of the witness.

        Raises:
            UnavailableError: the stream has ended, or the witness takes too long, which ends it.
        """
        with self._asking, self._changed:
            self._question, self._answer = body, None
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._answer or self._is_closed, _WITNESS_SECONDS)
            if self._answer is None:
                # An answer that comes later must not be taken for the one to the next question.
                self._is_closed = True
                self._changed.notify_all()
                raise UnavailableError("the witness does not answer: its node is gone or too slow")
            return self._answer

    def next_question(self) -> bytes | None:
        """Wait for a question; ``None`` when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._question is not None or self._is_closed)
            question, self._question = self._question, None
            return None if self._is_closed else question

    def answer(self, status: int, body: bytes) -> None:
        """Hand over the answer to the question that was asked last."""
        with self._changed:
            self._answer = (status, body)
            self._changed.notify_all()

    def close(self) -> None:
        """Wake whoever waits: the stream has ended."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
