"""What a witness decides about a submitted checkpoint, as a pure function (C2SP tlog-witness).

A witness remembers one tree per log and cosigns only trees that contain it. `add_checkpoint` maps a request
and that memory to an answer and the new memory; whoever calls it must store the new memory durably *before*
giving the answer away, and let no second request for the log in between, or a crash or a race could roll the
witness back.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from fedshare.audit.checkpoint import Checkpoint, parse_decimal
from fedshare.audit.hashing import EMPTY_ROOT
from fedshare.audit.notes import decode_base64, open_note, parse_note
from fedshare.audit.proofs import verify_consistency
from fedshare.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedshare.audit.notes import NoteKey, NoteSigner

__all__ = ["MAX_REQUEST_BYTES", "Answer", "Submission", "add_checkpoint"]

# C2SP tlog-witness: no more than 63 consistency proof lines.
_MAX_PROOF_LINES = 63
MAX_REQUEST_BYTES = 1_100_000
_SIZE_TYPE = "text/x.tlog.size"
_TEXT_TYPE = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Submission:
    """An ``add-checkpoint`` request: the size the log believes the witness has, a proof, and the note."""

    old_size: int
    proof: tuple[bytes, ...]
    checkpoint: bytes

    def to_bytes(self) -> bytes:
        """Return the request body."""
        lines = [f"old {self.old_size}", *(base64.b64encode(element).decode() for element in self.proof)]
        return "\n".join(lines).encode() + b"\n\n" + self.checkpoint

    @classmethod
    def parse(cls, body: bytes) -> Submission:
        """Read a request body; nothing in it is checked beyond its form.

        Raises:
            ProtocolError: it is malformed.
        """
        if len(body) > MAX_REQUEST_BYTES:
            raise ProtocolError(f"expected a request of at most {MAX_REQUEST_BYTES} bytes, found {len(body)}")
        head, separator, checkpoint = body.partition(b"\n\n")
        try:
            old, *lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise ProtocolError("expected a request whose proof lines are ASCII") from error
        if not separator or not old.startswith("old "):
            raise ProtocolError("expected an old size line, proof lines, a blank line and a checkpoint")
        if len(lines) > _MAX_PROOF_LINES:
            raise ProtocolError(f"expected at most {_MAX_PROOF_LINES} proof lines, found {len(lines)}")
        proof = tuple(decode_base64(line, "a proof element") for line in lines)
        if any(len(element) != len(EMPTY_ROOT) for element in proof):
            raise ProtocolError("expected proof elements of 32 bytes")
        return cls(parse_decimal(old.removeprefix("old "), "an old size"), proof, checkpoint)


@dataclass(frozen=True, slots=True)
class Answer:
    """The witness's answer.

    Attributes:
        status: HTTP status code.
        body: HTTP body.
        content_type: of the body.
        seen: the tree to store before answering, or ``None`` if the stored one stays.
    """

    status: int
    body: bytes
    content_type: str = _TEXT_TYPE
    seen: Checkpoint | None = None


def add_checkpoint(
    body: bytes, logs: Sequence[NoteKey], stored: Checkpoint | None, signer: NoteSigner, seconds: int
) -> Answer:
    """Return the answer to an ``add-checkpoint`` request.

    Args:
        body: of the request, from anyone.
        logs: keys of the logs that this witness watches; a log's key name is its origin.
        stored: the latest tree cosigned for the origin that ``body`` names, or ``None``.
        signer: the witness's cosignature key.
        seconds: the time now, POSIX.
    """
    try:
        submission = Submission.parse(body)
        unverified = Checkpoint.parse(parse_note(submission.checkpoint).text)
    except ProtocolError as error:
        return _refuse(HTTPStatus.BAD_REQUEST, str(error))
    keys = [key for key in logs if key.name == unverified.origin]
    if not keys:
        return _refuse(HTTPStatus.NOT_FOUND, "this witness does not watch a log of that origin")
    try:
        note = open_note(submission.checkpoint, keys)
    except ProtocolError as error:
        return _refuse(HTTPStatus.FORBIDDEN, str(error))
    checkpoint = Checkpoint.parse(note.text)
    refusal = _judge(submission, checkpoint, stored)
    if refusal is not None:
        return refusal
    return Answer(HTTPStatus.OK, signer.sign(note.text, seconds).encode(), seen=checkpoint)


def _judge(submission: Submission, checkpoint: Checkpoint, stored: Checkpoint | None) -> Answer | None:
    """Return the refusal of a checkpoint that does not continue the ``stored`` one, else ``None``."""
    if submission.old_size > checkpoint.size:
        return _refuse(HTTPStatus.BAD_REQUEST, "the old size is above the checkpoint's size")
    size, root = (stored.size, stored.root) if stored else (0, EMPTY_ROOT)
    if submission.old_size != size or (checkpoint.size == size and checkpoint.root != root):
        return Answer(HTTPStatus.CONFLICT, f"{size}\n".encode(), _SIZE_TYPE)
    try:
        verify_consistency(size, root, checkpoint.size, checkpoint.root, submission.proof)
    except ProtocolError as error:
        return _refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
    return None


def _refuse(status: HTTPStatus, reason: str) -> Answer:
    return Answer(status, reason.encode() + b"\n")
