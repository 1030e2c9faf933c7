"""A session: what the parties of one run share, and how they seal what they say.

1. Every party makes an X25519 key and a nonce for this run only and signs them with the identity key that the contract names: its hello.
2. Every party checks all hellos against the contract. The session id is the hash of all of them, in the order of the party ids, so it is
   fresh whenever one honest party's randomness is, and two parties that saw different hellos share no key.
3. Each ordered pair of parties has a key: X25519, then HKDF-SHA256 with the session id as salt. AES-256-GCM seals every chunk under
   its sequence number; everything visible of the envelope and the contract's digest are associated data.

Sources: RFC 7748 section 6.1 (X25519, all-zero check), RFC 5869 (HKDF), NIST SP 800-38D (GCM). The signed exchange is SIGMA without
identity protection (Krawczyk 2003) with the MAC replaced by the first sealed envelope: who does not hold the private key cannot seal.

Assumes: identity keys in the contract are the parties' own (compared out of band before signing).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from google.protobuf.message import DecodeError

from fedshare.errors import ProtocolError
from fedshare.wire.v1 import payload_pb2

from . import dsse
from .envelope import CHUNK_BYTES, Envelope

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .keys import IdentityKey

__all__ = ["HELLO_TYPE", "MAX_MESSAGE_BYTES", "PendingSession", "Session"]

HELLO_TYPE = "application/vnd.fedshare.hello.v1+protobuf"

#: A message of more bytes than this is refused while it arrives.
MAX_MESSAGE_BYTES = 1 << 31

_KEY_BYTES = 32
_T = TypeVar("_T")


class PendingSession:
    """A party's own part of the handshake, before it has seen the others'."""

    def __init__(self, private: X25519PrivateKey, hello: bytes, statement: payload_pb2.Hello) -> None:
        self._private = private
        self._statement = statement
        self.hello = hello
        """The signed hello to send to every party."""

    @classmethod
    def start(
        cls,
        identity_key: IdentityKey,
        contract_digest: str,
        run_id: int,
        party: str,
        randomness: Callable[[int], bytes],
    ) -> PendingSession:
        """Return the own part for a run; 64 bytes of randomness are drawn."""
        private = X25519PrivateKey.from_private_bytes(randomness(_KEY_BYTES))
        statement = payload_pb2.Hello(
            party=party,
            contract_digest=contract_digest,
            run_id=run_id,
            ephemeral_key=private.public_key().public_bytes_raw(),
            nonce=randomness(_KEY_BYTES),
        )
        hello = dsse.sign(HELLO_TYPE, statement.SerializeToString(deterministic=True), identity_key)
        return cls(private, hello, statement)

    def establish(self, hellos: Sequence[bytes], identity_keys: Mapping[str, bytes]) -> Session:
        """Return the session of all parties.

        Args:
            hellos: every party's signed hello, the own among them, in any order; untrusted.
            identity_keys: every party's identity key, as the contract says.

        Raises:
            ProtocolError: a hello is missing, surplus, not signed by its party's key, of another run or contract, or the own one was
                replaced; or a key exchange gives the all-zero secret.
        """
        statements = _verify_hellos(hellos, identity_keys, self._statement)
        # The signed payloads, not the envelopes: JSON has many spellings of the same statement.
        transcript = hashlib.sha256(b"fedshare session v1")
        for party in sorted(statements):
            transcript.update(hashlib.sha256(statements[party].SerializeToString(deterministic=True)).digest())
        session_id = transcript.digest()
        secrets = {}
        for party, statement in statements.items():
            if party != self._statement.party:
                secrets[party] = _agree(self._private, statement.ephemeral_key, party)
        return Session(
            session_id, self._statement.contract_digest, self._statement.run_id, self._statement.party, secrets
        )


@dataclass(slots=True)
class _Direction:
    cipher: AESGCM = field(repr=False)
    sequence: int = 0


class Session:
    """Seals and opens envelopes between this party and its peers; one process, one run."""

    def __init__(
        self, session_id: bytes, contract_digest: str, run_id: int, party: str, secrets: Mapping[str, bytes]
    ) -> None:
        self.id = session_id
        """32 bytes, the same at every party, different in every run."""
        self.party = party
        self.peers = frozenset(secrets)
        self._contract_digest = contract_digest
        self._run_id = run_id
        self._secrets = dict(secrets)
        self._outgoing = {peer: self._direction(party, peer, secret) for peer, secret in secrets.items()}
        self._incoming = {peer: self._direction(peer, party, secret) for peer, secret in secrets.items()}
        self._partial: dict[str, list[bytes]] = {peer: [] for peer in secrets}

    def __repr__(self) -> str:
        return f"Session(run_id={self._run_id}, party={self.party!r}, peers={sorted(self.peers)})"

    def seal(self, recipient: str, phase: str, step: str, payload: bytes) -> list[Envelope]:
        """Return ``payload`` in sealed chunks, to be sent in this order.

        Raises:
            ProtocolError: ``recipient`` is not a peer of this session.
        """
        direction = self._of(self._outgoing, recipient)
        starts = range(0, max(len(payload), 1), CHUNK_BYTES)
        view = memoryview(payload)
        envelopes = []
        for start in starts:
            last = start == starts[-1]
            header = (self._run_id, phase, step, self.party, recipient, direction.sequence, last)
            ciphertext = direction.cipher.encrypt(
                _nonce(direction.sequence), view[start : start + CHUNK_BYTES], self._associated_data(header)
            )
            direction.sequence += 1
            envelopes.append(Envelope(*header, ciphertext))
        return envelopes

    def open(self, envelope: Envelope, phase: str, step: str) -> bytes | None:
        """Return the message that ``envelope`` completes, or ``None`` while more of it has to come.

        Args:
            envelope: untrusted.
            phase: the phase that this party is in.
            step: the step that it expects.

        Raises:
            ProtocolError: it is of another run, phase, step, sender or place in the order than expected, or altered.
        """
        direction = self._of(self._incoming, envelope.sender)
        expected = (self._run_id, phase, step, envelope.sender, self.party, direction.sequence)
        found = (
            envelope.run_id,
            envelope.phase,
            envelope.step,
            envelope.sender,
            envelope.recipient,
            envelope.sequence,
        )
        if found != expected:
            raise ProtocolError(
                f"envelope of {envelope.sender}: expected {_describe(expected)}, got {_describe(found)}; it was "
                "replayed, reordered, dropped or belongs elsewhere"
            )
        try:
            chunk = direction.cipher.decrypt(
                _nonce(envelope.sequence), envelope.ciphertext, self._associated_data((*found, envelope.last))
            )
        except InvalidTag as error:
            raise ProtocolError(
                f"envelope {envelope.sequence} of {envelope.sender} does not open: it was altered on its way"
            ) from error
        direction.sequence += 1
        partial = self._partial[envelope.sender]
        partial.append(chunk)
        if len(partial) * CHUNK_BYTES > MAX_MESSAGE_BYTES:
            raise ProtocolError(f"a message of {envelope.sender} is larger than {MAX_MESSAGE_BYTES} bytes")
        if not envelope.last:
            return None
        self._partial[envelope.sender] = []
        return b"".join(partial)

    def shared_secret(self, peer: str, purpose: str) -> bytes:
        """Return 32 bytes that only this party and ``peer`` know, the same at both, different for every purpose.

        Raises:
            ProtocolError: ``peer`` is not a peer of this session.
        """
        pair = "|".join(sorted((self.party, peer)))
        return self._derive(self._of(self._secrets, peer), f"fedshare pairwise v1|{pair}|{purpose}")

    def _direction(self, sender: str, recipient: str, secret: bytes) -> _Direction:
        return _Direction(AESGCM(self._derive(secret, f"fedshare envelope v1|{sender}|{recipient}")))

    def _derive(self, secret: bytes, info: str) -> bytes:
        return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=self.id, info=info.encode()).derive(secret)

    def _associated_data(self, header: tuple[object, ...]) -> bytes:
        """Return the header and the contract's digest, every part preceded by its length."""
        parts = [str(part).encode() for part in (self._contract_digest, *header)]
        return b"".join(len(part).to_bytes(2, "big") + part for part in parts)

    def _of(self, by_peer: Mapping[str, _T], peer: str) -> _T:
        if peer not in by_peer:
            raise ProtocolError(f"{peer!r} is not a peer of this session")
        return by_peer[peer]


