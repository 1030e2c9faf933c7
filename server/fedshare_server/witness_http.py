"""A witness outside the federation, such as a regulator's: asked over HTTP (C2SP tlog-witness)."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request

from fedshare.errors import UnavailableError

__all__ = ["HttpWitness"]

_TIMEOUT_SECONDS = 10.0
_MAX_ANSWER_BYTES = 100_000


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A witness is where the settings say, not where it points to."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


class HttpWitness:
    """One witness, as a ``WitnessClient``.

    Args:
        url: its submission prefix, http or https.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def __call__(self, body: bytes, /) -> tuple[int, bytes]:
        """Post an ``add-checkpoint`` body and return status and answer.

        Raises:
            UnavailableError: the witness cannot be reached.
        """
        request = urllib.request.Request(f"{self._url}/add-checkpoint", data=body)  # noqa: S310 - settings check it
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
                return int(answer.status), bytes(answer.read(_MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(_MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(f"the witness at {self._url} cannot be reached: {error}") from error
