"""The leak ledger: what each role learns from everything that crosses the federation, and why it is needed.

One entry for every payload message of ``protos/fedshare/wire/v1/payload.proto``, which travel sealed, and for
everything that the coordinator can read. An entry lists the fields of its message: a test walks the
definitions and fails if a message or a field is missing here, so nothing is added to the protocol without
saying what it gives away.

``summarise`` says what follows for one contract, in numbers, before anyone signs it. What parties may learn
by combining what they see is in ``docs/protocol.md``, "What follows from the messages".
"""

from .bounds import MAX_POINTS, bins_at_most, columns_at_most, sums_at_most
from .entry import Leak, Speaker
from .ledger import LEDGER
from .summary import summarise

__all__ = [
    "LEDGER",
    "MAX_POINTS",
    "Leak",
    "Speaker",
    "bins_at_most",
    "columns_at_most",
    "summarise",
    "sums_at_most",
]
