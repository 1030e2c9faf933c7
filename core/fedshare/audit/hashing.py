"""RFC 6962 section 2.1 hashing: leaves, nodes, and the root of perfect and ragged trees.

A leaf is hashed behind a zero byte and a node behind a one byte, so no leaf can pass for a node (the second
preimage that plain Merkle trees allow). Sizes and indices stay below 2^63, as C2SP tlog-tiles has it, and
every function here refuses others at once instead of looping over them.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, TypeAlias

from fedshare.errors import ParameterError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "EMPTY_ROOT",
    "HASH_BYTES",
    "MAX_TREE_SIZE",
    "Nodes",
    "edge_root",
    "expect_hash",
    "expect_size",
    "leaf_hash",
    "node_hash",
    "perfect_root",
    "range_root",
    "root_of_leaves",
]

HASH_BYTES = 32
# The largest size of which every size, index and shift stays inside a signed 64-bit integer.
MAX_TREE_SIZE = 2**63 - 1
# RFC 6962 section 2.1: MTH({}) = SHA-256().
EMPTY_ROOT = sha256(b"").digest()

# The hash of the perfect subtree of a height and an index: leaves [index * 2^height, (index + 1) * 2^height).
Nodes: TypeAlias = "Callable[[int, int], bytes]"


def leaf_hash(entry: bytes) -> bytes:
    """Return SHA-256(0x00 || ``entry``), 32 bytes."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 || ``left`` || ``right``), 32 bytes."""
    return sha256(b"\x01" + left + right).digest()


def expect_size(value: int, what: str) -> int:
    """Return ``value`` if it is a tree size or index, 0 to 2^63 - 1.

    Raises:
        ProtocolError: it is not an integer in that range.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_TREE_SIZE:
        raise ProtocolError(f"expected {what} between 0 and 2^63 - 1; refuse whatever claims another")
    return value


def expect_hash(value: bytes, what: str) -> bytes:
    """Return ``value`` if it is 32 bytes long.

    Raises:
        ProtocolError: it is not.
    """
    if len(value) != HASH_BYTES:
        raise ProtocolError(f"expected {what} of {HASH_BYTES} bytes, found {len(value)}")
    return value


def perfect_root(hashes: Sequence[bytes]) -> bytes:
    """Return the root over a power of two of ``hashes`` of equally high subtrees.

    Raises:
        ParameterError: their number is not a power of two.
    """
    if not hashes or len(hashes) & (len(hashes) - 1):
        raise ParameterError(f"expected a power of two of hashes, found {len(hashes)}")
    level = list(hashes)
    while len(level) > 1:
        pairs = iter(level)
        level = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
    return level[0]


def range_root(start: int, end: int, nodes: Nodes) -> bytes:
    """Return MTH(D[start:end]) from the perfect subtrees that ``nodes`` answers.

    Source: RFC 9162 section 2.1.1. The range must begin where a subtree of its tree does, as every range that
    a proof names does.

    Args:
        start: first leaf, a multiple of the largest power of two below ``end - start``.
        end: one past the last leaf, above ``start``.
        nodes: see `Nodes`.
    """
    parts: list[bytes] = []
    while start < end:
        height = (end - start).bit_length() - 1
        if start:
            height = min(height, (start & -start).bit_length() - 1)
        parts.append(nodes(height, start >> height))
        start += 1 << height
    root = parts.pop()
    while parts:
        root = node_hash(parts.pop(), root)
    return root


def edge_root(edges: Sequence[Sequence[bytes]]) -> bytes:
    """Return the root of a tree from its right edge: the hashes of the partial tile of every tile level.

    The perfect subtrees of a tree stand largest first and fold from the right (RFC 9162 section 2.1.1).

    Args:
        edges: per level, below 256 hashes of subtrees of height 8 times the level.
    """
    parts: list[bytes] = []
    for hashes in reversed(edges):
        start = 0
        while start < len(hashes):
            width = 1 << ((len(hashes) - start).bit_length() - 1)
            parts.append(perfect_root(hashes[start : start + width]))
            start += width
    root = parts.pop() if parts else EMPTY_ROOT
    while parts:
        root = node_hash(parts.pop(), root)
    return root


def root_of_leaves(hashes: Sequence[bytes]) -> bytes:
    """Return the Merkle tree hash over leaf ``hashes``, `EMPTY_ROOT` if there are none."""
    if not hashes:
        return EMPTY_ROOT

    def nodes(height: int, index: int) -> bytes:
        return perfect_root(hashes[index << height : (index + 1) << height])

    return range_root(0, len(hashes), nodes)
