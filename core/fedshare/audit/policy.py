"""Trust policies: which log, and how many of which witnesses (C2SP tlog-policy).

::

    log example.org/log+7b9e...+AZ...
    witness bank-a bank-a.example+c1...+BK...
    witness bank-b bank-b.example+0d...+BB...
    group institutions 2 bank-a bank-b
    quorum institutions
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedshare.audit.checkpoint import Checkpoint
from fedshare.audit.notes import COSIGNATURE, ED25519, Note, NoteKey, open_note
from fedshare.errors import ConfigError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Group", "LogEntry", "Policy", "WitnessEntry", "any_of"]

_MAX_POLICY_BYTES = 1_000_000
_NONE = "none"


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A log that the policy accepts, and where it is, or an empty string."""

    key: NoteKey
    url: str


@dataclass(frozen=True, slots=True)
class WitnessEntry:
    """A witness, its name inside the policy, and where to submit checkpoints, or an empty string."""

    name: str
    key: NoteKey
    url: str


@dataclass(frozen=True, slots=True)
class Group:
    """A group counts as a witness when ``threshold`` of its members do."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed policy.

    Attributes:
        logs: in the order of the file; a checkpoint must come from one of them.
        witnesses: by name.
        groups: by name.
        quorum: a name of either, or ``none``.
    """

    logs: tuple[LogEntry, ...]
    witnesses: Mapping[str, WitnessEntry]
    groups: Mapping[str, Group]
    quorum: str

    @classmethod
    def parse(cls, data: bytes) -> Policy:
        """Read a policy file.

        Raises:
            ConfigError: it is not one; the message names the line.
        """
        return _Parser().parse(data)

    @property
    def needs_witnesses(self) -> bool:
        """Whether the quorum asks for any cosignature."""
        return self.quorum != _NONE

    def is_met_by(self, cosigners: frozenset[str]) -> bool:
        """Whether the witnesses of these names are a quorum."""
        return self.quorum == _NONE or self._has_witnessed(self.quorum, cosigners)

    def _has_witnessed(self, name: str, cosigners: frozenset[str]) -> bool:
        group = self.groups.get(name)
        if group is None:
            return name in cosigners
        return sum(self._has_witnessed(member, cosigners) for member in group.members) >= group.threshold

    def open(self, unverified: bytes) -> tuple[Checkpoint, frozenset[str], Note]:
        """Return the checkpoint in a note signed by a log of this policy, and the witnesses that cosigned it.

        The quorum is not checked: ask `is_met_by`, or use `verify`.

        Raises:
            ProtocolError: malformed, of another log, not signed by it, or with a bad signature of a known
                key.
        """
        keys = [log.key for log in self.logs]
        note = open_note(unverified, [*keys, *(witness.key for witness in self.witnesses.values())])
        checkpoint = Checkpoint.parse(note.text)
        signers = {key for key, _ in note.verified}
        # The key name of a log is its origin, so a log of the policy cannot speak for another one of it.
        if not any(key in signers and key.name == checkpoint.origin for key in keys):
            raise ProtocolError("the checkpoint is not signed by a log that the policy names: refuse it")
        cosigners = frozenset(name for name, witness in self.witnesses.items() if witness.key in signers)
        return checkpoint, cosigners, note

    def verify(self, unverified: bytes) -> Checkpoint:
        """Return the checkpoint in a note that satisfies this policy: a known log, and the quorum.

        Raises:
            ProtocolError: it does not.
        """
        checkpoint, cosigners, _ = self.open(unverified)
        if not self.is_met_by(cosigners):
            raise ProtocolError(
                f"the checkpoint of size {checkpoint.size} has {len(cosigners)} known cosignatures, which the"
                f" policy's quorum {self.quorum} does not accept: do not trust it yet"
            )
        return checkpoint


def any_of(log: NoteKey, policies: Sequence[Policy]) -> Policy:
    """Return the policy for ``log`` that is met when one of ``policies`` is; none is met if there are none.

    Its witnesses go by their verifier keys, because two policies may use one name for two keys.
    """
    witnesses: dict[str, WitnessEntry] = {}
    groups: dict[str, Group] = {}
    quorums = []
    for number, policy in enumerate(policies):
        names = {name: entry.key.vkey for name, entry in policy.witnesses.items()}
        witnesses |= {entry.key.vkey: entry for entry in policy.witnesses.values()}
        names |= {name: f"{number} {name}" for name in policy.groups}
        for name, group in policy.groups.items():
            groups[names[name]] = Group(group.threshold, tuple(names[member] for member in group.members))
        quorums.append(names[policy.quorum])
    groups["any"] = Group(1, tuple(quorums))
    return Policy((LogEntry(log, ""),), witnesses, groups, "any")


