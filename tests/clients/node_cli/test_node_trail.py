"""What a node says about itself, and its own log of it."""

from __future__ import annotations

import json
import os

import pytest

from fedshare.audit.checkpoint import Checkpoint
from fedshare.audit.commitments import verify_commitment
from fedshare.audit.entries import Entry, EntryVerifier
from fedshare.audit.notes import parse_note
from fedshare.audit.statements import PrivacySpent, Scoring
from fedshare.audit.storage import FolderSource
from fedshare.audit.tiles import read_bundle
from fedshare.errors import ParameterError, StorageError, UnavailableError
from fedshare_clients.auditor.cli import main as audit
from fedshare_clients.node.state import NodeState
from fedshare_clients.node.trail import Trail

DIGEST = "ab" * 32


@pytest.fixture
def state(tmp_path):
    state = NodeState(tmp_path / "state")
    state.create("label_holder", os.urandom)
    return state


def trail(state, time=1000.0, hand_in=lambda entries: None):
    folder, signer = state.private_log_folder, state.private_log_signer("bank-a")
    return Trail("bank-a", state.identity(), folder, signer, hand_in, lambda: time)


def entries(state, count):
    return [Entry.parse(data) for data in read_bundle(FolderSource(state.private_log_folder), 0, count)]


def test_a_statement_is_signed_by_the_party_and_kept(state):
    with trail(state) as open_trail:
        open_trail.log(Scoring, contract_digest=DIGEST, count=3)
    (entry,) = entries(state, 1)
    assert entry.statement == Scoring(issuer="bank-a", issued_at=1000, contract_digest=DIGEST, count=3)
    EntryVerifier().verify(entry, state.identity().public_bytes())


def test_times_of_statements_grow_within_a_second_and_over_a_restart_with_a_clock_set_back(state):
    with trail(state) as open_trail:
        open_trail.log(Scoring, contract_digest=DIGEST, count=1)
        open_trail.log(Scoring, contract_digest=DIGEST, count=2)
    with trail(state, time=10.0) as open_trail:
        open_trail.log(Scoring, contract_digest=DIGEST, count=3)
    assert [entry.statement.issued_at for entry in entries(state, 3)] == [1000, 1001, 1002]


def test_a_statement_with_other_fields_is_refused_and_nothing_is_logged(state):
    with trail(state) as open_trail, pytest.raises(ParameterError, match="fields of PrivacySpent"):
        open_trail.log(PrivacySpent, run_id="1", contract_digest=DIGEST, epsilon=1.0, delta="0")
    with trail(state) as open_trail:
        open_trail.note("started", 1)
    assert entries(state, 1)[0].statement.kind == "private_event"


def test_the_private_log_has_one_writer(state):
    with trail(state), pytest.raises(StorageError, match="another process"):
        trail(state)


def test_the_auditors_command_shows_the_private_log(state, capsys):
    with trail(state) as open_trail:
        open_trail.note("failed", 2**64 - 1, phase="align", message="no data")
    assert audit(["show", str(state.private_log_folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["event"], shown["run_id"]) == ("failed", str(2**64 - 1))
    assert shown["facts"] == {"phase": "align", "message": "no data"}


def test_what_is_private_is_not_handed_in_and_the_rest_is_as_it_was_kept(state):
    handed = []
    with trail(state, hand_in=handed.append) as open_trail:
        open_trail.note("started", 1)
        open_trail.log(Scoring, contract_digest=DIGEST, count=3)
    (entry,) = handed
    assert [Entry.parse(data).statement.kind for data in entry] == ["scoring"]
    assert entries(state, 2)[1] == Entry.parse(entry[0])


def test_a_statement_that_cannot_be_handed_in_is_kept_and_the_caller_hears_of_it(state):
    def refuse(_):
        raise UnavailableError("no coordinator")

    with trail(state, hand_in=refuse) as open_trail, pytest.raises(UnavailableError):
        open_trail.log(Scoring, contract_digest=DIGEST, count=3)
    assert entries(state, 1)[0].statement.count == 3


def test_the_head_in_the_common_log_opens_to_the_private_log(state):
    handed = []
    with trail(state, hand_in=handed.extend) as open_trail:
        open_trail.note("started", 1)
        head = Checkpoint.parse(parse_note((state.private_log_folder / "checkpoint").read_bytes()).text)
        open_trail.commit_head(1, os.urandom)
    committed = entries(state, 3)[1].statement.facts
    said = Entry.parse(handed[0]).statement
    assert committed["commitment"] == said.commitment
    verify_commitment(said.commitment, head.text.encode(), bytes.fromhex(committed["nonce"]))
