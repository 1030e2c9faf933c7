"""Enrolment: a one-time invitation becomes this node's permanent place in the federation.

Only public keys leave the node. Everything here is mutual TLS: an invitation carries a short-lived
certificate that opens enrolment and nothing else, and the coordinator's authority, so that the very first
connection is verified too.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import grpc
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from fedshare.audit.entries import EntrySigner
from fedshare.audit.notes import ED25519, NoteKey
from fedshare.audit.statements import Enrolment
from fedshare.errors import ConfigError, ProtocolError, UnavailableError
from fedshare.identity.certificates import create_request, public_key_digest, read_client
from fedshare.identity.keys import PUBLIC_KEY_BYTES, encode_public_key, fingerprint
from fedshare.wire.v1 import enrolment_pb2 as wire
from fedshare.wire.v1.enrolment_pb2_grpc import EnrolmentServiceStub

from .exchange import error_of
from .state import LogTrust

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .config import NodeConfig
    from .state import NodeState

__all__ = [
    "EnrolledParty",
    "Invitation",
    "TlsIdentity",
    "connect",
    "enrol",
    "read_invitation",
    "with_retries",
]

ROLES = {"feature_holder": wire.ROLE_FEATURE_HOLDER, "label_holder": wire.ROLE_LABEL_HOLDER}
_CALL_SECONDS = 20.0
_FIRST_BACKOFF_SECONDS = 0.2
_MAX_BACKOFF_SECONDS = 5.0

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Invitation(BaseModel):
    """What the coordinator's operator hands over, once and over a private way: it holds a key."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    version: Literal[1]
    party: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    role: Literal["feature_holder", "label_holder"]
    grpc_address: str
    fleet_address: str
    expires: str
    ca_certificate: str
    certificate: str
    key: SecretStr


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """One side of mutual TLS, PEM."""

    ca_pem: bytes
    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class EnrolledParty:
    """A party in the coordinator's word: compare the fingerprint by another channel before signing.

    Attributes:
        party: its id.
        role: its role.
        fingerprint: of its identity key.
    """

    party: str
    role: str
    fingerprint: str


def read_invitation(path: Path) -> Invitation:
    """Return the invitation in the file at ``path``.

    Raises:
        ConfigError: it cannot be read or is no invitation.
    """
    try:
        return Invitation.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        fields = ", ".join(
            ".".join(str(part) for part in each["loc"]) or "document" for each in error.errors()
        )
        raise ConfigError(
            f"{path}: expected an invitation from 'fedshare-server enrol', found something else (in {fields})"
        ) from error


def enrol(invitation: Invitation, config: NodeConfig, state: NodeState) -> tuple[EnrolledParty, ...]:
    """Exchange this node's public keys for its certificate, store it, and return who is enrolled.

    1. The invitation is for this party and this role, and the node is not enrolled yet with these keys.
    2. The request is signed by the identity key, and so is the entry by which this party enters the audit log.
    3. What comes back is a certificate of this party, for its own key, of the invitation's authority, and the
       keys of the audit log.

    Raises:
        ConfigError: the invitation is for another party, or the node has no keys.
        ProtocolError: the coordinator answered with another certificate.
        RefusedError: the invitation is used or expired.
        UnavailableError: the coordinator cannot be reached.
    """
    if (invitation.party, invitation.role) != (config.party, config.role):  # 1
        raise ConfigError(
            f"the invitation is for {invitation.party} as {invitation.role}, node.yaml for {config.party} as "
            f"{config.role}; correct node.yaml or ask for another invitation"
        )
    identity = state.identity()
    said = Enrolment(
        issuer=config.party,
        issued_at=int(time.time()),
        role=config.role,
        identity_key=encode_public_key(identity.public_bytes()),
        flower_key=state.flower_public_text().decode(),
        witness_key=state.witness_signer(config.party).key.vkey,
    )
    request = wire.EnrolRequest(
        party=config.party,
        role=ROLES[config.role],
        certificate_request=create_request(state.tls_key(), config.party),
        identity_key=identity.public_bytes(),
        flower_key=state.flower_public_text(),
        audit_entry=EntrySigner(identity).sign(said),
    )
    request.signature = identity.sign(request.SerializeToString(deterministic=True))  # 2
    tls = TlsIdentity(
        invitation.ca_certificate.encode(),
        invitation.certificate.encode(),
        invitation.key.get_secret_value().encode(),
    )
    address = config.coordinator.address
    with connect(address, tls) as channel:
        stub = EnrolmentServiceStub(channel)
        response = with_retries(
            lambda: stub.Enrol(request, timeout=_CALL_SECONDS), address, config.limits.connect_timeout_seconds
        )
    trust = _verify_response(response, invitation, config, state)  # 3
    state.save_enrolment(
        response.certificate, response.certificate_authority, config.coordinator.ca_certificate, trust
    )
    return tuple(
        EnrolledParty(
            each.party,
            wire.Role.Name(each.role).removeprefix("ROLE_").lower(),
            fingerprint(each.identity_key),
        )
        for each in response.parties
    )


@contextmanager
def connect(address: str, tls: TlsIdentity) -> Iterator[grpc.Channel]:
    """Yield a channel to the coordinator that verifies it and shows this side's certificate."""
    credentials = grpc.ssl_channel_credentials(tls.ca_pem, tls.key_pem, tls.certificate_pem)
    # A pool of its own: a failed connection must not be remembered for the next command in this process.
    with grpc.secure_channel(address, credentials, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel


def with_retries(call: Callable[[], T], address: str, timeout_seconds: float) -> T:
    """Return the result of ``call``, tried again with growing pauses while the coordinator is out of reach.

    Raises:
        FedshareError: what the coordinator's status means; ``UnavailableError`` once the time is over.
    """
    deadline = time.monotonic() + timeout_seconds
    pause = _FIRST_BACKOFF_SECONDS
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            cause = error_of(error, address)
            if not isinstance(cause, UnavailableError) or time.monotonic() + pause > deadline:
                raise cause from error
            if pause == _FIRST_BACKOFF_SECONDS:
                _log.warning(
                    "the coordinator at %s does not answer; trying for %.0f s", address, timeout_seconds
                )
        time.sleep(pause)
        pause = min(2 * pause, _MAX_BACKOFF_SECONDS)


def _verify_response(
    response: wire.EnrolResponse, invitation: Invitation, config: NodeConfig, state: NodeState
) -> LogTrust:
    if response.certificate_authority.strip() != invitation.ca_certificate.encode().strip():
        raise ProtocolError(
            "the coordinator answered with another authority than the invitation's; do not go on"
        )
    name = read_client(response.certificate)
    own = (config.party, config.role, public_key_digest(state.tls_key().public_key()))
    if (name.common_name, name.role, name.key_digest) != own:
        raise ProtocolError(
            "the coordinator answered with a certificate that is not for this node and its key"
        )
    if NoteKey.parse(response.log_key).kind != ED25519:
        raise ProtocolError("the coordinator answered with a log key of another type than Ed25519")
    if len(response.coordinator_key) != PUBLIC_KEY_BYTES:
        raise ProtocolError(f"expected a coordinator's key of {PUBLIC_KEY_BYTES} bytes, found another length")
    return LogTrust(response.log_key, encode_public_key(response.coordinator_key))
