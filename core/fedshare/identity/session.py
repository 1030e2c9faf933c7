"""Sessions: authenticated encryption between the parties of a run, through a coordinator nobody trusts.

Every party makes an X25519 key for the run and signs it in a `Hello`. The coordinator passes the hellos on. Each
party checks all of them against the identity keys in the contract and derives, for every ordered pair, a key for
AES-256-GCM:

    session id = SHA-256(contract digest, run, every hello in the order of party ids)
    key        = HKDF-SHA256(X25519(i, j), salt = session id, info = "fedshare envelope v1", sender, recipient)

Because the session id covers every hello as received, parties that were told different things share no key, and
because each party's own fresh key and nonce are in it, no session repeats. A replayed hello gets its replayer
nothing: who does not hold the ephemeral private key cannot seal. Sequence numbers are the nonces; each is used
once per key, under a lock.

Sources: RFC 7748 section 6.1 (X25519 and the all-zero check), RFC 5869 (HKDF), NIST SP 800-38D (GCM).

Assumes: the identity keys in the contract are the parties' own (people compare fingerprints before they sign).

    pending = PendingSession.start(identity, contract.digest(), run_id, "bank-a", os.urandom)
    session = pending.establish(hellos, identity_keys)
    for envelope in session.seal("tax", "align", "RowTags/0", payload): ...
    payload = session.open(envelope, "align", "RowTags/0")
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedshare.errors import ParameterError, ProtocolError
from fedshare.identity import dsse
from fedshare.identity.envelope import CHUNK_BYTES, MAX_CIPHERTEXT_BYTES, TAG_BYTES, Envelope
from fedshare.identity.hello import HELLO_TYPE, KEY_BYTES, Hello

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fedshare.identity.keys import IdentityKey

__all__ = ["MAX_MESSAGE_BYTES", "PendingSession", "Session"]

MAX_MESSAGE_BYTES = (1 << 31) - 1  # what a protobuf message may have
_MAX_ENVELOPES = 1 << 32  # NIST SP 800-38D section 8.3: invocations under one key
_MAX_RUN_ID = (1 << 64) - 1


class PendingSession:
    """A party that has said hello and waits for the others; used for one session."""

    __slots__ = ("_hello", "_identity_public", "_private", "hello")

    def __init__(
        self, hello: Hello, signed: bytes, identity_public: bytes, private: X25519PrivateKey
    ) -> None:
        self._hello = hello
        self._identity_public = identity_public
        self._private: X25519PrivateKey | None = private
        self.hello = signed

    @classmethod
    def start(
        cls,
        identity_key: IdentityKey,
        contract_digest: str,
        run_id: int,
        party: str,
        randomness: Callable[[int], bytes],
        model: bytes = b"",
    ) -> PendingSession:
        """Return a pending session with a fresh ephemeral key and nonce; ``hello`` is what to send.

        Args:
            identity_key: of ``party``.
            contract_digest: hex.
            run_id: 0 to 2^64 - 1.
            party: who says hello.
            randomness: 32 bytes for the ephemeral key, then 32 for the nonce.
            model: see ``Hello``.

        Raises:
            ParameterError: ``run_id`` is out of range.
        """
        if not 0 <= run_id <= _MAX_RUN_ID:
            raise ParameterError("expected a run id from 0 to 2^64 - 1")
        private = X25519PrivateKey.from_private_bytes(randomness(KEY_BYTES))
        public = private.public_key().public_bytes_raw()
        hello = Hello(party, contract_digest, run_id, public, randomness(KEY_BYTES), model)
        signed = dsse.sign(hello.to_wire(), HELLO_TYPE, identity_key)
        return cls(hello, signed, identity_key.public_bytes(), private)

    def establish(self, hellos: Sequence[bytes], identity_keys: Mapping[str, bytes]) -> Session:
        """Return the session of the parties that have said ``hellos``.

        Consumes the ephemeral key, also when it raises: a run that fails here is started anew.

        Args:
            hellos: every party's signed hello, this party's own among them, in any order.
            identity_keys: the contract's 32-byte identity key of every party.

        Raises:
            ProtocolError: a hello is missing, surplus, altered, replayed, or not about this run and its model.
            ParameterError: the ephemeral key was used before.
        """
        private, self._private = self._private, None
        if private is None:
            raise ParameterError("a pending session establishes one session: start a new run")
        signed = self._collect(hellos, identity_keys)
        verified = {
            party: self._verify(party, signed[party], identity_keys[party]) for party in sorted(signed)
        }
        _require_distinct([hello.ephemeral_key for hello in verified.values()], "ephemeral key")
        _require_distinct([hello.nonce for hello in verified.values()], "nonce")
        session_id = _session_id(self._hello, signed)
        secrets = {
            party: _agree(private, hello) for party, hello in verified.items() if party != self._hello.party
        }
        return Session(session_id, self._hello, secrets)

    def _collect(self, hellos: Sequence[bytes], identity_keys: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return the hellos by claimed party: one of every party of the contract, ours as we said it."""
        _require_distinct(list(identity_keys.values()), "identity key")
        signed = {Hello.unverified_party(hello): bytes(hello) for hello in hellos}
        if len(signed) != len(hellos) or set(signed) != set(identity_keys):
            raise ProtocolError(
                f"expected one hello of each of {', '.join(sorted(identity_keys))}; found {len(hellos)} of "
                f"{len(set(signed) & set(identity_keys))} of them"
            )
        # Prevent a coordinator from reflecting an earlier or altered hello of ours into the transcript.
        if signed.get(self._hello.party) != self.hello:
            raise ProtocolError(f"the hello of {self._hello.party} is not the one that it sent for this run")
        if identity_keys[self._hello.party] != self._identity_public:
            raise ProtocolError(
                f"the contract names another identity key for {self._hello.party} than its own"
            )
        return signed

    def _verify(self, party: str, signed: bytes, identity_key: bytes) -> Hello:
        hello = Hello.verify(signed, identity_key)
        for name, expected, found in (
            ("party", party, hello.party),
            ("contract", self._hello.contract_digest, hello.contract_digest),
            ("run", self._hello.run_id, hello.run_id),
            # Prevent parts of different models from being added up: differences of sums would show one holder's part.
            ("model", self._hello.model, hello.model),
        ):
            if expected != found:
                raise ProtocolError(f"the hello of {party} is for another {name} than this party's")
        return hello

    def __repr__(self) -> str:
        return f"PendingSession(party={self._hello.party!r}, run_id={self._hello.run_id})"

    def __reduce__(self) -> NoReturn:
        raise ParameterError("a pending session is not copied: its ephemeral key is used once")


