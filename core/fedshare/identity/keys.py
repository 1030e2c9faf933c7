"""Identity keys: the Ed25519 keys (RFC 8032) by which institutions sign contracts and hellos.

The public half stands in the signed contract, so nobody, the coordinator included, speaks for an institution::

    key = IdentityKey.generate(os.urandom)
    signature = key.sign(message)
    verify_signature(key.public_bytes(), signature, message)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fedshare.errors import ConfigError, ParameterError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "PUBLIC_KEY_BYTES",
    "IdentityKey",
    "decode_public_key",
    "encode_public_key",
    "fingerprint",
    "verify_signature",
]

PUBLIC_KEY_BYTES = 32
_SEED_BYTES = 32


class IdentityKey:
    """An institution's private Ed25519 key; its ``repr`` shows the fingerprint only."""

    __slots__ = ("_key",)

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls, randomness: Callable[[int], bytes]) -> IdentityKey:
        """Return a new key from 32 bytes of ``randomness``."""
        return cls.from_raw(randomness(_SEED_BYTES))

    @classmethod
    def from_raw(cls, seed: bytes) -> IdentityKey:
        """Return the key of a 32-byte seed (RFC 8032 section 5.1.5).

        Raises:
            ParameterError: ``seed`` has another length.
        """
        if len(seed) != _SEED_BYTES:
            raise ParameterError(f"expected an identity key of {_SEED_BYTES} bytes, found {len(seed)}")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_pem(cls, pem: bytes) -> IdentityKey:
        """Return the key in an unencrypted PKCS #8 PEM file.

        Raises:
            ConfigError: it is no such file, or holds another kind of key.
        """
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise ConfigError(
                "expected an unencrypted Ed25519 private key in PEM, found something else"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError("expected an Ed25519 private key, found another kind of key")
        return cls(key)

    def to_raw(self) -> bytes:
        """Return the 32-byte seed; the caller keeps it private."""
        return self._key.private_bytes_raw()

    def to_pem(self) -> bytes:
        """Return the key as unencrypted PKCS #8 PEM; the caller keeps the file private."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def signing_key(self) -> Ed25519PrivateKey:
        """The key as ``cryptography`` has it, for the signers of the audit log."""
        return self._key

    def public_bytes(self) -> bytes:
        """Return the 32-byte public key."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of ``message``."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"IdentityKey({fingerprint(self.public_bytes())[:16]})"

    def __reduce__(self) -> NoReturn:
        raise ParameterError("an identity key is not pickled or copied: write it with to_pem")


def encode_public_key(public_key: bytes) -> str:
    """Return a 32-byte public key in base64, as contracts write it.

    Raises:
        ParameterError: it has another length.
    """
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise ParameterError(f"expected a public key of {PUBLIC_KEY_BYTES} bytes, found {len(public_key)}")
    return base64.b64encode(public_key).decode()


def decode_public_key(text: str) -> bytes:
    """Return the 32 bytes of a public key in base64; each key has one accepted spelling.

    Raises:
        ProtocolError: it is not canonical base64 of 32 bytes.
    """
    try:
        public_key = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise ProtocolError("expected an Ed25519 public key in base64, found something else") from error
    if len(public_key) != PUBLIC_KEY_BYTES or base64.b64encode(public_key).decode() != text:
        raise ProtocolError("expected an Ed25519 public key: 32 bytes in canonical base64")
    return public_key


def fingerprint(public_key: bytes) -> str:
    """Return SHA-256 of a 32-byte public key, hex: what people compare by telephone; also the DSSE key id."""
    return hashlib.sha256(public_key).hexdigest()


def verify_signature(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Verify an Ed25519 signature.

    Raises:
        ProtocolError: the signature is not by ``public_key`` over ``message``, or the key is no key.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise ProtocolError("the signature does not verify under the key that the contract names") from error
