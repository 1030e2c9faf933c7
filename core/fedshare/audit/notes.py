"""Signed notes and the keys that sign them (C2SP signed-note, tlog-cosignature).

A note is text and, below its last blank line, signature lines ``— <name> <base64(key id || signature)>``.
Lines of unknown keys are ignored, so that a log may add witnesses; a line that names a known key and does not
verify refuses the whole note. Two kinds of key are understood: Ed25519 over the text (type 0x01, a log) and
the timestamped Ed25519 cosignature (type 0x04, a witness).

::

    note = open_note(data, [log_key, witness_key])
    note.text                       # trust this only now
    [line.key for line in note.verified]
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedshare.errors import ParameterError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "COSIGNATURE",
    "ED25519",
    "Note",
    "NoteKey",
    "NoteSigner",
    "SignatureLine",
    "decode_base64",
    "open_note",
    "parse_note",
    "parse_signature_lines",
]

# C2SP signed-note, "Signature types".
ED25519 = 0x01
COSIGNATURE = 0x04

_DASH = "\N{EM DASH} "
# The limits of golang.org/x/mod/sumdb/note.Open.
_MAX_NOTE_BYTES = 1_000_000
_MAX_SIGNATURES = 100
_KEY_ID_BYTES = 4
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_TIMESTAMP_BYTES = 8


def decode_base64(text: str, what: str) -> bytes:
    """Return the bytes of canonical standard base64 (RFC 4648 section 4).

    Raises:
        ProtocolError: ``text`` is anything else, unused bits and line breaks included: one value, one
            spelling.
    """
    try:
        encoded = text.encode("ascii")
        data = binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError as error:
        raise ProtocolError(f"expected {what} in base64") from error
    if binascii.b2a_base64(data, newline=False) != encoded:
        raise ProtocolError(f"expected {what} in canonical base64")
    return data


def _expect_name(name: str) -> str:
    # str.isspace knows every character of the Unicode property White_Space; surrogates are not UTF-8.
    if not name or any(c == "+" or c.isspace() or c < " " or "\ud800" <= c <= "\udfff" for c in name):
        raise ProtocolError("expected a key name without spaces, plus signs and control characters")
    return name


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A public key that may sign notes.

    Attributes:
        name: of the log (its origin) or the witness.
        kind: `ED25519` or `COSIGNATURE`.
        public: 32 bytes, RFC 8032.
    """

    name: str
    kind: int
    public: bytes

    def __post_init__(self) -> None:
        _expect_name(self.name)
        if self.kind not in (ED25519, COSIGNATURE):
            raise ProtocolError(f"expected key type 0x01 or 0x04, found 0x{self.kind:02x}")
        if len(self.public) != _KEY_BYTES:
            raise ProtocolError(f"expected a public key of {_KEY_BYTES} bytes, found {len(self.public)}")

    @classmethod
    def parse(cls, vkey: str) -> NoteKey:
        """Read ``<name>+<key id in hex>+<base64(type || key)>`` (C2SP signed-note, "Verifier keys").

        Raises:
            ProtocolError: malformed, of an unknown type, or the key id is not the key's.
        """
        parts = vkey.split("+", 2)
        if len(parts) != 3:
            raise ProtocolError("expected a key as name+id+base64")
        name, key_id, encoded = parts
        data = decode_base64(encoded, "a public key")
        if not data:
            raise ProtocolError("expected a key type and a public key, found nothing")
        key = cls(name, data[0], data[1:])
        if key.id.hex() != key_id:
            raise ProtocolError(f"expected key id {key.id.hex()} for the key named {name}, found another")
        return key

    @property
    def id(self) -> bytes:
        """The first 4 bytes of SHA-256(name || 0x0A || type || key)."""
        return sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:_KEY_ID_BYTES]

    @property
    def vkey(self) -> str:
        """The key as `parse` reads it."""
        encoded = base64.b64encode(bytes([self.kind]) + self.public).decode()
        return f"{self.name}+{self.id.hex()}+{encoded}"

    def verify(self, text: str, signature: bytes) -> None:
        """Check ``signature``, without its key id, over the note ``text``.

        Raises:
            ProtocolError: it is not this key's signature over this text.
        """
        message = text.encode()
        if self.kind == COSIGNATURE:
            seconds = _timestamp(signature)
            message, signature = _cosigned(text, seconds), signature[_TIMESTAMP_BYTES:]
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature as error:
            raise ProtocolError(
                f"the signature of {self.name} does not fit the note: refuse the note"
            ) from error
        except ValueError as error:
            raise ProtocolError(f"the public key of {self.name} is not an Ed25519 key") from error


