"""What an audit finds: a class, which decides the exit code, a stable word, where, and what it means."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["MEANINGS", "Finding", "FindingClass"]


class FindingClass(enum.IntEnum):
    """Classes of findings; the value is the exit code, and the lowest one found wins."""

    TREE = 20
    CHECKPOINT = 21
    WITNESSES = 22
    HISTORY = 23
    AUTHORSHIP = 24
    ORDER = 25
    AGREEMENT = 26
    BOUNDS = 27
    COMPLETENESS = 28


MEANINGS = {
    FindingClass.TREE: "entries, tiles and checkpoint do not fit: the folder was altered or is incomplete",
    FindingClass.CHECKPOINT: "the checkpoint is not one that the log signed",
    FindingClass.WITNESSES: "too few witnesses have seen this tree: others may have been shown another one",
    FindingClass.HISTORY: "the tree does not continue the one seen before: a fork, a rewrite or a rollback",
    FindingClass.AUTHORSHIP: "an entry is not what the party it names signed, or it is an old one again",
    FindingClass.ORDER: "something happened without what has to come before it, or after it was over",
    FindingClass.AGREEMENT: "two accounts of the same thing differ: a party or the coordinator is wrong",
    FindingClass.BOUNDS: "something happened that the contract does not allow",
    FindingClass.COMPLETENESS: "something that has to be in the log is missing",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: see `FindingClass`.
        code: a stable word for the rule that was broken.
        message: what was expected and what is there.
        index: the entry that shows it, or ``None`` if it is not about one.
    """

    kind: FindingClass
    code: str
    message: str
    index: int | None = None

    def to_dict(self) -> dict[str, object]:
        """Return the finding as JSON has it."""
        return {
            "class": self.kind.name.lower(),
            "exit_code": int(self.kind),
            "code": self.code,
            "index": self.index,
            "message": self.message,
            "meaning": MEANINGS[self.kind],
        }

    def __str__(self) -> str:
        place = "log" if self.index is None else f"entry {self.index}"
        return f"{place}: {self.message} [{self.kind.name.lower()}/{self.code}]"