def _verify_hellos(
    hellos: Sequence[bytes], identity_keys: Mapping[str, bytes], own: payload_pb2.Hello
) -> dict[str, payload_pb2.Hello]:
    """Return every party's hello by party id, after checking each against the contract."""
    if len(hellos) != len(identity_keys):
        raise ProtocolError(f"expected the hellos of {len(identity_keys)} parties, got {len(hellos)}")
    by_key_id = {dsse.key_id(key): party for party, key in identity_keys.items()}
    statements: dict[str, payload_pb2.Hello] = {}
    for hello in hellos:
        party = next((name for key, name in by_key_id.items() if key.encode() in hello), None)
        if party is None:
            raise ProtocolError("a hello is not signed by the identity key of any party of the contract")
        payload = dsse.verify(hello, HELLO_TYPE, identity_keys[party])
        try:
            statement = payload_pb2.Hello.FromString(payload)
        except DecodeError as error:
            raise ProtocolError(f"the hello of {party} does not parse") from error
        if (statement.party, statement.contract_digest, statement.run_id) != (
            party,
            own.contract_digest,
            own.run_id,
        ):
            raise ProtocolError(f"the hello of {party} is for another party, contract or run: it was replayed")
        statements[party] = statement
    if set(statements) != set(identity_keys):
        raise ProtocolError("two hellos are of the same party")
    if statements[own.party] != own:
        raise ProtocolError("the own hello was replaced on its way round")
    return statements


def _agree(private: X25519PrivateKey, public_key: bytes, party: str) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError as error:
        # RFC 7748 section 6.1: a point of small order would make the secret known to everybody.
        raise ProtocolError(f"the session key of {party} is not a usable X25519 key") from error


def _nonce(sequence: int) -> bytes:
    return sequence.to_bytes(12, "big")


def _describe(header: tuple[object, ...]) -> str:
    run_id, phase, step, _, recipient, sequence = header
    return f"run {run_id} {phase} {step} to {recipient} number {sequence}"
