"""Entries: statements in DSSE envelopes, signed one by one or a batch at a time.

One statement is a DSSE envelope of type `PAYLOAD_TYPE`. A batch is for volume: the issuer signs once, with
DSSE of type `BATCH_TYPE`, the RFC 6962 root over the pre-authentication encodings of many statements, and
every entry carries its own inclusion proof under that root, so each still stands alone. A verifier checks the
signature of a batch once, which is what makes a million entries a matter of hashing.

::

    signer = EntrySigner(identity_key)
    log.append([signer.sign(statement)])
    log.append(signer.sign_batch(statements))

    entry = Entry.parse(data)
    verifier.verify(entry, public_key_of[entry.statement.issuer])
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pydantic_core import from_json

from fedshare.audit.hashing import HASH_BYTES, leaf_hash, perfect_root, root_of_leaves
from fedshare.audit.notes import decode_base64
from fedshare.audit.proofs import inclusion_proof, root_from_inclusion
from fedshare.audit.statements import parse_statement
from fedshare.audit.tiles import MAX_ENTRY_BYTES
from fedshare.errors import ParameterError, ProtocolError
from fedshare.identity.dsse import pre_authentication_encoding
from fedshare.identity.keys import fingerprint, verify_signature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedshare.audit.statements import Statement
    from fedshare.identity.keys import IdentityKey

__all__ = ["BATCH_TYPE", "MAX_BATCH", "PAYLOAD_TYPE", "Entry", "EntrySigner", "EntryVerifier", "expect_short"]

PAYLOAD_TYPE = "application/vnd.fedshare.audit.statement.v1+json"
BATCH_TYPE = "application/vnd.fedshare.audit.batch.v1+json"
MAX_BATCH = 2**16
_MAX_CACHED_BATCHES = 4096
# What a single entry has around its payload: field names, payload type, key id and signature.
_FRAME_BYTES = 400


def expect_short(payload: bytes) -> None:
    """Check that a statement of these bytes fits an entry, before anyone signs it.

    Raises:
        ParameterError: it does not.
    """
    most = (MAX_ENTRY_BYTES - _FRAME_BYTES) // 4 * 3
    if len(payload) > most:
        raise ParameterError(f"expected a statement of at most {most} bytes, found {len(payload)}")


def _batch_encoding(root: bytes, size: int) -> bytes:
    return pre_authentication_encoding(BATCH_TYPE, b'{"root":"%s","size":%d}' % (root.hex().encode(), size))


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the log whose form is checked and whose signature is not: `EntryVerifier.verify` does that.

    Attributes:
        statement: what it says.
        signature: 64 bytes.
        message: the bytes that the signature is over.
        is_batched: whether ``message`` covers a batch that this statement is part of.
    """

    statement: Statement
    signature: bytes
    message: bytes
    is_batched: bool

    @classmethod
    def parse(cls, data: bytes) -> Entry:
        """Read an entry's bytes.

        Raises:
            ProtocolError: it is not an entry of either form, or its batch proof leads nowhere.
        """
        try:
            value = from_json(data, allow_inf_nan=False)
            if "batch" in value:
                return cls._parse_member(value)
            return cls._parse_single(value)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ProtocolError("expected an entry: a DSSE envelope or a member of a signed batch") from error

    @classmethod
    def _parse_single(cls, value: dict[str, object]) -> Entry:
        _expect_fields(value, {"payload", "payloadType", "signatures"})
        (signature,) = _expect(value["signatures"], list)
        _expect_fields(signature, {"keyid", "sig"})
        if value["payloadType"] != PAYLOAD_TYPE:
            raise ProtocolError(f"expected an entry of type {PAYLOAD_TYPE}")
        payload = decode_base64(_expect(value["payload"], str), "a payload")
        sig = decode_base64(_expect(signature["sig"], str), "a signature")
        return cls(
            parse_statement(payload),
            sig,
            pre_authentication_encoding(PAYLOAD_TYPE, payload),
            is_batched=False,
        )

    @classmethod
    def _parse_member(cls, value: dict[str, object]) -> Entry:
        _expect_fields(value, {"batch", "index", "payload", "proof"})
        batch = _expect(value["batch"], dict)
        _expect_fields(batch, {"keyid", "sig", "size"})
        payload = decode_base64(_expect(value["payload"], str), "a payload")
        size = _expect(batch["size"], int)
        if size > MAX_BATCH:
            raise ProtocolError(f"expected a batch of at most {MAX_BATCH} statements, found {size}")
        proof = decode_base64(_expect(value["proof"], str), "a proof")
        root = root_from_inclusion(
            leaf_hash(pre_authentication_encoding(PAYLOAD_TYPE, payload)),
            _expect(value["index"], int),
            size,
            [proof[at : at + HASH_BYTES] for at in range(0, len(proof), HASH_BYTES)],
        )
        sig = decode_base64(_expect(batch["sig"], str), "a signature")
        return cls(parse_statement(payload), sig, _batch_encoding(root, size), is_batched=True)


