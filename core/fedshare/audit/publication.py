"""Asking witnesses to cosign a log's head, and publishing it once enough have.

A witness is whatever carries an ``add-checkpoint`` body there and its answer back: an HTTP client, a stream
to a node, a function in a test. One that fails, lies or is behind never stops the others.
"""

from __future__ import annotations

import dataclasses
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, TypeAlias

from fedshare.audit.checkpoint import parse_decimal
from fedshare.errors import FedshareError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from fedshare.audit.log import AuditLog

__all__ = ["Publication", "Publisher", "WitnessClient"]

# A signature line, or why there is none.
_Answer: TypeAlias = "str | FedshareError"


class WitnessClient(Protocol):
    """Carries a request body to one witness and brings back status and body."""

    def __call__(self, body: bytes, /) -> tuple[int, bytes]:
        """Return the answer.

        Raises:
            FedshareError: the witness cannot be reached.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class Publication:
    """What came of asking.

    Attributes:
        is_public: whether the head satisfies the policy and is now the published checkpoint.
        failures: witness name to what went wrong; a refusal (403, 422, 409 twice) deserves a person's
            attention.
    """

    is_public: bool
    failures: Mapping[str, str]


class Publisher:
    """Remembers what size each witness has seen, so that one request usually does.

    Args:
        witnesses: by name, for the failures that are reported.
        ask: ``map``, or one that asks several witnesses at a time.
    """

    def __init__(
        self,
        witnesses: Mapping[str, WitnessClient],
        ask: Callable[[Callable[[str], _Answer], Iterable[str]], Iterable[_Answer]] = map,
    ) -> None:
        self._witnesses = witnesses
        self._sizes = dict.fromkeys(witnesses, 0)
        self._ask_all = ask

    def publish(self, log: AuditLog) -> Publication:
        """Ask every witness to cosign the head of ``log``, and publish it if its policy is satisfied.

        Raises:
            StorageError: the disk refused.
        """
        answers = dict(
            zip(
                self._witnesses,
                self._ask_all(lambda name: self._try(log, name), self._witnesses),
                strict=True,
            )
        )
        failures = {name: str(said) for name, said in answers.items() if isinstance(said, FedshareError)}
        return Publication(
            log.publish([said for said in answers.values() if isinstance(said, str)]), failures
        )

    def _try(self, log: AuditLog, name: str) -> _Answer:
        try:
            return self._ask(log, name)
        except FedshareError as error:
            return error

    def _ask(self, log: AuditLog, name: str) -> str:
        ask, size = self._witnesses[name], log.checkpoint.size
        status, body = ask(log.submission(min(self._sizes[name], size)))
        if status == HTTPStatus.CONFLICT:
            text = _text(body)
            if not text.endswith("\n"):
                raise ProtocolError("expected the size that the witness has, ending in a newline")
            self._sizes[name] = parse_decimal(text[:-1], "the size that the witness has")
            status, body = ask(log.submission(self._sizes[name]))
        if status != HTTPStatus.OK:
            raise ProtocolError(f"the witness answered {status}: compare its copy of the log with this one")
        self._sizes[name] = size
        return _text(body)


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError("expected the witness's answer in UTF-8") from error
