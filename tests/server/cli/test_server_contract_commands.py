"""``contract``, ``train``, ``runs`` and ``logs`` as transcripts, with a scripted Flower for the real one."""

from __future__ import annotations

import os
import warnings
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from fedshare.audit.entries import EntrySigner
from fedshare.audit.notes import COSIGNATURE, NoteSigner
from fedshare.audit.statements import Approval
from fedshare.contract.model import parse_contract
from fedshare.identity.certificates import public_key_to_pem
from fedshare.identity.keys import IdentityKey
from fedshare.privacy.leaks import summarise
from fedshare_server.cli import main
from fedshare_server.commands_run import follow
from fedshare_server.phases import AWAITED
from fedshare_server.storage import InvitationRecord, PartyRecord, ProgressRecord, Store, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN = 2**63 + 5
DRAFT = {
    "name": "credit",
    "purpose": "Joint credit scoring of small enterprises",
    "parties": [
        {"id": "tax", "role": "feature_holder", "columns": [{"name": "revenue", "monotone": "decreasing"}]},
        {"id": "bank-a", "role": "label_holder"},
    ],
    "alignment": {"identifier": "uscc", "quota": 1000},
}


def said(party: str) -> bytes:
    """An entry for the audit log, which these commands do not write."""
    statement = Approval(issuer=party, issued_at=1, contract_digest="ab" * 32)
    return EntrySigner(IdentityKey.from_raw(bytes(32))).sign(statement)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    state = tmp_path / "state"
    monkeypatch.setenv("FEDSHARE_STATE", str(state))
    assert main(["init"]) == 0
    return state


