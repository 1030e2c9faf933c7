"""A witness: remembers the latest tree of each log on the disk, and answers ``add-checkpoint`` over HTTP.

`Witness` is the part to embed in a node: it stores before it answers, one request at a time. `serve` puts it
on a port for `fedshare-audit witness`.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

from fedshare.audit.checkpoint import Checkpoint
from fedshare.audit.notes import COSIGNATURE, open_note, parse_note
from fedshare.audit.storage import make_folder, sync_folders, write_file
from fedshare.audit.witnessing import MAX_REQUEST_BYTES, Answer, Submission, add_checkpoint
from fedshare.errors import ParameterError, ProtocolError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fedshare.audit.notes import NoteKey, NoteSigner

__all__ = ["Witness", "WitnessServer"]

_PATH = "/add-checkpoint"
_TIMEOUT_SECONDS = 20.0


class Witness:
    """One witness with its memory in a folder. Safe for threads; one process at a time.

    Args:
        folder: one file per log, the last note that was cosigned. Losing it lets a log fork unseen: back it
            up never, keep it always.
        signer: the cosignature key.
        logs: keys of the logs to watch.
        clock: answers POSIX seconds.

    Raises:
        StorageError: another process has the folder.
    """

    def __init__(
        self, folder: Path, signer: NoteSigner, logs: Sequence[NoteKey], clock: Callable[[], float]
    ) -> None:
        if signer.key.kind != COSIGNATURE:
            raise ParameterError("expected a cosignature key (type 0x04) for a witness")
        make_folder(folder)
        self._folder = folder
        self._signer = signer
        self._logs = tuple(logs)
        self._clock = clock
        self._guard = threading.Lock()
        self._lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StorageError("another process has this witness's folder: there is one") from error

    def close(self) -> None:
        """Give the folder up."""
        with self._guard:
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def key(self) -> NoteKey:
        """The key that a policy names."""
        return self._signer.key

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer a request, after what it changes is on the disk.

        Raises:
            StorageError: the memory cannot be read or written: nothing is cosigned.
        """
        with self._guard:
            if self._lock < 0:
                raise StorageError("the witness is closed")
            stored = self.latest(_origin_of(body))
            answer = add_checkpoint(body, self._logs, stored, self._signer, int(self._clock()))
            if answer.seen is not None and answer.seen != stored:
                note = str(parse_note(Submission.parse(body).checkpoint)).encode()
                write_file(self._place(answer.seen.origin), note)
                sync_folders([self._folder])
            return answer

    def latest(self, origin: str) -> Checkpoint | None:
        """Return the latest tree of the log that this witness has cosigned, or ``None``.

        Raises:
            StorageError: there is one and it cannot be read.
        """
        try:
            data = self._place(origin).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"the witness cannot read its memory: {error.strerror}") from error
        try:
            return Checkpoint.parse(open_note(data, self._logs).text)
        except ProtocolError as error:
            raise StorageError(f"the witness's memory is damaged: {error}") from error

    def _place(self, origin: str) -> Path:
        return self._folder / f"{sha256(origin.encode()).hexdigest()}.checkpoint"


def _origin_of(body: bytes) -> str:
    """Return the origin that a request names, or an empty string if it names none."""
    try:
        return Checkpoint.parse(parse_note(Submission.parse(body).checkpoint).text).origin
    except ProtocolError:
        return ""


class WitnessServer(ThreadingHTTPServer):
    """Serves a `Witness` at ``POST /add-checkpoint``. TLS, where it is wanted, is a proxy's."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], witness: Witness) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.witness = witness
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT_SECONDS
    server: WitnessServer

    def do_POST(self) -> None:
        if self.path != _PATH:
            self._answer(Answer(HTTPStatus.NOT_FOUND, b"this witness answers POST /add-checkpoint\n"))
            return
        length = self.headers.get("Content-Length", "")
        if not (
            length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= MAX_REQUEST_BYTES
        ):
            self.close_connection = True
            self._answer(Answer(HTTPStatus.BAD_REQUEST, b"expected a Content-Length within the limit\n"))
            return
        body = self.rfile.read(int(length))
        try:
            answer = self.server.witness.add_checkpoint(body)
        except StorageError:
            answer = Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"the witness cannot store what it sees\n")
        self._answer(answer)

    def _answer(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        """Write nothing: requests come from anyone, and the memory holds what matters."""
