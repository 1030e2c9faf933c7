import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fedshare.audit.checkpoint import Checkpoint
from fedshare.audit.hashing import leaf_hash, perfect_root, root_of_leaves
from fedshare.audit.notes import COSIGNATURE, NoteSigner, open_note
from fedshare.audit.proofs import consistency_proof
from fedshare.audit.witnessing import Submission, add_checkpoint

LEAVES = [leaf_hash(b"%d" % i) for i in range(40)]
FORGED = [*LEAVES[:3], leaf_hash(b"forged"), *LEAVES[4:]]


def key_of(seed):
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


LOG, WITNESS = NoteSigner("example.org/log", key_of(1)), NoteSigner("witness.example", key_of(2), COSIGNATURE)


def head(size, leaves=LEAVES):
    return Checkpoint("example.org/log", size, root_of_leaves(leaves[:size]))


def request(old, checkpoint, leaves=LEAVES, signer=LOG, proof=None):
    if proof is None:
        proof = consistency_proof(
            min(old, checkpoint.size),
            checkpoint.size,
            lambda height, index: perfect_root(leaves[index << height : (index + 1) << height]),
        )
    note = f"{checkpoint.text}\n{signer.sign(checkpoint.text)}".encode()
    return Submission(old, tuple(proof), note).to_bytes()


def ask(body, stored=None):
    return add_checkpoint(body, [LOG.key], stored, WITNESS, 1_700_000_000)


def test_the_request_is_as_the_specification_writes_it():
    lines = request(3, head(5)).decode().split("\n")
    assert lines[0] == "old 3"
    assert lines.index("") == 1 + len(Submission.parse(request(3, head(5))).proof)
    assert Submission.parse(request(3, head(5))).to_bytes() == request(3, head(5))


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40))
def test_a_tree_that_contains_the_stored_one_is_cosigned(one, two):
    old, new = sorted((one, two))
    answer = ask(request(old, head(new)), head(old) if old else None)
    assert (answer.status, answer.seen) == (200, head(new))
    text = head(new).text
    note = open_note(f"{text}\n{answer.body.decode()}".encode(), [WITNESS.key])
    assert note.verified == ((WITNESS.key, 1_700_000_000),)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0\n",
        b"old 00\n\n",
        b"old -1\n\n",
        b"old 0\nAAAA\n\n",
        b"size 0\n\n",
        b"\xff\n\n",
        b"old 9223372036854775808\n\n",
    ],
)
def test_a_malformed_request_is_400(body):
    answer = ask(body + request(0, head(4)).partition(b"\n\n")[2])
    assert (answer.status, answer.seen) == (400, None)


def test_a_malformed_checkpoint_is_400():
    assert ask(request(0, head(4)).replace(b"\n4\n", b"\n04\n")).status == 400


def test_more_than_63_proof_lines_are_400():
    assert ask(request(1, head(4), proof=[LEAVES[0]] * 64), head(1)).status == 400


def test_an_unknown_origin_is_404():
    other = NoteSigner("example.org/other", key_of(1))
    checkpoint = Checkpoint("example.org/other", 0, root_of_leaves([]))
    assert ask(request(0, checkpoint, signer=other)).status == 404


def test_a_checkpoint_that_the_log_did_not_sign_is_403():
    assert ask(request(0, head(4), signer=NoteSigner("example.org/log", key_of(9)))).status == 403
    assert ask(request(0, head(4)).replace(b"\n4\n", b"\n5\n")).status == 403


def test_an_old_size_above_the_checkpoint_is_400():
    assert ask(request(5, head(4)), head(5)).status == 400


@pytest.mark.parametrize("old", [0, 3, 7])
def test_an_old_size_that_is_not_the_stored_one_is_409_with_the_stored_size(old):
    answer = ask(request(old, head(9)), head(5))
    assert (answer.status, answer.body, answer.content_type) == (409, b"5\n", "text/x.tlog.size")
    assert answer.seen is None


def test_another_root_of_the_same_size_is_409():
    answer = ask(request(5, head(5, FORGED), FORGED), head(5))
    assert (answer.status, answer.body) == (409, b"5\n")


def test_a_rewritten_tree_is_422():
    answer = ask(request(5, head(9, FORGED), FORGED), head(5))
    assert (answer.status, answer.seen) == (422, None)


def test_a_proof_where_none_belongs_is_422():
    assert ask(request(0, head(9), proof=[LEAVES[0]])).status == 422
    assert ask(request(9, head(9), proof=[LEAVES[0]]), head(9)).status == 422


def test_a_rollback_is_never_cosigned():
    for old in range(10):
        assert ask(request(old, head(5)), head(9)).status in (400, 409)


def test_the_same_checkpoint_is_cosigned_again():
    assert ask(request(9, head(9)), head(9)).status == 200


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text("old 0123\n— AB=+/").map(str.encode))
def test_hostile_requests_are_400_or_404(body):
    assert ask(body).status in (400, 404)
