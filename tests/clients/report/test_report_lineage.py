"""What a report takes from the institution's own log, and that its receipts can be checked by others."""

from __future__ import annotations

import os

import pytest

from fedshare.audit.notes import NoteKey
from fedshare.audit.policy import Policy
from fedshare.audit.receipts import Receipt
from fedshare.audit.statements import ModelManifest, Scoring
from fedshare_clients.node.report.lineage import own_statements
from fedshare_clients.node.state import NodeState
from fedshare_clients.node.trail import Trail

DIGEST = "ab" * 32


@pytest.fixture
def state(tmp_path):
    state = NodeState(tmp_path / "state")
    state.create("label_holder", os.urandom)
    return state


def logged(state):
    signer = state.private_log_signer("bank-a")
    with Trail(
        "bank-a", state.identity(), state.private_log_folder, signer, lambda entries: None, lambda: 1000.0
    ) as trail:
        for run_id in ("7", "8", "7"):
            trail.log(
                ModelManifest,
                contract_digest=DIGEST,
                run_id=run_id,
                version=1,
                components={"bank-a": DIGEST},
                metrics={},
            )
        trail.log(Scoring, contract_digest=DIGEST, count=3)
        trail.note("completed", 7, contract=DIGEST)
    return own_statements(state.private_log_folder, 7)


def test_the_statements_of_one_run_are_counted_by_kind(state):
    found = logged(state)
    assert found["statements"] == {"model_manifest": 2, "private_event": 1}
    assert (found["log"], found["size"]) == ("bank-a/private-log", 5)


def test_every_receipt_proves_its_statement_and_private_events_have_none(state):
    found = logged(state)
    assert len(found["receipts"]) == 2
    policy = Policy.parse(
        f"log {NoteKey.parse(state.private_log_signer('bank-a').key.vkey).vkey}\nquorum none\n".encode()
    )
    for text in found["receipts"]:
        receipt = Receipt.parse(text.encode())
        assert receipt.verify(receipt.extra, policy).root.hex() == found["root"]


def test_without_a_log_there_is_nothing_to_show(tmp_path):
    assert own_statements(tmp_path / "none", 7) is None
