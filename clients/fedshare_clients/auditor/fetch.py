"""Reading a log, and asking a witness, over HTTP: sizes are bounded, and proofs decide what is true."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
import zlib

from fedshare.audit.storage import MAX_FILE_BYTES
from fedshare.errors import ConfigError, UnavailableError

__all__ = ["HttpSource", "HttpWitness"]

_TIMEOUT_SECONDS = 20.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A log or witness is where the policy says, not where it points to."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def _open(request: urllib.request.Request, max_bytes: int) -> tuple[int, bytes]:
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
            status, data = int(answer.status), bytes(answer.read(max_bytes + 1))
            if answer.headers.get("Content-Encoding") == "gzip":
                data = _inflate(data, max_bytes)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(max_bytes)
    except (OSError, http.client.HTTPException, zlib.error) as error:
        raise UnavailableError(f"could not reach {request.host}: {error}") from error
    if len(data) > max_bytes:
        raise UnavailableError(f"{request.host} answered more than {max_bytes} bytes")
    return status, data


def _inflate(data: bytes, max_bytes: int) -> bytes:
    """Return ``data`` without its gzip wrapping, one byte over ``max_bytes`` at most."""
    return zlib.decompressobj(wbits=31).decompress(data, max_bytes + 1)


def _expect_web(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ConfigError("expected a URL that starts with http:// or https://")
    return url.rstrip("/")


class HttpSource:
    """A log's files under a URL prefix (C2SP tlog-tiles)."""

    def __init__(self, url: str) -> None:
        self._url = _expect_web(url)

    def read(self, path: str) -> bytes:
        """Return the file's bytes.

        Raises:
            UnavailableError: the server is not there, or has no such file.
        """
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
            f"{self._url}/{path}", headers={"Accept-Encoding": "gzip, identity"}
        )
        status, data = _open(request, MAX_FILE_BYTES)
        if status != http.client.OK:
            raise UnavailableError(f"{request.host} answered {status} for {path}")
        return data


class HttpWitness:
    """A witness under a submission prefix (C2SP tlog-witness), as a `WitnessClient`."""

    def __init__(self, url: str) -> None:
        self._url = _expect_web(url)

    def __call__(self, body: bytes, /) -> tuple[int, bytes]:
        """Post an ``add-checkpoint`` body and return status and answer.

        Raises:
            UnavailableError: the witness cannot be reached.
        """
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
            f"{self._url}/add-checkpoint", data=body, headers={"Content-Type": "text/plain; charset=utf-8"}
        )
        return _open(request, 100_000)
