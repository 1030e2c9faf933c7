"""Checkpoints: the head of a log as a signed note (C2SP tlog-checkpoint)."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from fedshare.audit.hashing import expect_hash, expect_size
from fedshare.audit.notes import decode_base64
from fedshare.errors import ProtocolError

__all__ = ["Checkpoint", "parse_decimal"]

# No leading zeroes; 19 digits hold every number below 2^63.
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


def parse_decimal(text: str, what: str) -> int:
    """Return the number that ``text`` spells without sign or leading zeroes, 0 to 2^63 - 1.

    Raises:
        ProtocolError: it spells none.
    """
    if not _DECIMAL.fullmatch(text):
        raise ProtocolError(f"expected {what} as a decimal number without leading zeroes")
    return expect_size(int(text), what)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a log.

    Attributes:
        origin: which log, one non-empty line.
        size: number of entries, 0 to 2^63 - 1.
        root: 32 bytes.
        extensions: further non-empty lines; ours has none.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expect_size(self.size, "a tree size")
        expect_hash(self.root, "a root hash")
        if any(not line or "\n" in line for line in (self.origin, *self.extensions)):
            raise ProtocolError("expected an origin and extensions of one non-empty line each")

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read a note's text. Trust the result only as far as the note's signatures were checked.

        Raises:
            ProtocolError: ``text`` is not a checkpoint.
        """
        *lines, rest = text.split("\n")
        if rest or len(lines) < 3:
            raise ProtocolError("expected a checkpoint of at least three lines: origin, size and root")
        origin, size, root, *extensions = lines
        return cls(
            origin, parse_decimal(size, "a tree size"), decode_base64(root, "a root hash"), tuple(extensions)
        )

    @property
    def text(self) -> str:
        """The note text, ending in a newline."""
        root = base64.b64encode(self.root).decode()
        return "".join(f"{line}\n" for line in (self.origin, str(self.size), root, *self.extensions))
