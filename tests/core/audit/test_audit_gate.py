import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedshare.audit.checkpoint import Checkpoint
from fedshare.audit.entries import EntrySigner
from fedshare.audit.gate import prove_opening, verify_opening
from fedshare.audit.hashing import leaf_hash
from fedshare.audit.log import AuditLog
from fedshare.audit.notes import COSIGNATURE, NoteSigner
from fedshare.audit.policy import Policy
from fedshare.audit.publication import Publisher
from fedshare.audit.statements import PhaseClosed, PhaseOpened
from fedshare.audit.storage import FolderSource
from fedshare.audit.witnessing import add_checkpoint
from fedshare.errors import FedshareError, ParameterError, ProtocolError
from fedshare.identity.keys import IdentityKey

COORDINATOR, OTHER = (IdentityKey.generate(lambda n, b=b: bytes([b]) * n) for b in (1, 2))
LOG = NoteSigner("example.org/log", Ed25519PrivateKey.from_private_bytes(bytes([3]) * 32))
WITNESS = NoteSigner("w", Ed25519PrivateKey.from_private_bytes(bytes([4]) * 32), COSIGNATURE)
POLICY = Policy.parse(f"log {LOG.key.vkey}\nwitness w {WITNESS.key.vkey}\nquorum w\n".encode())
KEY = COORDINATOR.public_bytes()


def entry(kind=PhaseOpened, phase="train", key=COORDINATOR, issuer="coordinator"):
    fields = {"issuer": issuer, "issued_at": 1, "run_id": "7", "contract_digest": "a" * 64}
    return EntrySigner(key).sign(kind(**fields, phase=phase))


class Coordinator:
    def __init__(self, folder):
        self.folder, self.stored = folder, None

    def ask(self, body):
        answer = add_checkpoint(body, [LOG.key], self.stored, WITNESS, 1)
        self.stored = answer.seen or self.stored
        return answer.status, answer.body

    def log(self, *entries, witnessed=True):
        with AuditLog.open(self.folder, LOG, POLICY) as log:
            places = log.append(entries)
            if witnessed:
                assert Publisher({"w": self.ask}).publish(log).is_public
            return places.start

    def show(self, index, seen=None):
        return prove_opening(FolderSource(self.folder), index, seen.size if seen else 0)


@pytest.fixture
def coordinator(tmp_path):
    return Coordinator(tmp_path / "log")


def test_a_witnessed_opening_is_accepted_and_remembered(coordinator):
    seen = None
    for phase in ("align", "train"):
        index = coordinator.log(entry(phase=phase), b"else")
        seen, statement = verify_opening(coordinator.show(index, seen), POLICY, KEY, seen)
        assert (statement.phase, seen.size) == (phase, index + 2)


def test_an_opening_that_no_witness_has_seen_is_not_even_shown(coordinator):
    coordinator.log(b"x")
    index = coordinator.log(entry(), witnessed=False)
    with pytest.raises(ParameterError):
        coordinator.show(index)


def test_an_opening_without_the_quorum_is_refused(coordinator):
    coordinator.log(b"x")
    index = coordinator.log(entry(), witnessed=False)
    (coordinator.folder / "checkpoint.pending").rename(coordinator.folder / "checkpoint")
    with pytest.raises(ProtocolError, match="quorum"):
        verify_opening(coordinator.show(index), POLICY, KEY, None)


def test_a_log_that_does_not_continue_what_the_node_saw_is_refused(coordinator):
    index = coordinator.log(entry())
    opening = coordinator.show(index)
    seen, _ = verify_opening(opening, POLICY, KEY, None)
    forked = Checkpoint(seen.origin, seen.size, leaf_hash(b"other"))
    with pytest.raises(ProtocolError, match="rewritten"):
        verify_opening(opening, POLICY, KEY, forked)
    with pytest.raises(ProtocolError, match="shrank"):
        verify_opening(opening, POLICY, KEY, dataclasses.replace(seen, size=9))
    with pytest.raises(ProtocolError, match="another log"):
        verify_opening(opening, POLICY, KEY, dataclasses.replace(seen, origin="example.org/else"))


def test_an_opening_by_another_key_or_name_or_of_another_kind_is_refused(coordinator):
    for bad in (
        entry(key=OTHER),
        entry(issuer="tax"),
        entry(kind=PhaseClosed),
        b"else",
    ):
        index = coordinator.log(bad)
        with pytest.raises(ProtocolError):
            verify_opening(coordinator.show(index), POLICY, KEY, None)


def test_a_changed_opening_is_refused(coordinator):
    index = coordinator.log(entry(phase="align"), entry())
    opening = coordinator.show(index)
    for at in range(0, len(opening.receipt), 7):
        changed = bytearray(opening.receipt)
        changed[at] ^= 1
        try:
            _, statement = verify_opening(
                dataclasses.replace(opening, receipt=bytes(changed)), POLICY, KEY, None
            )
        except FedshareError as error:
            assert isinstance(error, ProtocolError)  # noqa: PT017
        else:
            pytest.fail(f"byte {at} does not matter: {statement}")