@dataclass(slots=True)
class _Outgoing:
    cipher: AESGCM = field(repr=False)
    sequence: int = 0


@dataclass(slots=True)
class _Incoming:
    cipher: AESGCM = field(repr=False)
    sequence: int = 0
    chunks: list[bytes] = field(default_factory=list, repr=False)
    place: tuple[str, str] = ("", "")


class Session:
    """The keys and counters of one party in one run; in memory only, never copied."""

    __slots__ = (
        "_contract_digest",
        "_incoming",
        "_lock",
        "_outgoing",
        "_run_id",
        "_secrets",
        "id",
        "party",
        "peers",
    )

    def __init__(self, session_id: bytes, hello: Hello, secrets: Mapping[str, bytes]) -> None:
        self.id = session_id
        self.party = hello.party
        self.peers = frozenset(secrets)
        self._contract_digest = hello.contract_digest
        self._run_id = hello.run_id
        self._secrets = dict(secrets)
        self._lock = threading.Lock()
        self._outgoing = {peer: _Outgoing(self._cipher(peer, self.party, peer)) for peer in secrets}
        self._incoming = {peer: _Incoming(self._cipher(peer, peer, self.party)) for peer in secrets}

    def seal(self, recipient: str, phase: str, step: str, payload: bytes) -> list[Envelope]:
        """Return the envelopes of one message, to be sent in this order.

        Raises:
            ParameterError: ``recipient`` is no peer, or the message or the session is too long.
        """
        if recipient not in self.peers:
            raise ParameterError(f"expected a peer of {self.party} as the recipient, found {recipient}")
        if len(payload) > MAX_MESSAGE_BYTES:
            raise ParameterError(
                f"expected a message of at most {MAX_MESSAGE_BYTES} bytes, found {len(payload)}"
            )
        view = memoryview(payload)
        starts = range(0, max(len(view), 1), CHUNK_BYTES)
        outgoing = self._outgoing[recipient]
        # Prevent two threads from taking the same sequence, which is the nonce.
        with self._lock:
            first = outgoing.sequence
            if first + len(starts) > _MAX_ENVELOPES:
                raise ParameterError("too many envelopes under one key: start a new run")
            outgoing.sequence += len(starts)
        return [
            self._seal_chunk(
                outgoing.cipher,
                recipient,
                phase,
                step,
                first + index,
                start == starts[-1],
                view[start : start + CHUNK_BYTES],
            )
            for index, start in enumerate(starts)
        ]

    def open(self, envelope: Envelope, phase: str, step: str) -> bytes | None:
        """Return the message that ``envelope`` completes, or ``None`` if more chunks follow.

        An envelope that is refused changes nothing.

        Raises:
            ProtocolError: it is not the next envelope of its sender to this party, or not of ``phase`` and
                ``step``, or altered.
        """
        with self._lock:
            incoming = self._check(envelope, phase, step)
            chunk = self._open_chunk(incoming, envelope)
            if not envelope.last and len(chunk) != CHUNK_BYTES:
                raise ProtocolError(
                    f"an envelope of {envelope.sender} is short and not the last of its message"
                )
            if sum(map(len, incoming.chunks)) + len(chunk) > MAX_MESSAGE_BYTES:
                raise ProtocolError(f"a message of {envelope.sender} exceeds {MAX_MESSAGE_BYTES} bytes")
            incoming.sequence += 1
            incoming.place = (phase, step)
            incoming.chunks.append(chunk)
            if not envelope.last:
                return None
            chunks, incoming.chunks = incoming.chunks, []
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def shared_secret(self, peer: str, purpose: str) -> bytes:
        """Return 32 bytes that only this party and ``peer`` know, the same at both, one per ``purpose``.

        Raises:
            ParameterError: ``peer`` is no peer.
        """
        if peer not in self.peers:
            raise ParameterError(f"expected a peer of {self.party}, found {peer}")
        pair = sorted((self.party, peer))
        return _derive(self._secrets[peer], self.id, b"fedshare pair secret v1", *pair, purpose)

    def _cipher(self, peer: str, sender: str, recipient: str) -> AESGCM:
        return AESGCM(_derive(self._secrets[peer], self.id, b"fedshare envelope v1", sender, recipient))

    def _seal_chunk(
        self,
        cipher: AESGCM,
        recipient: str,
        phase: str,
        step: str,
        sequence: int,
        last: bool,
        chunk: memoryview,
    ) -> Envelope:
        data = self._associated_data(phase, step, self.party, recipient, sequence, last)
        ciphertext = cipher.encrypt(_nonce(sequence), chunk, data)
        return Envelope(self._run_id, phase, step, self.party, recipient, sequence, last, ciphertext)

    def _check(self, envelope: Envelope, phase: str, step: str) -> _Incoming:
        """Return the state of the sender if ``envelope`` is what must come next from it."""
        if envelope.recipient != self.party or envelope.sender not in self.peers:
            raise ProtocolError(f"expected an envelope from a peer to {self.party}, found one between others")
        if envelope.run_id != self._run_id:
            raise ProtocolError(
                f"expected an envelope of run {self._run_id}, found one of run {envelope.run_id}"
            )
        incoming = self._incoming[envelope.sender]
        # Prevent replay, reordering and dropping.
        if envelope.sequence != incoming.sequence:
            raise ProtocolError(
                f"expected envelope {incoming.sequence} of {envelope.sender}, found {envelope.sequence}: it "
                "was replayed, reordered, or one before it was dropped"
            )
        if (envelope.phase, envelope.step) != (phase, step):
            raise ProtocolError(
                f"expected an envelope of {envelope.sender} for {phase} {step}, found another step"
            )
        if incoming.chunks and incoming.place != (phase, step):
            raise ProtocolError(f"the message of {envelope.sender} changes its step before its end")
        if not TAG_BYTES <= len(envelope.ciphertext) <= MAX_CIPHERTEXT_BYTES:
            raise ProtocolError(f"an envelope of {envelope.sender} has an impossible length")
        return incoming

    def _open_chunk(self, incoming: _Incoming, envelope: Envelope) -> bytes:
        data = self._associated_data(
            envelope.phase,
            envelope.step,
            envelope.sender,
            envelope.recipient,
            envelope.sequence,
            envelope.last,
        )
        try:
            return incoming.cipher.decrypt(_nonce(envelope.sequence), envelope.ciphertext, data)
        except InvalidTag as error:
            raise ProtocolError(
                f"envelope {envelope.sequence} of {envelope.sender} does not authenticate: it was altered, or "
                "the parties were given different hellos"
            ) from error

    def _associated_data(
        self, phase: str, step: str, sender: str, recipient: str, sequence: int, last: bool
    ) -> bytes:
        words = (self._contract_digest, phase, step, sender, recipient)
        numbers = self._run_id.to_bytes(8, "big") + sequence.to_bytes(8, "big") + bytes([last])
        return numbers + _join(*(word.encode() for word in words))

    def __repr__(self) -> str:
        return f"Session(party={self.party!r}, id={self.id.hex()[:16]})"

    def __reduce__(self) -> NoReturn:
        raise ParameterError("a session is not copied: two copies would use one nonce twice")


