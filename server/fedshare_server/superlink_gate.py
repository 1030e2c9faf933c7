"""What of the SuperLink can be reached from outside: its fleet endpoints, and nothing else.

Since 1.41 Flower serves the fleet, control and runtime APIs on one port, and the open-source control API
lets anyone start runs. So the SuperLink listens on loopback, and this gate listens outside: it terminates
TLS with the coordinator's certificate and forwards exactly the known fleet methods, unchanged, over TLS on
loopback. Nodes authenticate to the SuperLink itself, by a signature in the headers that the gate passes on.
"""

from __future__ import annotations

import ssl
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from fedshare.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.requests import Request

__all__ = ["FLEET_METHODS", "FleetGate"]

FLEET_METHODS: Final = frozenset(
    {
        "activate-node",
        "confirm-message-received",
        "deactivate-node",
        "get-fab",
        "get-run",
        "pull-messages",
        "pull-object",
        "push-messages",
        "push-object",
        "send-node-heartbeat",
    }
)
_MAX_BODY_BYTES: Final = 8 * 2**20
_TIMEOUT_SECONDS: Final = 30.0
_START_SECONDS: Final = 15.0
# Hop-by-hop fields (RFC 9110 section 7.6.1) and those that the forwarding client sets itself.
_NOT_FORWARDED: Final = frozenset(
    {
        "connection", "content-encoding", "content-length", "host", "keep-alive", "te", "trailer",
        "transfer-encoding", "upgrade", "accept-encoding",
    }
)  # fmt: skip


class FleetGate:
    """Listens outside and forwards fleet methods to a SuperLink on loopback.

    Args:
        bind: local address to listen on.
        port: to listen on.
        certificate: the coordinator's certificate, PEM file.
        key: its key, PEM file.
        superlink: ``https://127.0.0.1:PORT``.
        superlink_ca: PEM file with which the SuperLink's loopback certificate is verified.
    """

    def __init__(
        self, *, bind: str, port: int, certificate: Path, key: Path, superlink: str, superlink_ca: Path
    ) -> None:
        self._address = f"{bind}:{port}"
        self._superlink = superlink
        self._superlink_ca = superlink_ca
        self._server = uvicorn.Server(
            uvicorn.Config(
                Starlette(
                    routes=[Route("/v1/fleet/{method}", self._forward, methods=["POST"])],
                    lifespan=self._lifespan,
                ),
                host=bind,
                port=port,
                ssl_certfile=str(certificate),
                ssl_keyfile=str(key),
                ws="none",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(target=self._run, name="fleet-gate", daemon=True)
        self._client: httpx.AsyncClient | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it listens."""
        return self._thread.is_alive() and bool(self._server.started)

    def start(self) -> None:
        """Listen; returns when it does.

        Raises:
            UnavailableError: the port is taken or the address is not this host's.
        """
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while self._thread.is_alive() and not self._server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        if not self.is_alive:
            self.stop()
            raise UnavailableError(
                f"cannot listen on {self._address}: another process has the port, or the address is not "
                "this host's"
            )

    def stop(self) -> None:
        """Stop listening; returns when it has."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(_START_SECONDS)

    def _run(self) -> None:
        try:
            self._server.run()
        except SystemExit:
            return  # uvicorn's way to say that it cannot listen; start() notices.

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        verify = ssl.create_default_context(cafile=str(self._superlink_ca))
        async with httpx.AsyncClient(
            base_url=self._superlink, verify=verify, timeout=_TIMEOUT_SECONDS, trust_env=False
        ) as client:
            self._client = client
            yield

    async def _forward(self, request: Request) -> Response:
        method = request.path_params["method"]
        if method not in FLEET_METHODS or self._client is None:
            return Response(status_code=404)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_BODY_BYTES:
                return Response(status_code=413)
        headers = [(name, value) for name, value in request.headers.items() if name not in _NOT_FORWARDED]
        try:
            answer = await self._client.post(f"/v1/fleet/{method}", content=bytes(body), headers=headers)
        except httpx.HTTPError:
            return Response(status_code=503)  # A SuperNode tries again on 503.
        kept = {name: value for name, value in answer.headers.items() if name not in _NOT_FORWARDED}
        return Response(answer.content, answer.status_code, kept)
