"""Hellos: a party's ephemeral key for one run, signed by the identity key that the contract names."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from fedshare.errors import ProtocolError
from fedshare.identity import dsse
from fedshare.wire.v1 import payload_pb2 as wire

__all__ = ["HELLO_TYPE", "KEY_BYTES", "Hello"]

HELLO_TYPE = "application/vnd.fedshare.hello.v1+protobuf"
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Hello:
    """What a party says before a run; everything in it is public.

    Attributes:
        party: who says it.
        contract_digest: of the contract that the run is under, hex.
        run_id: as numbered by Flower.
        ephemeral_key: X25519 public key made for this run, 32 bytes.
        nonce: 32 fresh random bytes.
        model: SHA-256 of the manifest of the model that this party would serve; empty in a run that trains.
    """

    party: str
    contract_digest: str
    run_id: int
    ephemeral_key: bytes
    nonce: bytes
    model: bytes = b""

    def to_wire(self) -> bytes:
        """Return the serialized protobuf form, the bytes that are signed."""
        message = wire.Hello(
            party=self.party,
            contract_digest=self.contract_digest,
            run_id=self.run_id,
            ephemeral_key=self.ephemeral_key,
            nonce=self.nonce,
            model=self.model,
        )
        return message.SerializeToString(deterministic=True)

    @classmethod
    def from_wire(cls, payload: bytes) -> Hello:
        """Return the hello in serialized bytes, of which each hello has one spelling.

        Raises:
            ProtocolError: it does not parse, carries unknown fields, or a key, nonce or model has not 32 bytes.
        """
        try:
            message = wire.Hello.FromString(payload)
        except DecodeError as error:
            raise ProtocolError("a hello does not parse") from error
        hello = cls(
            message.party,
            message.contract_digest,
            message.run_id,
            message.ephemeral_key,
            message.nonce,
            message.model,
        )
        if hello.to_wire() != payload:
            raise ProtocolError("a hello carries other fields than this version knows")
        if len(hello.ephemeral_key) != KEY_BYTES or len(hello.nonce) != KEY_BYTES:
            raise ProtocolError(f"expected a hello with a key and a nonce of {KEY_BYTES} bytes each")
        if len(hello.model) not in (0, KEY_BYTES):
            raise ProtocolError(f"expected a hello with a digest of {KEY_BYTES} bytes of the model, or none")
        return hello

    @classmethod
    def unverified_party(cls, envelope: bytes) -> str:
        """Return who a signed hello claims to be from.

        Raises:
            ProtocolError: it does not parse.
        """
        return cls.from_wire(dsse.parse(envelope).unverified_payload).party

    @classmethod
    def verify(cls, envelope: bytes, identity_key: bytes) -> Hello:
        """Return a signed hello.

        Raises:
            ProtocolError: it does not parse or ``identity_key`` has not signed it.
        """
        return cls.from_wire(dsse.verify(envelope, HELLO_TYPE, identity_key))