@pytest.fixture
def store(state: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{state / 'fedshare.db'}")
    for number, (party, role) in enumerate([("tax", "feature_holder"), ("bank-a", "label_holder")]):
        now = datetime.now(UTC)
        store.add_invitation(InvitationRecord(str(number) * 64, party, role, False, now + timedelta(days=1)))
        flower = public_key_to_pem(ec.generate_private_key(ec.SECP384R1()).public_key()).decode()
        identity = IdentityKey.generate(os.urandom).public_bytes()
        witness = NoteSigner(party, IdentityKey.generate(os.urandom).signing_key, COSIGNATURE).key.vkey
        record = PartyRecord(party, role, identity, flower, witness, f"{number:064x}", now)
        store.enrol(str(number) * 64, record, said(party))
    yield store
    store.close()


@pytest.fixture
def digest(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    (tmp_path / "credit.yaml").write_text(yaml.safe_dump(DRAFT))
    assert main(["contract", "draft", str(tmp_path / "credit.yaml")]) == 0
    out = capsys.readouterr().out
    return next(line.split()[1] for line in out.splitlines() if line.startswith("Digest "))


@pytest.fixture
def run(store: Store, digest: str) -> int:
    store.open_run(RUN, digest)
    return RUN


def superlink(*answers: str) -> SimpleNamespace:
    words = iter(answers)
    return SimpleNamespace(run_status=lambda _run_id: next(words))


def call(*arguments: str) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Flower's own imports
        return main(list(arguments))


def test_a_draft_is_proposed_and_waits_for_its_parties(
    digest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("contract", "status") == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert [word for word in lines[1] if word] == ["credit", digest[:12], "proposed", "bank-a, tax"]


def test_show_prints_the_whole_contract_and_the_leak_ledger(
    store: Store, digest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("contract", "show", digest[:8]) == 0
    out = capsys.readouterr().out
    for words in (
        digest,
        "purpose: Joint credit",
        "name: revenue",
        "kind: numeric",
        "quota: 1000",
        "code_digest",
    ):
        assert words in out
    assert summarise(parse_contract(store.resolve_contract(digest).canonical)) in out


def test_a_wrong_draft_names_file_and_field(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "credit.yaml"
    file.write_text(yaml.safe_dump(DRAFT | {"minimum_cohort": 0}))
    assert call("contract", "draft", str(file)) == 2
    error = capsys.readouterr().err
    assert str(file) in error
    assert "minimum_cohort" in error
    assert store.contracts() == []


@pytest.mark.parametrize("text", ["a: [", "\x00"])
def test_a_draft_that_is_no_yaml_is_refused(
    store: Store, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "credit.yaml").write_text(text)
    assert call("contract", "draft", str(tmp_path / "credit.yaml")) == 2
    assert "expected YAML" in capsys.readouterr().err


def test_a_draft_that_says_a_thing_twice_is_refused(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "credit.yaml"
    file.write_text(yaml.safe_dump(DRAFT) + "name: other\n")
    assert call("contract", "draft", str(file)) == 2
    assert "the key name is there twice" in capsys.readouterr().err
    assert store.contracts() == []


def test_training_waits_for_every_party(
    store: Store, digest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store.add_decision(digest, "tax", True, b"signed", said("tax"))
    assert call("train", "credit") == 4
    error = capsys.readouterr().err
    assert "missing: bank-a [contract_proposed]" in error
    assert store.runs() == []


@pytest.mark.parametrize("command", ["train", "serve"])
def test_one_name_of_two_contracts_starts_no_run(
    store: Store, digest: str, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for party in ("tax", "bank-a"):
        store.add_decision(digest, party, True, b"signed", said(party))
    assert call("contract", "draft", str(tmp_path / "credit.yaml")) == 0
    assert call(command, "credit") == 2
    error = capsys.readouterr().err
    assert all(record.digest[:12] in error for record in store.contracts())
    assert store.runs() == []


def test_training_refuses_what_a_party_rejected(
    store: Store, digest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store.add_decision(digest, "tax", False, b"signed", said("tax"))
    assert call("train", digest) == 4
    assert "[contract_rejected]" in capsys.readouterr().err


def test_training_without_a_running_coordinator_says_so(
    store: Store, digest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for party in ("tax", "bank-a"):
        store.add_decision(digest, party, True, b"signed", said(party))
    assert call("train", "credit") == 6
    assert "`fedshare-server run`" in capsys.readouterr().err
    assert store.runs() == []


def test_following_prints_progress_once_and_ends_with_the_run(
    store: Store, run: int, capsys: pytest.CaptureFixture[str]
) -> None:
    store.set_phase(run, "train")
    store.add_progress(ProgressRecord(run, "bank-a", "train", 0, 1.25, 2048, 16, loss=0.5))

    def sleep(_seconds: float) -> None:
        store.add_progress(ProgressRecord(run, "tax", "train", 1, 2.0, 1, 2))
        store.finish(run, "completed")

    ended = follow(store, superlink("running"), run, sleep)
    assert ended.status == "completed"
    assert capsys.readouterr().out.splitlines() == [
        "phase train",
        "bank-a  train 0  loss 0.500000  1.2 s  sent 2,048 B  received 16 B",
        "tax  train 1  2.0 s  sent 1 B  received 2 B",
    ]


def test_following_says_once_whose_nodes_are_awaited(
    store: Store, run: int, capsys: pytest.CaptureFixture[str]
) -> None:
    store.add_event(AWAITED, "waits 60 s for the nodes of tax", run)
    waits = iter([lambda: None, lambda: store.finish(run, "completed")])
    follow(store, superlink("running", "running"), run, lambda _seconds: next(waits)())
    assert capsys.readouterr().out.splitlines() == ["the coordinator waits 60 s for the nodes of tax"]


def test_a_serverapp_that_died_silently_ends_the_run(store: Store, run: int) -> None:
    ended = follow(store, superlink("running", "finished:failed: killed"), run, lambda _seconds: None)
    assert ended.status == "failed"
    assert "finished:failed: killed" in ended.reason


def test_runs_and_logs_say_what_happened(store: Store, run: int, capsys: pytest.CaptureFixture[str]) -> None:
    store.set_phase(run, "align")
    store.abort(run, "party tax was lost", party="tax", code="lost")
    assert call("runs") == 0
    assert call("logs", str(run)) == 0
    out = capsys.readouterr().out
    assert f"{run}  credit" in out
    assert "aborted" in out
    assert "tax  lost: party tax was lost" in out


def test_the_logs_of_an_unknown_run_are_refused(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("logs", "7") == 2
    assert "there is no run 7" in capsys.readouterr().err


def test_a_contract_without_scoring_is_not_served(
    store: Store, digest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for party in ("tax", "bank-a"):
        store.add_decision(digest, party, True, b"signed", said(party))
    assert call("serve", "credit") == 4
    assert "[scoring_not_agreed]" in capsys.readouterr().err


def with_scoring(store: Store, tmp_path: Path) -> str:
    """Return the digest of a contract with a section ``scoring`` that every party has approved."""
    (tmp_path / "credit.yaml").write_text(yaml.safe_dump({**DRAFT, "scoring": {"quota": 10}}))
    assert call("contract", "draft", str(tmp_path / "credit.yaml")) == 0
    (contract,) = store.contracts()
    for party in ("tax", "bank-a"):
        store.add_decision(contract.digest, party, True, b"signed", said(party))
    return contract.digest


def test_serving_needs_a_completed_training_run_and_a_serving_run_is_none(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = with_scoring(store, tmp_path)
    store.open_run(5, digest)
    store.finish(5, "failed", "why")
    store.open_run(6, digest, model_run=4)
    store.finish(6, "completed")
    assert call("serve", "credit") == 2
    assert "no completed training run" in capsys.readouterr().err


def test_a_serving_run_is_ended_in_good_order_and_a_training_run_is_not(
    store: Store, digest: str, run: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedshare_server.commands_run._POLL_SECONDS", 0.0)
    assert call("end", str(run)) == 2
    assert "not a serving run" in capsys.readouterr().err
    serving = run + 1
    store.open_run(serving, digest, model_run=run)
    assert call("end", str(serving)) == 0
    record = store.find_run(serving)
    assert record is not None
    assert record.status == "completed"
    assert store.run_completed(serving)
    assert call("end", str(serving)) == 2


def test_who_ends_a_serving_run_that_has_ended_ends_what_would_take_its_place(
    store: Store, digest: str, run: int, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = run + 1, run + 2
    for serving in (first, second):
        store.open_run(serving, digest, model_run=run)
        store.keep_serving(serving)
        store.abort(serving, "party tax was lost")
    assert call("end", str(first)) == 2
    assert store.served_models() == {digest: run}
    capsys.readouterr()
    assert call("end", str(second)) == 0
    assert "no other takes its place" in capsys.readouterr().out
    assert store.served_models() == {}
    assert call("end", str(second)) == 2


def test_a_model_that_is_served_already_is_not_served_twice(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = with_scoring(store, tmp_path)
    store.open_run(5, digest)
    store.finish(5, "completed")
    store.open_run(6, digest, model_run=5)
    store.add_event("held", "every party serves", 6)
    assert call("serve", "credit") == 0
    assert "Run 6 of contract credit serves the model of run 5." in capsys.readouterr().out
    assert len(store.serving_runs(digest)) == 1
