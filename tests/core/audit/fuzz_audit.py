"""Coverage-guided fuzzing of every parser that reads bytes from strangers: only our errors may come out.

    python tests/core/audit/fuzz_audit.py -max_total_time=60

The first byte picks the parser. `atheris` is in the development dependencies.
"""

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["fedshare.audit"]):
    from fedshare.audit.checkpoint import Checkpoint
    from fedshare.audit.entries import Entry
    from fedshare.audit.notes import COSIGNATURE, NoteKey, NoteSigner, parse_note
    from fedshare.audit.policy import Policy
    from fedshare.audit.receipts import Receipt
    from fedshare.audit.statements import parse_statement
    from fedshare.audit.tiles import decode_bundle, parse_path
    from fedshare.audit.witnessing import add_checkpoint
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedshare.errors import ConfigError, ProtocolError

WITNESS = NoteSigner("w", Ed25519PrivateKey.from_private_bytes(bytes(32)), COSIGNATURE)
LOG = NoteKey("example.org/log", 1, WITNESS.key.public)


def _text(read):
    return lambda data: read(data.decode("utf-8", "surrogateescape"))


def _ask(data):
    assert add_checkpoint(data, [LOG], None, WITNESS, 0).status in (400, 403, 404)


PARSERS = [
    parse_note,
    _text(Checkpoint.parse),
    _text(NoteKey.parse),
    _text(parse_path),
    Policy.parse,
    Receipt.parse,
    Entry.parse,
    parse_statement,
    lambda data: decode_bundle(data, 1),
    _ask,
]


def fuzz(data):
    if data:
        with contextlib.suppress(ProtocolError, ConfigError):
            PARSERS[data[0] % len(PARSERS)](data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()
