"""Verifying a whole log, offline, from its files and a trust policy.

Plan:

1. the checkpoint is signed by a log of the policy, and enough witnesses have cosigned it;
2. every entry hashes to its place in the tiles, every tile to its place in the one above, and all to the
   root;
3. the tree contains the one of an earlier checkpoint, if one is given;
4. every entry is signed by the party that it names, with the key that this party enrolled;
5. the entries keep the rules (`fedshare_clients.auditor.rules`).

It goes on after a finding wherever it can, so that one report shows all of them.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedshare.audit.entries import Entry, EntryVerifier
from fedshare.audit.hashing import EMPTY_ROOT, HASH_BYTES, edge_root, leaf_hash, perfect_root, range_root
from fedshare.audit.statements import Enrolment
from fedshare.audit.tiles import CHECKPOINT_PATH, TILE_WIDTH, Tiles, read_bundle
from fedshare.errors import ProtocolError, UnavailableError
from fedshare_clients.auditor.findings import Finding, FindingClass
from fedshare_clients.auditor.rules import Rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fedshare.audit.checkpoint import Checkpoint
    from fedshare.audit.policy import Policy
    from fedshare.audit.statements import Statement
    from fedshare.audit.tiles import Source

__all__ = ["Report", "verify_log"]

# After so many findings the rest says nothing new, and memory stays bounded.
MAX_FINDINGS = 1000


@dataclass(slots=True)
class Report:
    """What a verification saw.

    Attributes:
        origin: of the log, or empty if its checkpoint was not good.
        size: entries under the checkpoint.
        cosigners: witnesses of the policy that cosigned it.
        findings: the first `MAX_FINDINGS`; empty if all is well.
        statements: number of authentic statements by kind.
    """

    origin: str = ""
    size: int = 0
    cosigners: tuple[str, ...] = ()
    findings: list[Finding] = field(default_factory=list)
    statements: Mapping[str, int] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 if there are no findings, else the lowest class among them."""
        return min((int(finding.kind) for finding in self.findings), default=0)


def verify_log(
    source: Source,
    policy: Policy,
    since: bytes | None = None,
    keys: Mapping[str, bytes] | None = None,
) -> Report:
    """Return what is wrong with the log in ``source``.

    Args:
        source: the log's files; not trusted.
        policy: the log's key and the witnesses that must have cosigned.
        since: an earlier checkpoint of this log, as a signed note, that this one has to continue.
        keys: identity keys known from elsewhere, 32 bytes per party; others count as first enrolled in the
            log.
    """
    report = Report()
    for finding in _verify(source, policy, since, keys or {}, report):
        report.findings.append(finding)
        if len(report.findings) >= MAX_FINDINGS:
            break
    return report


def _verify(
    source: Source, policy: Policy, since: bytes | None, keys: Mapping[str, bytes], report: Report
) -> Iterator[Finding]:
    # 1. the checkpoint
    try:
        checkpoint, cosigners, _ = policy.open(source.read(CHECKPOINT_PATH))
    except UnavailableError as error:
        yield Finding(FindingClass.TREE, "no_checkpoint", str(error))
        return
    except ProtocolError as error:
        yield Finding(FindingClass.CHECKPOINT, "bad_checkpoint", str(error))
        return
    report.origin, report.size = checkpoint.origin, checkpoint.size
    report.cosigners = tuple(sorted(cosigners))
    if not policy.is_met_by(cosigners):
        yield Finding(
            FindingClass.WITNESSES,
            "no_quorum",
            f"{len(cosigners)} known witnesses cosigned, which the quorum {policy.quorum} does not accept",
        )
    # 2. to 5.
    people = _People(keys, policy)
    rules = Rules()
    report.statements = rules.counts
    try:
        tree = _Tree(source, checkpoint.size)
        for index, data in tree.entries():
            yield from tree.take_findings()
            statement, findings = people.authenticate(index, data)
            yield from findings
            if statement is not None:
                yield from rules.read(index, statement)
        yield from tree.finish(checkpoint)
        if since is not None:
            yield from _continues(source, policy, since, checkpoint)
    except (ProtocolError, UnavailableError) as error:
        yield Finding(FindingClass.TREE, "unreadable", str(error))
        return
    yield from rules.finish()