class _Parser:
    def __init__(self) -> None:
        self._logs: list[LogEntry] = []
        self._witnesses: dict[str, WitnessEntry] = {}
        self._groups: dict[str, Group] = {}
        self._members: set[str] = set()
        self._quorum: str | None = None

    def parse(self, data: bytes) -> Policy:
        if len(data) > _MAX_POLICY_BYTES or any((c < 0x20 and c not in b"\t\n") or c == 0x7F for c in data):
            raise ConfigError(
                "expected a policy of lines of text, with no control characters but tab and newline"
            )
        # Bytes above 0x7F are opaque: surrogateescape keeps names apart exactly when their bytes differ.
        text = data.decode("utf-8", "surrogateescape")
        for number, line in enumerate(text.split("\n"), 1):
            words = [word for word in line.replace("\t", " ").split(" ") if word]
            if words and not words[0].startswith("#"):
                self._read(number, words)
        if self._quorum is None:
            raise ConfigError("expected one quorum line in the policy, found none")
        return Policy(tuple(self._logs), self._witnesses, self._groups, self._quorum)

    def _read(self, number: int, words: list[str]) -> None:
        readers: dict[str, Callable[[list[str]], None]] = {
            "log": self._log,
            "witness": self._witness,
            "group": self._group,
            "quorum": self._set_quorum,
        }
        reader = readers.get(words[0])
        if reader is None:
            raise ConfigError(f"policy line {number}: expected log, witness, group or quorum")
        try:
            reader(words[1:])
        except (ProtocolError, ValueError, UnicodeEncodeError) as error:
            raise ConfigError(f"policy line {number}: {error}") from error

    def _log(self, words: list[str]) -> None:
        if len(words) not in (1, 2):
            raise ValueError("expected log <vkey> [<url>]")
        key = _parse_key(words[0], ED25519)
        if any(key.public == log.key.public for log in self._logs):
            raise ValueError("expected every log once, found its key twice")
        self._logs.append(LogEntry(key, words[1] if len(words) == 2 else ""))

    def _witness(self, words: list[str]) -> None:
        if len(words) not in (2, 3):
            raise ValueError("expected witness <name> <vkey> [<url>]")
        name, key = self._new_name(words[0]), _parse_key(words[1], COSIGNATURE)
        if any(key.public == witness.key.public for witness in self._witnesses.values()):
            raise ValueError("expected every witness once, found its key twice")
        self._witnesses[name] = WitnessEntry(name, key, words[2] if len(words) == 3 else "")

    def _group(self, words: list[str]) -> None:
        if len(words) < 3:
            raise ValueError("expected group <name> <all|any|k> <member>...")
        name, members = self._new_name(words[0]), words[2:]
        for member in members:
            self._known(member)
            if member in self._members:
                raise ValueError("expected every name in one group at most, and once")
            self._members.add(member)
        self._groups[name] = Group(_threshold(words[1], len(members)), tuple(members))

    def _set_quorum(self, words: list[str]) -> None:
        if len(words) != 1:
            raise ValueError("expected quorum <name>")
        if self._quorum is not None:
            raise ValueError("expected one quorum line, found a second")
        if words[0] != _NONE:
            self._known(words[0])
        self._quorum = words[0]

    def _new_name(self, name: str) -> str:
        if name == _NONE or name in self._witnesses or name in self._groups:
            raise ValueError("expected a new name that is not none")
        return name

    def _known(self, name: str) -> None:
        if name not in self._witnesses and name not in self._groups:
            raise ValueError("expected the name of a witness or group defined on a line above")


def _parse_key(vkey: str, kind: int) -> NoteKey:
    key = NoteKey.parse(vkey)
    if key.kind != kind:
        raise ValueError(f"expected a key of type 0x{kind:02x}, found type 0x{key.kind:02x}")
    return key


def _threshold(word: str, members: int) -> int:
    threshold = {"all": members, "any": 1}.get(word)
    if threshold is None:
        if not word.isascii() or not word.isdigit() or len(word) > 6:
            raise ValueError("expected all, any or a number as the group's threshold")
        threshold = int(word)
    if not 1 <= threshold <= members:
        raise ValueError(f"expected a threshold between 1 and {members}, found {threshold}")
    return threshold