class NoteSigner:
    """A private key that signs notes under a name; its ``repr`` shows the public half only.

    Args:
        name: of the log or witness.
        key: the Ed25519 key. One key serves one name and one kind (C2SP tlog-cosignature).
        kind: `ED25519` for a log, `COSIGNATURE` for a witness.
    """

    __slots__ = ("_private", "key")

    def __init__(self, name: str, key: Ed25519PrivateKey, kind: int = ED25519) -> None:
        self.key = NoteKey(name, kind, key.public_key().public_bytes_raw())
        self._private = key

    def __repr__(self) -> str:
        return f"NoteSigner({self.key.vkey})"

    def sign(self, text: str, seconds: int = 0) -> str:
        """Return the signature line over ``text``, ending in a newline.

        Args:
            text: the note's text, ending in a newline.
            seconds: POSIX time of a cosignature, 0 to 2^63 - 1; not used by a log's key.

        Raises:
            ParameterError: the text does not end in a newline, or the time is out of range.
        """
        if not text.endswith("\n"):
            raise ParameterError("expected a note text that ends in a newline")
        if self.key.kind == ED25519:
            signature = self._private.sign(text.encode())
        elif 0 <= seconds < 2**63:
            stamp = seconds.to_bytes(_TIMESTAMP_BYTES, "big")
            signature = stamp + self._private.sign(_cosigned(text, seconds))
        else:
            raise ParameterError("expected a time between 0 and 2^63 - 1 seconds")
        return str(SignatureLine(self.key.name, self.key.id, signature))


@dataclass(frozen=True, slots=True)
class SignatureLine:
    """One line below a note: who says it signed, and the bytes after the key id; `str` gives the line."""

    name: str
    key_id: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.signature).decode()}\n"

    def is_by(self, key: NoteKey) -> bool:
        """Whether the line names ``key``; only verifying shows that the key made it."""
        return self.name == key.name and self.key_id == key.id


@dataclass(frozen=True, slots=True)
class Note:
    """A note, after `open_note` or, with nothing verified, after `parse_note`.

    Attributes:
        text: ends in a newline.
        lines: every signature line in order.
        verified: the known keys whose lines verified, with the cosignature's POSIX seconds, or 0 for a log's
            key.
    """

    text: str
    lines: tuple[SignatureLine, ...]
    verified: tuple[tuple[NoteKey, int], ...] = ()

    def __str__(self) -> str:
        return self.text + "\n" + "".join(map(str, self.lines))


def parse_note(unverified: bytes) -> Note:
    """Return the note in ``unverified`` without checking a signature.

    Raises:
        ProtocolError: it is not a note: size, encoding, control characters, lines, number of signatures.
    """
    if len(unverified) > _MAX_NOTE_BYTES:
        raise ProtocolError(f"expected a note of at most {_MAX_NOTE_BYTES} bytes, found {len(unverified)}")
    try:
        text = unverified.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError("expected a note in UTF-8") from error
    if any(c < 0x20 and c != 0x0A for c in unverified):
        raise ProtocolError("expected a note without control characters")
    body, separator, signatures = text.rpartition("\n\n")
    if not separator:
        raise ProtocolError("expected a blank line and signatures below the note's text")
    return Note(body + "\n", parse_signature_lines(signatures))


def parse_signature_lines(text: str) -> tuple[SignatureLine, ...]:
    """Return the signature lines in ``text``, at least one, each ending in a newline.

    Raises:
        ProtocolError: a line is malformed, or there are none or too many.
    """
    *lines, rest = text.split("\n")
    if rest or not lines:
        raise ProtocolError("expected signature lines that end in a newline")
    if len(lines) > _MAX_SIGNATURES:
        raise ProtocolError(f"expected at most {_MAX_SIGNATURES} signatures, found {len(lines)}")
    return tuple(map(_parse_line, lines))


def _parse_line(line: str) -> SignatureLine:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH):
        raise ProtocolError("expected a signature line that starts with an em dash and a space")
    data = decode_base64(encoded, "a signature")
    if len(data) <= _KEY_ID_BYTES:
        raise ProtocolError("expected a key id and a signature, found fewer than 5 bytes")
    return SignatureLine(_expect_name(name), data[:_KEY_ID_BYTES], data[_KEY_ID_BYTES:])


def open_note(unverified: bytes, keys: Sequence[NoteKey]) -> Note:
    """Return the note in ``unverified`` if one of ``keys`` signed it and none of their signatures is bad.

    Raises:
        ProtocolError: malformed, a bad signature in a known key's name, or no signature of a known key.
    """
    note = parse_note(unverified)
    verified: dict[NoteKey, int] = {}
    for line in note.lines:
        for key in keys:
            if key not in verified and line.is_by(key):
                key.verify(note.text, line.signature)
                verified[key] = _timestamp(line.signature) if key.kind == COSIGNATURE else 0
    if not verified:
        raise ProtocolError("no key that is trusted here has signed the note: refuse it")
    return Note(note.text, note.lines, tuple(verified.items()))


def _cosigned(text: str, seconds: int) -> bytes:
    """Return the message of C2SP tlog-cosignature, "Ed25519 signed message"."""
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def _timestamp(signature: bytes) -> int:
    if len(signature) != _TIMESTAMP_BYTES + _SIGNATURE_BYTES:
        raise ProtocolError(f"expected a cosignature of 72 bytes, found {len(signature)}")
    seconds = int.from_bytes(signature[:_TIMESTAMP_BYTES], "big")
    if seconds >= 2**63:
        raise ProtocolError("expected a cosignature time below 2^63 seconds")
    return seconds
