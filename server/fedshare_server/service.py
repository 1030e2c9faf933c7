"""The gRPC server: one port, mutual TLS, one gate in front of every method."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc

from fedshare.errors import UnavailableError
from fedshare_server.interceptor import GateInterceptor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fedshare_server.authority import TlsFiles
    from fedshare_server.storage import Store

__all__ = ["start_grpc"]

# Each open stream of a node holds one thread; they are made as needed.
_THREADS = 256
_OPTIONS = [
    ("grpc.max_receive_message_length", 4 * 2**20),
    ("grpc.so_reuseport", 0),  # a taken port is an error, not a share of its connections
    # Both sides notice within a minute that the other has gone.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    # On a busy host pings arrive in bunches; nodes are known, and a node that is cut off for that only comes back.
    ("grpc.http2.max_ping_strikes", 0),
]


def start_grpc(
    address: str, tls: TlsFiles, store: Store, services: Sequence[Callable[[grpc.Server], object]]
) -> grpc.Server:
    """Return a started gRPC server that demands a client certificate of the coordinator's authority.

    Raises:
        UnavailableError: the port is taken or the address is not this host's.
    """
    server = grpc.server(
        ThreadPoolExecutor(_THREADS, thread_name_prefix="grpc"),
        interceptors=[GateInterceptor(store)],
        options=_OPTIONS,
    )
    for add_to in services:
        add_to(server)
    credentials = grpc.ssl_server_credentials(
        [(tls.key, tls.certificate)], root_certificates=tls.ca_certificate, require_client_auth=True
    )
    try:
        server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise UnavailableError(
            f"cannot listen on {address}: another process has the port, or the address is not this host's"
        ) from error
    server.start()
    return server
