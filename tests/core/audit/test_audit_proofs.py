import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedshare.audit.hashing import EMPTY_ROOT, leaf_hash, perfect_root, root_of_leaves
from fedshare.audit.proofs import (
    consistency_proof,
    inclusion_proof,
    verify_consistency,
    verify_inclusion,
)
from fedshare.errors import FedshareError, ParameterError, ProtocolError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/audit/rfc6962.json").read_text())
LEAVES = [leaf_hash(bytes.fromhex(leaf)) for leaf in VECTORS["leaves"]]
ROOTS = [bytes.fromhex(root) for root in VECTORS["roots"]]
MANY = [leaf_hash(i.to_bytes(2, "big")) for i in range(600)]
sizes = st.integers(0, 600)


def nodes_of(leaves):
    return lambda height, index: perfect_root(leaves[index << height : (index + 1) << height])


def slow_root(leaves):
    """RFC 6962 section 2.1 as it is written there."""
    from hashlib import sha256  # noqa: PLC0415

    if len(leaves) < 2:
        return leaves[0] if leaves else EMPTY_ROOT
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + slow_root(leaves[:k]) + slow_root(leaves[k:])).digest()


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_published_ones(size):
    assert root_of_leaves(LEAVES[:size]) == ROOTS[size]


@pytest.mark.parametrize("case", VECTORS["inclusion"])
def test_inclusion_proofs_are_the_published_ones(case):
    proof = [bytes.fromhex(element) for element in case["proof"]]
    assert inclusion_proof(case["index"], case["size"], nodes_of(LEAVES)) == proof
    verify_inclusion(LEAVES[case["index"]], case["index"], case["size"], proof, ROOTS[case["size"]])


@pytest.mark.parametrize("case", VECTORS["consistency"])
def test_consistency_proofs_are_the_published_ones(case):
    old, new = case["old_size"], case["size"]
    proof = [bytes.fromhex(element) for element in case["proof"]]
    assert consistency_proof(old, new, nodes_of(LEAVES)) == proof
    verify_consistency(old, ROOTS[old], new, ROOTS[new], proof)


@settings(deadline=None)
@given(sizes)
def test_the_root_is_the_recursive_definition(size):
    assert root_of_leaves(MANY[:size]) == slow_root(MANY[:size])


@settings(deadline=None)
@given(st.data(), st.integers(1, 600))
def test_a_proof_for_one_leaf_fails_for_any_other_leaf_or_place(data, size):
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, 600).filter(lambda i: i != index))
    root, proof = root_of_leaves(MANY[:size]), inclusion_proof(index, size, nodes_of(MANY))
    verify_inclusion(MANY[index], index, size, proof, root)
    with pytest.raises(ProtocolError):
        verify_inclusion(leaf_hash(b"other"), index, size, proof, root)
    with pytest.raises(ProtocolError):
        verify_inclusion(MANY[index], other, size, proof, root)


@settings(deadline=None)
@given(sizes, sizes)
def test_every_prefix_is_consistent_with_every_later_tree(one, two):
    old, new = sorted((one, two))
    proof = consistency_proof(old, new, nodes_of(MANY))
    verify_consistency(old, root_of_leaves(MANY[:old]), new, root_of_leaves(MANY[:new]), proof)


@settings(deadline=None)
@given(st.integers(1, 600), st.integers(1, 600), st.data())
def test_a_rewritten_prefix_is_never_consistent(one, two, data):
    old, new = sorted((one, two))
    at = data.draw(st.integers(0, old - 1))
    forged = [*MANY[:at], leaf_hash(b"forged"), *MANY[at + 1 :]]
    roots = root_of_leaves(MANY[:old]), root_of_leaves(forged[:new])
    for leaves in (MANY, forged):
        with pytest.raises(ProtocolError):
            verify_consistency(old, roots[0], new, roots[1], consistency_proof(old, new, nodes_of(leaves)))


def corrupt(proof):
    some = leaf_hash(b"some")
    yield proof[:-1]
    yield [*proof, some]
    yield [some, *proof]
    yield [*proof[:-1], proof[-1][:31]]
    for at, element in enumerate(proof):
        yield [*proof[:at], bytes([element[0] ^ 8]) + element[1:], *proof[at + 1 :]]


@pytest.mark.parametrize("case", VECTORS["inclusion"])
def test_corrupted_inclusion_proofs_are_refused(case):
    index, size = case["index"], case["size"]
    proof = [bytes.fromhex(element) for element in case["proof"]]
    for bad in corrupt(proof):
        with pytest.raises(ProtocolError):
            verify_inclusion(LEAVES[index], index, size, bad, ROOTS[size])


@pytest.mark.parametrize("case", [case for case in VECTORS["consistency"] if case["proof"]])
def test_corrupted_consistency_proofs_are_refused(case):
    old, new = case["old_size"], case["size"]
    proof = [bytes.fromhex(element) for element in case["proof"]]
    for bad in [*corrupt(proof), []]:
        with pytest.raises(ProtocolError):
            verify_consistency(old, ROOTS[old], new, ROOTS[new], bad)
    with pytest.raises(ProtocolError):
        verify_consistency(old, ROOTS[new], new, ROOTS[old], proof)


@pytest.mark.parametrize("number", [-1, 2**63, 2**64, 2**4000, True, 1.0])
def test_sizes_and_indices_out_of_range_are_refused_at_once(number):
    some = leaf_hash(b"")
    with pytest.raises(FedshareError):
        verify_inclusion(some, number, 2**63 - 1, [some] * 63, some)
    with pytest.raises(FedshareError):
        verify_inclusion(some, 0, number, [some] * 63, some)
    with pytest.raises(FedshareError):
        verify_consistency(number, some, 2**63 - 1, some, [some])
    with pytest.raises(FedshareError):
        verify_consistency(1, some, number, some, [some])


def test_the_largest_tree_takes_a_proof_of_63_hashes_and_no_longer_one():
    some = leaf_hash(b"")
    for count in (63, 64, 65, 100_000):
        with pytest.raises(ProtocolError):
            verify_inclusion(some, 0, 2**63 - 1, [some] * count, some)


def test_a_proof_for_a_leaf_that_is_not_in_the_tree_is_not_made():
    with pytest.raises(ParameterError):
        inclusion_proof(8, 8, nodes_of(LEAVES))
    with pytest.raises(ParameterError):
        consistency_proof(9, 8, nodes_of(LEAVES))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(-2, 2**65), st.integers(-2, 2**65), st.lists(st.binary(min_size=31, max_size=33), max_size=70)
)
def test_random_proofs_only_ever_raise_our_error(one, two, proof):
    some = leaf_hash(b"")
    with pytest.raises(ProtocolError):
        verify_inclusion(some, one, two, proof, leaf_hash(b"x"))
    with pytest.raises(ProtocolError):
        verify_consistency(one, some, two, leaf_hash(b"x"), proof)