class _Tree:
    """Rebuilds the tree from its entries and compares it with the tiles on the way."""

    def __init__(self, source: Source, size: int) -> None:
        self._source = source
        self._size = size
        self._tiles = Tiles(source, size)
        self._edges: list[list[bytes]] = [[]]
        self._full: list[int] = [0]  # per level, the number of full tiles seen
        self._findings: list[Finding] = []

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Yield every entry with its index, after it has been compared with its place in the tiles."""
        for start in range(0, self._size, TILE_WIDTH):
            width = min(TILE_WIDTH, self._size - start)
            entries = read_bundle(self._source, start // TILE_WIDTH, width)
            hashes = list(map(leaf_hash, entries))
            self._compare(0, start // TILE_WIDTH, hashes)
            if width == TILE_WIDTH:
                self._rise(perfect_root(hashes))
            else:
                self._edges[0] = hashes
            yield from enumerate(entries, start)

    def take_findings(self) -> list[Finding]:
        findings, self._findings = self._findings, []
        return findings

    def finish(self, checkpoint: Checkpoint) -> Iterator[Finding]:
        for level, hashes in enumerate(self._edges[1:], 1):
            if hashes:
                self._compare(level, self._full[level], hashes)
        yield from self.take_findings()
        if edge_root(self._edges) != checkpoint.root:
            yield Finding(
                FindingClass.TREE,
                "other_root",
                f"the {checkpoint.size} entries here do not lead to the root that the checkpoint signs",
            )

    def _rise(self, root: bytes) -> None:
        level = 1
        while True:
            if level == len(self._edges):
                self._edges.append([])
                self._full.append(0)
            hashes = self._edges[level]
            hashes.append(root)
            if len(hashes) < TILE_WIDTH:
                return
            self._compare(level, self._full[level], hashes)
            root = perfect_root(hashes)
            self._edges[level] = []
            self._full[level] += 1
            level += 1

    def _compare(self, level: int, index: int, hashes: list[bytes]) -> None:
        tile = self._tiles.tile(level, index)
        if tile == b"".join(hashes):
            return
        first = next(at for at in range(len(hashes)) if tile[at * HASH_BYTES :][:HASH_BYTES] != hashes[at])
        entry = (index * TILE_WIDTH + first) << (8 * level)
        what = "the entry does not hash to" if level == 0 else "the entries from here on do not lead to"
        self._findings.append(
            Finding(FindingClass.TREE, "other_hash", f"{what} its place in the level {level} tile", entry)
        )


class _People:
    """Knows the identity keys, and whether an entry is authentic."""

    def __init__(self, pinned: Mapping[str, bytes], policy: Policy) -> None:
        self._pinned = pinned
        self._keys: dict[str, bytes] = {}
        self._witnesses = {name: witness.key.vkey for name, witness in policy.witnesses.items()}
        self._verifier = EntryVerifier()

    def authenticate(self, index: int, data: bytes) -> tuple[Statement | None, list[Finding]]:
        """Return the statement of an entry if its issuer signed it, and what is wrong with it."""
        try:
            entry = Entry.parse(data)
        except ProtocolError as error:
            return None, [Finding(FindingClass.AUTHORSHIP, "no_statement", str(error), index)]
        statement = entry.statement
        key = self._keys.get(statement.issuer)
        findings: list[Finding] = []
        if isinstance(statement, Enrolment):
            # A first enrolment is signed by the key it names, a later one by the key it replaces.
            key = key or base64.b64decode(statement.identity_key)
            findings = list(self._check_enrolment(statement, index))
        if key is None:
            message = f"{statement.issuer} says {statement.kind} and has not enrolled"
            return None, [Finding(FindingClass.AUTHORSHIP, "not_enrolled", message, index)]
        try:
            self._verifier.verify(entry, key)
        except ProtocolError as error:
            return None, [Finding(FindingClass.AUTHORSHIP, "not_signed", str(error), index)]
        if isinstance(statement, Enrolment):
            self._keys[statement.issuer] = base64.b64decode(statement.identity_key)
        return statement, findings

    def _check_enrolment(self, statement: Enrolment, index: int) -> Iterator[Finding]:
        pinned = self._pinned.get(statement.issuer)
        if pinned is not None and pinned != base64.b64decode(statement.identity_key):
            message = f"{statement.issuer} enrols with another identity key than the one known from elsewhere"
            yield Finding(FindingClass.AUTHORSHIP, "other_key", message, index)
        witness = self._witnesses.get(statement.issuer)
        if witness is not None and statement.witness_key not in ("", witness):
            message = f"{statement.issuer} enrols with another witness key than the policy's"
            yield Finding(FindingClass.AUTHORSHIP, "other_witness", message, index)


def _continues(source: Source, policy: Policy, since: bytes, checkpoint: Checkpoint) -> Iterator[Finding]:
    """3. Yield a finding if the tree does not contain the one of the earlier checkpoint."""
    try:
        earlier, _, _ = policy.open(since)
    except ProtocolError as error:
        yield Finding(FindingClass.CHECKPOINT, "bad_since", f"the earlier checkpoint is not good: {error}")
        return
    if earlier.origin != checkpoint.origin:
        yield Finding(FindingClass.HISTORY, "other_log", "the earlier checkpoint is of another log")
    elif earlier.size > checkpoint.size:
        yield Finding(
            FindingClass.HISTORY,
            "rolled_back",
            f"the log had {earlier.size} entries before and has {checkpoint.size} now",
        )
    else:
        root = range_root(0, earlier.size, Tiles(source, checkpoint.size)) if earlier.size else EMPTY_ROOT
        if root != earlier.root:
            yield Finding(
                FindingClass.HISTORY,
                "rewritten",
                f"the first {earlier.size} entries are not those that the earlier checkpoint signed",
            )