_T = TypeVar("_T")


def _expect(value: object, kind: type[_T]) -> _T:
    if type(value) is not kind:
        raise ProtocolError(f"expected {kind.__name__} in an entry")
    return value


def _expect_fields(value: dict[str, object], names: set[str]) -> None:
    if value.keys() != names:
        raise ProtocolError(f"expected the fields {', '.join(sorted(names))} in an entry")


class EntrySigner:
    """Signs statements with a party's identity key; its ``repr`` shows the key id only."""

    __slots__ = ("_key", "key_id")

    def __init__(self, key: IdentityKey) -> None:
        self._key = key
        self.key_id = fingerprint(key.public_bytes())

    def __repr__(self) -> str:
        return f"EntrySigner({self.key_id})"

    def sign(self, statement: Statement) -> bytes:
        """Return the entry of one statement.

        Raises:
            ParameterError: it is too long for the log.
        """
        payload = statement.to_bytes()
        signature = self._key.sign(pre_authentication_encoding(PAYLOAD_TYPE, payload))
        return _to_entry(
            {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"keyid": self.key_id, "sig": base64.b64encode(signature).decode()}],
            }
        )

    def sign_batch(self, statements: Sequence[Statement]) -> list[bytes]:
        """Return the entries of statements of one issuer, in order, under one signature.

        Raises:
            ParameterError: there are none, too many, or one is too long for the log.
        """
        if not 1 <= len(statements) <= MAX_BATCH:
            raise ParameterError(f"expected 1 to {MAX_BATCH} statements in a batch, found {len(statements)}")
        payloads = [statement.to_bytes() for statement in statements]
        leaves = [leaf_hash(pre_authentication_encoding(PAYLOAD_TYPE, payload)) for payload in payloads]
        size = len(leaves)
        signature = self._key.sign(_batch_encoding(root_of_leaves(leaves), size))
        batch = {"keyid": self.key_id, "sig": base64.b64encode(signature).decode(), "size": size}
        levels = [leaves]
        while len(levels[-1]) > 1:
            below = levels[-1]
            levels.append([perfect_root(below[at : at + 2]) for at in range(0, len(below) - 1, 2)])
        return [
            _to_entry(
                {
                    "batch": batch,
                    "index": index,
                    "payload": base64.b64encode(payload).decode(),
                    "proof": base64.b64encode(
                        b"".join(inclusion_proof(index, size, lambda height, at: levels[height][at]))
                    ).decode(),
                }
            )
            for index, payload in enumerate(payloads)
        ]


def _to_entry(value: object) -> bytes:
    entry = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    if len(entry) > MAX_ENTRY_BYTES:
        raise ParameterError(f"expected an entry of at most {MAX_ENTRY_BYTES} bytes, found {len(entry)}")
    return entry


class EntryVerifier:
    """Checks entries' signatures, those of a batch once."""

    def __init__(self) -> None:
        self._batches: set[tuple[bytes, bytes, bytes]] = set()

    def verify(self, entry: Entry, public: bytes) -> None:
        """Check that the holder of the Ed25519 key ``public``, 32 bytes, signed ``entry``.

        Raises:
            ProtocolError: it did not.
        """
        batch = (public, entry.signature, entry.message)
        if entry.is_batched and batch in self._batches:
            return
        try:
            verify_signature(public, entry.signature, entry.message)
        except ProtocolError as error:
            raise ProtocolError(
                f"the entry in the name of {entry.statement.issuer} is not signed with its key"
            ) from error
        if entry.is_batched:
            if len(self._batches) >= _MAX_CACHED_BATCHES:
                self._batches.clear()
            self._batches.add(batch)