def _join(*parts: bytes) -> bytes:
    """Return an injective encoding: each part after its length in 4 bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _nonce(sequence: int) -> bytes:
    return sequence.to_bytes(12, "big")


def _derive(secret: bytes, salt: bytes, label: bytes, *words: str) -> bytes:
    info = _join(label, *(word.encode() for word in words))
    return HKDF(SHA256(), 32, salt, info).derive(secret)


def _session_id(hello: Hello, signed: Mapping[str, bytes]) -> bytes:
    transcript = [part for party in sorted(signed) for part in (party.encode(), signed[party])]
    head = (b"fedshare session v1", hello.contract_digest.encode(), hello.run_id.to_bytes(8, "big"))
    return hashlib.sha256(_join(*head, *transcript)).digest()


def _agree(private: X25519PrivateKey, hello: Hello) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(hello.ephemeral_key))
    except ValueError as error:
        # RFC 7748 section 6.1: a small-order point makes the shared secret zero.
        raise ProtocolError(f"the ephemeral key of {hello.party} is a point of small order") from error


def _require_distinct(values: list[bytes], name: str) -> None:
    # Prevent identity misbinding and reflection: no two parties may present the same key.
    if len(set(values)) != len(values):
        raise ProtocolError(f"two parties have the same {name}")
