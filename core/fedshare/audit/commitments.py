"""Digests that the common log may carry: of envelopes, and commitments to what stays private."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

from fedshare.audit.statements import MAX_TOTALS, Envelopes, EnvelopeTotal
from fedshare.errors import ParameterError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NONCE_BYTES", "EnvelopeTally", "commit", "verify_commitment"]

NONCE_BYTES = 32
_LABEL = b"fedshare commitment v1\n"


def commit(data: bytes, randomness: Callable[[int], bytes]) -> tuple[str, bytes]:
    """Return a commitment to ``data`` in hex, and the nonce that opens it, to be kept private.

    The nonce makes the commitment hide ``data`` even if there are few possibilities, such as enterprise
    codes.
    """
    nonce = randomness(NONCE_BYTES)
    return _commitment(data, nonce), nonce


def verify_commitment(commitment: str, data: bytes, nonce: bytes) -> None:
    """Check that ``nonce`` opens ``commitment`` to ``data``.

    Raises:
        ProtocolError: it does not.
    """
    if not hmac.compare_digest(_commitment(data, nonce).encode(), commitment.encode()):
        raise ProtocolError("the commitment does not open to this data: one of the two was altered")


def _commitment(data: bytes, nonce: bytes) -> str:
    if len(nonce) != NONCE_BYTES:
        raise ParameterError(f"expected a nonce of {NONCE_BYTES} bytes, found {len(nonce)}")
    return hmac.new(nonce, _LABEL + data, sha256).hexdigest()


class EnvelopeTally:
    """Adds up the envelopes of a phase as they pass, for the statement at its end.

    The digest of a step is SHA-256 over, for every envelope in order, its wire form's length as 8 bytes
    big-endian and the wire form. Sender and recipient see the same ones, so their digests agree.
    """

    def __init__(self) -> None:
        self._totals: dict[tuple[str, str, Literal["sent", "received"]], _Total] = {}

    def add(self, step: str, peer: str, direction: Literal["sent", "received"], wire: bytes) -> None:
        """Count one envelope of ``step`` that went to, or came from, ``peer``."""
        self._totals.setdefault((step, peer, direction), _Total()).add(wire)

    def totals(self) -> list[EnvelopeTotal]:
        """Return a total per step, peer and direction, in that order."""
        return [
            EnvelopeTotal(
                step=step,
                peer=peer,
                direction=direction,
                count=total.count,
                size_bytes=total.size_bytes,
                digest=total.hash.hexdigest(),
            )
            for (step, peer, direction), total in sorted(self._totals.items())
        ]

    def statements(
        self, issuer: str, issued_at: int, run_id: str, contract_digest: str, phase: str
    ) -> list[Envelopes]:
        """Return the totals as statements of ``issuer``, as few as fit; none if nothing passed."""
        totals = self.totals()
        return [
            Envelopes(
                issuer=issuer,
                issued_at=issued_at,
                run_id=run_id,
                contract_digest=contract_digest,
                phase=phase,
                totals=totals[at : at + MAX_TOTALS],
            )
            for at in range(0, len(totals), MAX_TOTALS)
        ]


class _Total:
    __slots__ = ("count", "hash", "size_bytes")

    def __init__(self) -> None:
        self.count = 0
        self.size_bytes = 0
        self.hash = sha256()

    def add(self, wire: bytes) -> None:
        self.count += 1
        self.size_bytes += len(wire)
        self.hash.update(len(wire).to_bytes(8, "big"))
        self.hash.update(wire)
