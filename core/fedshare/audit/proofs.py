"""Inclusion and consistency proofs: making them from subtree hashes, and checking them against roots.

Source: RFC 9162 sections 2.1.3 and 2.1.4 (the same proofs as RFC 6962 sections 2.1.1 and 2.1.2). Checking
takes numbers and hashes from strangers: every size, index and hash is bounded first, and the work is at most
one hash or two per proof element, of which there are at most 64.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from fedshare.audit.hashing import EMPTY_ROOT, HASH_BYTES, expect_hash, expect_size, node_hash, range_root
from fedshare.errors import ParameterError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedshare.audit.hashing import Nodes

__all__ = [
    "MAX_PROOF_HASHES",
    "consistency_proof",
    "inclusion_proof",
    "root_from_inclusion",
    "verify_consistency",
    "verify_inclusion",
]

# A tree below 2^63 leaves is at most 63 high, and a consistency proof may add one subtree to the path.
MAX_PROOF_HASHES = 64


def inclusion_proof(index: int, size: int, nodes: Nodes) -> list[bytes]:
    """Return PATH(index, D_size), from the leaf's sibling up to the root's child (RFC 9162 section 2.1.3.1).

    Args:
        index: of the leaf, 0 to ``size`` - 1.
        size: of the tree, 1 to 2^63 - 1.
        nodes: answers the perfect subtrees of the tree.

    Raises:
        ParameterError: ``index`` is not in the tree.
    """
    if not 0 <= index < expect_size(size, "a tree size"):
        raise ParameterError(f"expected an index below the tree size {size}, found {index}")
    proof: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        split = start + _largest_power_below(end - start)
        if index < split:
            proof.append(range_root(split, end, nodes))
            end = split
        else:
            proof.append(range_root(start, split, nodes))
            start = split
    return proof[::-1]


def consistency_proof(old_size: int, size: int, nodes: Nodes) -> list[bytes]:
    """Return PROOF(old_size, D_size) (RFC 9162 section 2.1.4.1); empty for an old size of 0 or ``size``.

    Raises:
        ParameterError: ``old_size`` is above ``size``.
    """
    if not 0 <= old_size <= expect_size(size, "a tree size"):
        raise ParameterError(f"expected an old size of at most {size}, found {old_size}")
    if old_size in (0, size):
        return []
    proof: list[bytes] = []
    start, end = 0, size
    while old_size < end:
        split = start + _largest_power_below(end - start)
        if old_size <= split:
            proof.append(range_root(split, end, nodes))
            end = split
        else:
            proof.append(range_root(start, split, nodes))
            start = split
    if start:  # the old tree is not one whole subtree of the new one: its last subtree has to be told
        proof.append(range_root(start, end, nodes))
    return proof[::-1]


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """Return the root that ``proof`` leads to from ``leaf`` (RFC 9162 section 2.1.3.2).

    Raises:
        ProtocolError: a number is out of range, or the proof has not the length that index and size ask for.
    """
    expect_size(size, "a tree size")
    if expect_size(index, "a leaf index") >= size:
        raise ProtocolError(f"expected a leaf index below the tree size {size}, found {index}")
    _expect_hashes(proof)
    node, last, root = index, size - 1, expect_hash(leaf, "a leaf hash")
    for sibling in proof:
        if last == 0:
            raise ProtocolError("the inclusion proof is longer than the tree is high: refuse it")
        if node & 1 or node == last:
            root = sha256(b"\x01" + sibling + root).digest()
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            root = sha256(b"\x01" + root + sibling).digest()
        node, last = node >> 1, last >> 1
    if last:
        raise ProtocolError("the inclusion proof is shorter than the tree is high: refuse it")
    return root


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf of hash ``leaf`` is at ``index`` of the tree of ``size`` and ``root``.

    Raises:
        ProtocolError: it is not, or the proof is malformed.
    """
    if root_from_inclusion(leaf, index, size, proof) != expect_hash(root, "a root hash"):
        raise ProtocolError(
            f"entry {index} is not in the tree of size {size}: the proof leads to another root"
        )


def verify_consistency(
    old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of ``old_size`` is a prefix of the tree of ``size`` (RFC 9162 section 2.1.4.2).

    Raises:
        ProtocolError: it is not, or a number or the proof is malformed.
    """
    if expect_size(old_size, "an old tree size") > expect_size(size, "a tree size"):
        raise ProtocolError(f"expected a tree of at least {old_size} entries, found {size}: the log shrank")
    expect_hash(old_root, "an old root hash")
    expect_hash(root, "a root hash")
    _expect_hashes(proof)
    if old_size in (0, size):
        if proof:
            raise ProtocolError(
                "expected an empty consistency proof for an old size of zero or the same size"
            )
        if old_root != (EMPTY_ROOT if old_size == 0 else root):
            raise ProtocolError(f"two different trees of size {old_size}: the log was rewritten")
        return
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise ProtocolError("the consistency proof is shorter than the tree is high: refuse it")
    computed_old, computed = _fold_consistency(old_size, size, path)
    if computed_old != old_root or computed != root:
        raise ProtocolError(
            f"the tree of size {size} does not contain the tree of size {old_size}: the log was rewritten"
        )


def _fold_consistency(old_size: int, size: int, path: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Return the old and the new root that ``path`` leads to."""
    node, last = old_size - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old_root = root = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProtocolError("the consistency proof is longer than the tree is high: refuse it")
        if node & 1 or node == last:
            old_root, root = node_hash(sibling, old_root), node_hash(sibling, root)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise ProtocolError("the consistency proof is shorter than the tree is high: refuse it")
    return old_root, root


def _expect_hashes(proof: Sequence[bytes]) -> None:
    if len(proof) > MAX_PROOF_HASHES:
        raise ProtocolError(f"expected a proof of at most {MAX_PROOF_HASHES} hashes, found {len(proof)}")
    if any(len(element) != HASH_BYTES for element in proof):
        raise ProtocolError(f"expected proof elements of {HASH_BYTES} bytes")


def _largest_power_below(count: int) -> int:
    """Return the largest power of two strictly below ``count``, which is at least 2."""
    return 1 << ((count - 1).bit_length() - 1)
