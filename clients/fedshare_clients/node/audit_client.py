"""This node's side of the coordinator's audit log: handing entries in, and asking for openings."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from fedshare.audit.gate import Opening
from fedshare.wire.v1 import audit_pb2 as wire
from fedshare.wire.v1.audit_pb2_grpc import AuditServiceStub

from .enrolment import connect, with_retries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .enrolment import TlsIdentity

__all__ = ["AuditClient"]

T = TypeVar("T")
# Longer than the coordinator waits itself, and short enough to tell a failed run while it is fresh.
_SUBMIT_SECONDS = 20.0
_OPENING_SECONDS = 75.0


class AuditClient:
    """Talks to the coordinator's log as this party; every method may raise ``UnavailableError``."""

    def __init__(self, address: str, tls: TlsIdentity) -> None:
        self._address = address
        self._tls = tls

    def submit(self, entries: Sequence[bytes]) -> list[int]:
        """Have signed entries logged and return their indices; the same ones again change nothing.

        Raises:
            RefusedError: an entry is about a run that is closed, or not this party's.
        """
        request = wire.SubmitEntriesRequest(entries=entries)
        response = self._call(
            lambda stub: stub.SubmitEntries(request, timeout=_SUBMIT_SECONDS), _SUBMIT_SECONDS
        )
        return list(response.indices)

    def opening(self, run_id: int, phase: str, seen_size: int) -> Opening:
        """Return the coordinator's opening of a phase, or of a run, unverified, as soon as the log has it.

        Args:
            run_id: the run.
            phase: the phase; empty for the opening of the run itself.
            seen_size: of the tree from which the proof is to start.
        """
        request = wire.GetOpeningRequest(run_id=run_id, phase=phase, seen_size=seen_size)
        response = self._call(
            lambda stub: stub.GetOpening(request, timeout=_OPENING_SECONDS), _SUBMIT_SECONDS
        )
        return Opening(response.receipt, tuple(response.consistency))

    def _call(self, call: Callable[[AuditServiceStub], T], seconds: float) -> T:
        with connect(self._address, self._tls) as channel:
            stub = AuditServiceStub(channel)
            return with_retries(lambda: call(stub), self._address, seconds)
