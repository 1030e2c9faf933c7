"""Identity keys: Ed25519, made by each institution, named in contracts, never leaving its node."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedshare.errors import ConfigError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KEY_BYTES", "IdentityKey", "decode_public_key", "encode_public_key", "fingerprint", "verify_signature"]

KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class IdentityKey:
    """An institution's signing key."""

    _private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls, randomness: Callable[[int], bytes]) -> IdentityKey:
        """Return a new key; 32 bytes of randomness are drawn."""
        return cls(Ed25519PrivateKey.from_private_bytes(randomness(KEY_BYTES)))

    @classmethod
    def from_pem(cls, pem: bytes) -> IdentityKey:
        """Return the key in ``pem``, PKCS #8 without encryption.

        Raises:
            ConfigError: it is something else.
        """
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError("expected an unencrypted private key in PEM, found something else") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise ConfigError("expected an Ed25519 private key, found a key of another kind")
        return cls(private)

    def to_pem(self) -> bytes:
        """Return the key as unencrypted PKCS #8 PEM, to be stored with mode 0600."""
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def public_bytes(self) -> bytes:
        """Return the public key, 32 bytes."""
        return self._private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the signature of ``message``, 64 bytes (RFC 8032 section 5.1)."""
        return self._private.sign(message)


def verify_signature(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Check one signature.

    Raises:
        ProtocolError: the key is not a key, or the signature is not of this message by this key.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise ProtocolError("a signature does not verify: the text was altered or signed by another key") from error


def encode_public_key(public_key: bytes) -> str:
    """Return a public key as it stands in a contract: base64 of its 32 bytes."""
    return base64.b64encode(public_key).decode()


def decode_public_key(text: str) -> bytes:
    """Return the 32 bytes of a public key in a contract.

    Raises:
        ConfigError: the text is not the base64 of 32 bytes.
    """
    try:
        public_key = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ConfigError("an identity key must be the base64 of 32 bytes") from error
    if len(public_key) != KEY_BYTES:
        raise ConfigError(f"an identity key must be the base64 of 32 bytes, found {len(public_key)} bytes")
    return public_key


def fingerprint(public_key: bytes) -> str:
    """Return what two people compare by telephone: SHA-256 of the key, 8 groups of 4 hexadecimal digits."""
    digits = hashlib.sha256(public_key).hexdigest()[:32]
    return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))
