"""The store on both databases: what is signed stays, what is used once is used once."""

from __future__ import annotations

import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from fedshare.audit.entries import Entry, EntrySigner
from fedshare.audit.statements import (
    Approval,
    Envelopes,
    Revocation,
    RunClosed,
    RunOpened,
    Scoring,
    parse_statement,
)
from fedshare.errors import ConfigError, FedshareError, RefusedError, StorageError, UnavailableError
from fedshare.identity.keys import IdentityKey
from fedshare_server.storage import InvitationRecord, PartyRecord, ProgressRecord, Store, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.orm import Session

    from fedshare.audit.statements import Statement

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
DIGEST = "ab" * 32
CONTRACT = b'{"code_digest":"%s"}' % (b"cc" * 32)
OTHER = b'{"code_digest":"%s"}' % (b"dd" * 32)
RUN = 2**64 - 7


class Clock:
    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'fedshare.db'}"
    base = request.getfixturevalue("postgres_url")
    name = f"t{abs(hash(request.node.nodeid))}"
    engine = create_engine(base.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{base.rpartition('/')[0]}/{name}"


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[Store]:
    store = open_store(url, clock)
    yield store
    store.close()


def invitation(party: str = "tax", **changes: object) -> InvitationRecord:
    record = InvitationRecord("11" * 32, party, "feature_holder", False, NOW + timedelta(days=7))
    return replace(record, **changes)


def tax(**changes: object) -> PartyRecord:
    record = PartyRecord("tax", "feature_holder", b"i" * 32, "flower key", "witness key", "22" * 32, NOW)
    return replace(record, **changes)


def said(kind: type[Statement] = Approval, issuer: str = "tax", **fields: object) -> bytes:
    """An entry of a party; the store does not look at its signature."""
    about = {"issuer": issuer, "issued_at": 1, "contract_digest": DIGEST, **fields}
    return EntrySigner(IdentityKey.from_raw(bytes(32))).sign(kind.model_validate(about))


def with_contract(store: Store) -> Store:
    store.add_contract(DIGEST, "credit", CONTRACT, ["tax", "bank-a"])
    return store


def with_run(store: Store) -> Store:
    with_contract(store).open_run(RUN, DIGEST)
    return store


def test_an_enrolled_party_is_found_as_it_came(store: Store) -> None:
    store.add_invitation(invitation())
    store.enrol("11" * 32, tax(), said())
    assert store.find_party("tax") == tax()
    assert store.parties() == [tax()]


def test_an_invitation_is_used_once(store: Store) -> None:
    store.add_invitation(invitation())
    store.enrol("11" * 32, tax(), said())
    with pytest.raises(RefusedError, match="used_invitation"):
        store.enrol("11" * 32, tax(identity_key=b"j" * 32), said())
    assert store.parties() == [tax()]


def test_an_invitation_is_used_once_even_by_many_at_a_time(store: Store) -> None:
    store.add_invitation(invitation())

    def attempt(number: int) -> str:
        try:
            store.enrol("11" * 32, tax(identity_key=bytes([number]) * 32), said())
        except FedshareError as error:
            return getattr(error, "code", "other")
        return "enrolled"

    with ThreadPoolExecutor(8) as pool:
        outcomes = sorted(pool.map(attempt, range(8)))
    assert outcomes == ["enrolled"] + ["used_invitation"] * 7


def test_an_expired_invitation_is_refused(store: Store, clock: Clock) -> None:
    store.add_invitation(invitation())
    clock.time += timedelta(days=7)
    with pytest.raises(RefusedError, match="expired_invitation"):
        store.open_invitation("11" * 32)


def test_an_unknown_invitation_is_refused(store: Store) -> None:
    with pytest.raises(RefusedError, match="unknown_invitation"):
        store.open_invitation("33" * 32)


def test_an_invitation_for_another_party_is_refused(store: Store) -> None:
    store.add_invitation(invitation("registry"))
    with pytest.raises(RefusedError, match="the invitation is for registry"):
        store.enrol("11" * 32, tax(), said())
    assert store.parties() == []


def test_a_new_invitation_ends_the_earlier_one(store: Store, clock: Clock) -> None:
    store.add_invitation(invitation())
    clock.time += timedelta(hours=1)
    store.add_invitation(invitation(key_digest="44" * 32))
    with pytest.raises(RefusedError, match="expired_invitation"):
        store.open_invitation("11" * 32)
    assert store.open_invitation("44" * 32).party == "tax"


def test_an_enrolled_party_is_invited_again_only_to_replace_its_keys(store: Store) -> None:
    store.add_invitation(invitation())
    store.enrol("11" * 32, tax(), said())
    with pytest.raises(RefusedError, match="already_enrolled"):
        store.add_invitation(invitation(key_digest="44" * 32))
    store.add_invitation(invitation(key_digest="44" * 32, replaces=True))
    store.enrol("44" * 32, tax(certificate_digest="55" * 32), said())
    assert store.parties() == [tax(certificate_digest="55" * 32)]


@pytest.mark.parametrize("field", ["identity_key", "flower_key", "witness_key", "certificate_digest"])
def test_two_parties_never_share_a_key(store: Store, field: str) -> None:
    store.add_invitation(invitation())
    store.enrol("11" * 32, tax(), said())
    store.add_invitation(invitation("registry", key_digest="44" * 32))
    other = tax(
        party="registry",
        identity_key=b"o" * 32,
        flower_key="other",
        witness_key="other",
        certificate_digest="66" * 32,
    )
    with pytest.raises(RefusedError, match="key_in_use"):
        store.enrol("44" * 32, replace(other, **{field: getattr(tax(), field)}), said())


def test_a_contract_is_stored_once_and_listed_for_its_parties(store: Store) -> None:
    with_contract(store)
    with_contract(store)
    assert [record.canonical for record in store.contracts("tax")] == [CONTRACT]
    assert store.contracts("registry") == []
    assert store.contract_parties(DIGEST) == ("bank-a", "tax")


def test_a_contract_is_found_by_name_and_by_a_prefix_of_its_digest(store: Store) -> None:
    with_contract(store)
    assert store.resolve_contract("credit").canonical == CONTRACT
    assert store.resolve_contract(DIGEST[:8]).canonical == CONTRACT
    store.add_contract("cd" * 32, "housing", OTHER, ["tax"])
    assert store.resolve_contract("credit").canonical == CONTRACT
    with pytest.raises(ConfigError, match="no contract"):
        store.resolve_contract("abab")


@pytest.mark.parametrize("word", ["credit", "abababab"])
def test_a_word_for_several_contracts_is_refused_with_their_digests(store: Store, word: str) -> None:
    with_contract(store)
    other = "ab" * 5 + "cd" * 27
    store.add_contract(other, "credit", OTHER, ["tax"])
    with pytest.raises(ConfigError, match=f"2 contracts are called {word}.*{other[:12]}, {DIGEST[:12]}"):
        store.resolve_contract(word)
    assert store.resolve_contract(other).canonical == OTHER


def test_a_decision_is_final(store: Store) -> None:
    with_contract(store).add_decision(DIGEST, "tax", False, b"no", said())
    store.add_decision(DIGEST, "tax", False, b"no", said())
    with pytest.raises(RefusedError, match="already_decided"):
        store.add_decision(DIGEST, "tax", True, b"yes", said())
    assert [decision.approved for decision in store.decisions(DIGEST)] == [False]


def test_a_stranger_cannot_decide(store: Store) -> None:
    with pytest.raises(RefusedError, match="unknown_contract"):
        with_contract(store).add_decision(DIGEST, "registry", True, b"yes", said())


@pytest.mark.parametrize("statement", ["UPDATE decisions SET approved = TRUE", "DELETE FROM decisions"])
def test_the_database_itself_refuses_to_change_a_decision(store: Store, statement: str) -> None:
    with_contract(store).add_decision(DIGEST, "tax", False, b"no", said())
    with pytest.raises(StorageError, match="append-only"), store.transaction() as session:
        session.execute(text(statement))
    assert [decision.approved for decision in store.decisions(DIGEST)] == [False]


def test_a_run_passes_through_its_phases_and_completes(store: Store) -> None:
    with_run(store).set_phase(RUN, "train")
    store.finish(RUN, "completed")
    (run,) = store.runs()
    assert (run.run_id, run.phase, run.status, run.finished_at) == (RUN, "train", "completed", NOW)
    assert store.run_aborted(RUN) is None
    assert [event.kind for event in store.events(RUN)] == ["run_opened", "phase", "run_completed"]


def test_the_first_reason_of_an_abort_stays_and_later_ones_are_logged(store: Store) -> None:
    with_run(store).abort(RUN, "tax has gone", party="tax")
    store.abort(RUN, "bank-a has gone", party="bank-a")
    store.finish(RUN, "completed")
    assert store.run_aborted(RUN) == "tax has gone"
    assert [(e.party, e.text) for e in store.events(RUN)][1:] == [
        ("tax", "tax has gone"),
        ("bank-a", "bank-a has gone"),
    ]


def test_whom_a_run_goes_on_without_is_stored_and_the_run_goes_on(store: Store) -> None:
    with_run(store)
    assert store.lost_parties(RUN) == frozenset()
    store.lose(RUN, "bank")
    assert store.lost_parties(RUN) == {"bank"}
    assert store.run_aborted(RUN) is None


def test_a_run_belongs_to_one_contract(store: Store) -> None:
    with_run(store).open_run(RUN, DIGEST)
    store.add_contract("cd" * 32, "other", OTHER, ["tax"])
    with pytest.raises(ConfigError, match="not of cdcd"):
        store.open_run(RUN, "cd" * 32)


def test_the_parties_of_a_run_are_those_of_its_contract(store: Store) -> None:
    with_run(store)
    assert store.parties_of_run(RUN) == ("bank-a", "tax")
    assert store.parties_of_run(1) == ()


def test_progress_is_read_from_where_the_reader_stopped(store: Store) -> None:
    with_run(store)
    first = ProgressRecord(RUN, "tax", "train", 0, 1.5, 2**40, 7)
    second = replace(first, iteration=1, loss=0.25)
    store.add_progress(first)
    store.add_progress(second)
    seen = store.progress(RUN)
    assert [replace(record, number=0) for record in seen] == [first, second]
    assert store.progress(RUN, after=seen[0].number) == [seen[1]]


def test_what_was_stored_is_there_after_a_restart(store: Store, url: str) -> None:
    with_run(store)
    store.close()
    again = open_store(url)
    assert again.parties_of_run(RUN) == ("bank-a", "tax")
    again.close()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(run_id=st.integers(0, 2**64 - 1))
def test_every_run_id_of_flower_comes_back_as_it_went(store: Store, run_id: int) -> None:
    with_contract(store).open_run(run_id, DIGEST)
    found = store.find_run(run_id)
    assert found is not None
    assert found.run_id == run_id


def logged(store: Store) -> list[Statement]:
    """What waits for the log, in its order."""
    return [
        Entry.parse(record.data).statement if record.is_signed else parse_statement(record.data)
        for record in store.pending_entries(100)
    ]


def words(store: Store) -> list[str]:
    return [" ".join((said.kind, getattr(said, "phase", ""))).strip() for said in logged(store)]


def test_what_belongs_into_the_log_is_stored_with_what_it_is_about(store: Store) -> None:
    store.add_invitation(invitation())
    store.enrol("11" * 32, tax(), said())
    with_contract(store).add_decision(DIGEST, "tax", True, b"yes", said(issued_at=2))
    with_contract(store).open_run(RUN, DIGEST)
    assert words(store) == ["approval", "contract", "approval", "run_opened"]
    opened = logged(store)[-1]
    assert isinstance(opened, RunOpened)
    assert (opened.run_id, opened.contract_digest, opened.code_digest) == (str(RUN), DIGEST, "cc" * 32)
    assert opened.issued_at == int(NOW.timestamp())


def test_a_refused_decision_leaves_nothing_for_the_log(store: Store) -> None:
    with pytest.raises(RefusedError):
        with_contract(store).add_decision(DIGEST, "registry", True, b"yes", said())
    assert words(store) == ["contract"]


def test_a_completed_run_closes_every_phase_and_itself_once(store: Store) -> None:
    with_run(store)
    for phase in ("hello", "hello", "align"):
        store.set_phase(RUN, phase)
    store.finish(RUN, "completed")
    store.close_run(RUN)
    store.close_run(RUN, "late")
    assert words(store)[2:] == [
        "phase_opened hello",
        "phase_closed hello",
        "phase_opened align",
        "phase_closed align",
        "run_closed",
    ]
    closed = logged(store)[-1]
    assert isinstance(closed, RunClosed)
    assert (closed.outcome, closed.cause) == ("completed", "")


@pytest.mark.parametrize(
    ("status", "cause", "outcome", "word"),
    [
        ("refused", "contract_expired", "refused", "contract_expired"),
        ("failed", "node_lost", "failed", "node_lost"),
        ("failed", "No Word", "failed", "failed"),
    ],
)
def test_a_run_that_ended_early_leaves_its_phase_open_and_says_why(
    store: Store, status: str, cause: str, outcome: str, word: str
) -> None:
    with_run(store).set_phase(RUN, "align")
    store.finish(RUN, status, "a reason")
    store.close_run(RUN, cause)
    assert words(store)[2:] == ["phase_opened align", "run_closed"]
    closed = logged(store)[-1]
    assert isinstance(closed, RunClosed)
    assert (closed.outcome, closed.cause) == (outcome, word)


def test_nothing_is_said_about_a_run_after_its_end_or_by_a_stranger(store: Store) -> None:
    with_run(store)
    about = {"run_id": str(RUN), "phase": "align", "totals": []}
    store.add_run_entry(RUN, DIGEST, "tax", said(Envelopes, **about))
    for party, digest, run in (("court", DIGEST, RUN), ("tax", "cd" * 32, RUN), ("tax", DIGEST, 1)):
        with pytest.raises(RefusedError, match="not_a_party"):
            store.add_run_entry(run, digest, party, said(Envelopes, **about))
    store.finish(RUN, "failed", "a reason")
    store.close_run(RUN, "failed")
    with pytest.raises(RefusedError, match="run_closed"):
        store.add_run_entry(RUN, DIGEST, "tax", said(Envelopes, issued_at=2, **about))
    assert words(store)[2:] == ["envelopes align", "run_closed"]


def test_the_same_statement_is_stored_once_and_keeps_its_place(store: Store) -> None:
    first = store.add_entry(said(Scoring, count=3))
    assert store.add_entry(said(Scoring, count=3)) == first
    second = store.add_entry(said(Scoring, count=4))
    assert store.places([first, second]) == [None, None]
    store.set_places({first: 0})
    assert store.places([first, second]) == [0, None]
    assert [record.number for record in store.pending_entries(10)] == [second]
    assert store.logged_size() == 1
    assert store.add_entry(said(Scoring, count=3)) == first


def test_a_party_revokes_only_what_it_has_approved(store: Store) -> None:
    with_contract(store).add_decision(DIGEST, "tax", True, b"yes", said())
    with pytest.raises(RefusedError, match="not_approved"):
        store.revoke(DIGEST, "bank-a", said(Revocation, "bank-a"))
    entry = said(Revocation)
    assert store.revoke(DIGEST, "tax", entry) == store.revoke(DIGEST, "tax", entry)
    assert [decision.is_revoked for decision in store.decisions(DIGEST)] == [True]
    assert store.revocations(DIGEST) == {"tax": entry}


def test_a_contract_that_is_too_long_for_the_log_is_not_stored(store: Store) -> None:
    with pytest.raises(ConfigError, match="too long"):
        store.add_contract(DIGEST, "credit", b"x" * 40_001, ["tax"])
    assert store.contracts() == []


def test_a_schema_of_another_version_is_refused(store: Store, url: str) -> None:
    with store.transaction() as session:
        session.execute(text("UPDATE schema_version SET version = 99"))
    with pytest.raises(ConfigError, match="schema 99"):
        open_store(url)


def test_a_locked_database_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedshare_server.storage.database._SQLITE_BUSY_SECONDS", 0.05)
    store = open_store(f"sqlite:///{tmp_path / 'fedshare.db'}")
    other = sqlite3.connect(tmp_path / "fedshare.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="locked by another process"):
        store.add_event("note", "never stored")
    other.close()
    store.close()


def fill(session: Session) -> None:
    session.execute(text("PRAGMA max_page_count=1"))
    session.execute(text("CREATE TABLE big AS SELECT randomblob(1000000)"))


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'fedshare.db'}")
    with pytest.raises(StorageError, match="disk is full"), store.transaction() as session:
        fill(session)
    store.close()


def test_a_model_is_to_be_served_until_its_run_is_ended_or_refused(store: Store) -> None:
    with_contract(store)
    for serving, (status, is_served) in enumerate(
        [("failed", True), ("completed", False), ("refused", False)], start=2
    ):
        store.open_run(serving, DIGEST, model_run=RUN)
        assert store.served_models() == {}
        store.keep_serving(serving)
        assert store.served_models() == {DIGEST: RUN}
        store.finish(serving, status, "why")
        assert bool(store.served_models()) == is_served
        store.stop_serving(DIGEST)
    assert sorted(run.run_id for run in store.serving_runs(DIGEST)) == [2, 3, 4]


def test_a_run_that_trains_or_has_ended_makes_no_model_served(store: Store) -> None:
    with_run(store).keep_serving(RUN)
    store.open_run(2, DIGEST, model_run=RUN)
    store.abort(2, "a party was lost")
    store.keep_serving(2)
    assert store.served_models() == {}


def test_ending_a_serving_run_that_another_has_replaced_leaves_that_one_served(store: Store) -> None:
    with_contract(store)
    for serving in (2, 3):
        store.open_run(serving, DIGEST, model_run=RUN + serving - 3)
        store.keep_serving(serving)
    store.finish(2, "completed")
    assert store.served_models() == {DIGEST: RUN}


def test_an_absent_database_server_is_unavailable_and_its_password_is_not_shown() -> None:
    with pytest.raises(UnavailableError, match="cannot be reached") as caught:
        open_store("postgresql://user:hunter2@127.0.0.1:1/none")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["mysql://somewhere/db", "no url"])
def test_another_kind_of_database_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        open_store(url)


def test_the_sqlite_file_is_private(tmp_path: Path) -> None:
    open_store(f"sqlite:///{tmp_path / 'fedshare.db'}").close()
    assert stat.S_IMODE((tmp_path / "fedshare.db").stat().st_mode) == 0o600


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be opened"):
        open_store(f"sqlite:///{tmp_path / 'missing' / 'fedshare.db'}")


def test_errors_never_carry_the_statement(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'fedshare.db'}")
    with pytest.raises(StorageError) as caught, store.transaction() as session:
        session.execute(text("SELECT 'secret value' FROM missing"))
    store.close()
    assert "secret" not in str(caught.value)
