"""The gate in front of every gRPC method: who calls, and which status an error becomes.

Rules:

1. TLS has verified that the client's certificate is from the coordinator's authority.
2. Enrolment opens to an invitation only, everything else to an enrolled party only.
3. A party is recognised by the digest of its public key in the store, so a replaced certificate is refused at
once. 4. A caller sees a status and one sentence; what is not ours stays in the coordinator's log.

==================  ======================  ====================================
Error               Status                  The client raises
==================  ======================  ====================================
RefusedError        PERMISSION_DENIED       RefusedError, its code in the
                                            trailing metadata ``fedshare-code``
ProtocolError       INVALID_ARGUMENT        ProtocolError
ConfigError and
other settings      FAILED_PRECONDITION     ConfigError
UnavailableError    UNAVAILABLE             UnavailableError, after retries
RunFailedError      ABORTED                 RunFailedError
StorageError        INTERNAL                StorageError
anything else       UNKNOWN                 UnavailableError
==================  ======================  ====================================
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from fedshare.errors import (
    FedshareError,
    ProtocolError,
    RefusedError,
    RunFailedError,
    StorageError,
    UnavailableError,
)
from fedshare.identity.certificates import ClientName, invited_party, read_client

if TYPE_CHECKING:
    from fedshare_server.storage import Store

__all__ = ["CODE_METADATA", "GateInterceptor", "peer"]

CODE_METADATA = "fedshare-code"

_ENROLMENT = "/fedshare.wire.v1.EnrolmentService/"
_STATUS: tuple[tuple[type[FedshareError], grpc.StatusCode], ...] = (
    (RefusedError, grpc.StatusCode.PERMISSION_DENIED),
    (ProtocolError, grpc.StatusCode.INVALID_ARGUMENT),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (RunFailedError, grpc.StatusCode.ABORTED),
    (StorageError, grpc.StatusCode.INTERNAL),
    (FedshareError, grpc.StatusCode.FAILED_PRECONDITION),
)
_log = logging.getLogger(__name__)

# The types of gRPC's handlers are private to it.
Behaviour = Callable[[Any, grpc.ServicerContext], Any]


class GateInterceptor(grpc.ServerInterceptor):
    """Lets in whom the store knows and turns our errors into statuses."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method that answers this call."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                self._guard_stream(method, handler.stream_stream),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._guard_unary(method, handler.unary_unary),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return None

    def _guard_unary(self, method: str, behaviour: Behaviour) -> Behaviour:
        def guarded(request: object, context: grpc.ServicerContext) -> object:
            try:
                self._admit(method, context)
                return behaviour(request, context)
            except Exception as error:  # noqa: BLE001  the outermost frame of a call
                _abort(context, method, error)

        return guarded

    def _guard_stream(self, method: str, behaviour: Behaviour) -> Behaviour:
        def guarded(requests: object, context: grpc.ServicerContext) -> Iterator[object]:
            try:
                self._admit(method, context)
                yield from behaviour(requests, context)
            except Exception as error:  # noqa: BLE001  the outermost frame of a call
                _abort(context, method, error)

        return guarded

    def _admit(self, method: str, context: grpc.ServicerContext) -> None:
        client = peer(context)
        invited = invited_party(client.common_name) is not None
        if method.startswith(_ENROLMENT):
            if not invited:
                raise RefusedError("not_invited", "enrolment needs the certificate of an invitation")
            return
        party = None if invited else self._store.find_party(client.common_name)
        if party is None or (party.certificate_digest, party.role) != (client.key_digest, client.role):
            raise RefusedError(
                "unknown_party",
                f"{client.common_name} is not enrolled with this certificate: enrol with a new invitation",
            )


def peer(context: grpc.ServicerContext) -> ClientName:
    """Return whom the client certificate of a call names.

    Raises:
        ProtocolError: the certificate is not one of enrolment's.
    """
    found = list(context.auth_context().get("x509_pem_cert", ()))
    if len(found) != 1:
        raise ProtocolError("expected one client certificate on the connection")
    return read_client(bytes(found[0]))


def _abort(context: grpc.ServicerContext, method: str, error: Exception) -> NoReturn:
    if context.code() is not None:  # type: ignore[attr-defined]  # missing in types-grpcio
        raise error  # the method has aborted by itself; this is gRPC's own signal
    for kind, status in _STATUS:
        if isinstance(error, kind):
            if isinstance(error, RefusedError):
                context.set_trailing_metadata(((CODE_METADATA, error.code),))
            _log.info("%s: %s: %s", method, status.name, error)
            context.abort(status, str(error))
    _log.error("%s failed", method, exc_info=error)
    context.abort(grpc.StatusCode.UNKNOWN, "the coordinator failed: its log says why")
