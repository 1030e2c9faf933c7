"""Enrolment: an invitation is exchanged, once, for a party's permanent client certificate."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from fedshare.audit.entries import Entry, EntryVerifier
from fedshare.audit.notes import COSIGNATURE, NoteKey
from fedshare.audit.statements import Enrolment
from fedshare.errors import ProtocolError, RefusedError
from fedshare.identity.certificates import (
    issue_client,
    public_key_digest,
    public_key_to_pem,
    read_public_key,
    read_request,
    to_pem,
)
from fedshare.identity.keys import encode_public_key, verify_signature
from fedshare.wire.v1 import enrolment_pb2 as wire
from fedshare.wire.v1.enrolment_pb2_grpc import EnrolmentServiceServicer
from fedshare_server.interceptor import peer
from fedshare_server.storage import PartyRecord

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    import grpc

    from fedshare.identity.certificates import Authority
    from fedshare_server.config import ServerConfig
    from fedshare_server.log_keys import LogKeys
    from fedshare_server.storage import Store

__all__ = ["ROLES", "EnrolmentService"]

ROLES = {"feature_holder": wire.ROLE_FEATURE_HOLDER, "label_holder": wire.ROLE_LABEL_HOLDER}
"""The wire's number for each role."""

_ROLE_NAMES = {number: name for name, number in ROLES.items()}


@dataclass(frozen=True, slots=True)
class EnrolmentService(EnrolmentServiceServicer):
    """Answers ``Enrol``.

    Attributes:
        store: where parties and invitations are kept.
        authority: issues the certificate.
        settings: how long a certificate is valid.
        log_keys: of the audit log.
        register_node: makes a Flower node's public key (PEM) known to the SuperLink.
        now: the clock.
    """

    store: Store
    authority: Authority
    settings: ServerConfig
    log_keys: LogKeys
    register_node: Callable[[bytes], object]
    now: Callable[[], datetime]

    def Enrol(  # noqa: N802  gRPC's name
        self, request: wire.EnrolRequest, context: grpc.ServicerContext
    ) -> wire.EnrolResponse:
        """Exchange the public keys of an invited institution for its client certificate.

        1. The invitation of this connection is ours, unused and in time.
        2. It is for the party and the role in the request.
        3. The caller holds the identity key and the TLS key; the Flower key is one; its entry for the audit
           log says the same.
        4. The SuperLink learns the Flower key; only then is the invitation used up and the party stored.

        Raises:
            ProtocolError: a key or a signature is wrong.
            RefusedError: the invitation is used, expired, or for another party.
            UnavailableError: the SuperLink cannot be reached; the invitation can be used again.
        """
        invitation = self.store.open_invitation(peer(context).key_digest)  # 1
        role = _ROLE_NAMES.get(request.role, "")
        if (request.party, role) != (invitation.party, invitation.role):  # 2
            raise RefusedError(
                "other_invitation",
                f"the invitation is for {invitation.party} as {invitation.role}: enrol that party",
            )
        _verify_identity(request)  # 3
        key = read_request(request.certificate_request, request.party)
        flower_key = _flower_key(request.flower_key)
        witness_key = self._witness_key(request, role)
        now = self.now()
        certificate = issue_client(
            self.authority,
            key,
            request.party,
            role,
            now,
            timedelta(days=self.settings.certificate_days),
            os.urandom,
        )
        self.register_node(flower_key.encode())  # 4
        party = PartyRecord(
            request.party, role, request.identity_key, flower_key, witness_key, public_key_digest(key), now
        )
        self.store.enrol(invitation.key_digest, party, request.audit_entry)
        return wire.EnrolResponse(
            certificate=to_pem(certificate),
            certificate_authority=to_pem(self.authority.certificate),
            parties=[
                wire.EnrolledParty(party=other.party, role=ROLES[other.role], identity_key=other.identity_key)
                for other in self.store.parties()
            ],
            log_key=self.log_keys.signer.key.vkey,
            coordinator_key=self.log_keys.identity.public_bytes(),
        )

    def _witness_key(self, request: wire.EnrolRequest, role: str) -> str:
        """Return the key of the party's witness, after checking its entry for the audit log.

        Raises:
            ProtocolError: the entry says something else than the request, or another key signed it.
            RefusedError: the party brings a new identity key, and its entry is not signed with the old one.
        """
        entry = Entry.parse(request.audit_entry)
        said = entry.statement
        expected = (
            request.party,
            role,
            encode_public_key(request.identity_key),
            request.flower_key.decode("utf-8", "replace"),
        )
        if (
            not isinstance(said, Enrolment)
            or (said.issuer, said.role, said.identity_key, said.flower_key) != expected
            or NoteKey.parse(said.witness_key).kind != COSIGNATURE
        ):
            raise ProtocolError("the entry for the audit log says something else than the request")
        earlier = self.store.find_party(request.party)
        try:
            EntryVerifier().verify(entry, request.identity_key if earlier is None else earlier.identity_key)
        except ProtocolError as error:
            # Prevent the coordinator, or a thief of an invitation, from becoming a party that is known.
            raise RefusedError(
                "identity_key_differs",
                f"{request.party} is enrolled with another identity key: restore it, or enrol as a new party",
            ) from error
        return said.witness_key


def _verify_identity(request: wire.EnrolRequest) -> None:
    unsigned = wire.EnrolRequest()
    unsigned.CopyFrom(request)
    unsigned.ClearField("signature")
    verify_signature(request.identity_key, request.signature, unsigned.SerializeToString(deterministic=True))


def _flower_key(text: bytes) -> str:
    """Return the Flower key in its one form, PEM."""
    key = read_public_key(text)
    if not isinstance(key.curve, ec.SECP384R1):
        raise ProtocolError("the Flower key is of another kind: expected ECDSA on NIST P-384")
    return public_key_to_pem(key).decode()
