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

from fedshare.errors import ConfigError, FedshareError, RefusedError, StorageError, UnavailableError
from fedshare_server.storage import InvitationRecord, PartyRecord, ProgressRecord, Store, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.orm import Session

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
DIGEST = "ab" * 32
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
    record = PartyRecord("tax", "feature_holder", b"i" * 32, "flower key", "22" * 32, NOW)
    return replace(record, **changes)


def with_contract(store: Store) -> Store:
    store.add_contract(DIGEST, "credit", b"{}", ["tax", "bank-a"])
    return store


def with_run(store: Store) -> Store:
    with_contract(store).open_run(RUN, DIGEST)
    return store


def test_an_enrolled_party_is_found_as_it_came(store: Store) -> None:
    store.add_invitation(invitation())
    store.enrol("11" * 32, tax())
    assert store.find_party("tax") == tax()
    assert store.parties() == [tax()]


def test_an_invitation_is_used_once(store: Store) -> None:
    store.add_invitation(invitation())
    store.enrol("11" * 32, tax())
    with pytest.raises(RefusedError, match="used_invitation"):
        store.enrol("11" * 32, tax(identity_key=b"j" * 32))
    assert store.parties() == [tax()]


def test_an_invitation_is_used_once_even_by_many_at_a_time(store: Store) -> None:
    store.add_invitation(invitation())

    def attempt(number: int) -> str:
        try:
            store.enrol("11" * 32, tax(identity_key=bytes([number]) * 32))
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
        store.enrol("11" * 32, tax())
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
    store.enrol("11" * 32, tax())
    with pytest.raises(RefusedError, match="already_enrolled"):
        store.add_invitation(invitation(key_digest="44" * 32))
    store.add_invitation(invitation(key_digest="44" * 32, replaces=True))
    store.enrol("44" * 32, tax(certificate_digest="55" * 32))
    assert store.parties() == [tax(certificate_digest="55" * 32)]


@pytest.mark.parametrize("field", ["identity_key", "flower_key", "certificate_digest"])
def test_two_parties_never_share_a_key(store: Store, field: str) -> None:
    store.add_invitation(invitation())
    store.enrol("11" * 32, tax())
    store.add_invitation(invitation("registry", key_digest="44" * 32))
    other = tax(party="registry", identity_key=b"o" * 32, flower_key="other", certificate_digest="66" * 32)
    with pytest.raises(RefusedError, match="key_in_use"):
        store.enrol("44" * 32, replace(other, **{field: getattr(tax(), field)}))


def test_a_contract_is_stored_once_and_listed_for_its_parties(store: Store) -> None:
    with_contract(store)
    with_contract(store)
    assert [record.canonical for record in store.contracts("tax")] == [b"{}"]
    assert store.contracts("registry") == []
    assert store.contract_parties(DIGEST) == ("bank-a", "tax")


def test_a_contract_is_found_by_name_and_by_a_prefix_of_its_digest(store: Store) -> None:
    with_contract(store)
    store.add_contract("ab" * 31 + "cd", "credit", b"[]", ["tax"])
    assert store.resolve_contract("credit").canonical == b"[]"
    assert store.resolve_contract(DIGEST).canonical == b"{}"
    with pytest.raises(ConfigError, match="give more digits"):
        store.resolve_contract("abababab")
    with pytest.raises(ConfigError, match="no contract"):
        store.resolve_contract("abab")


def test_a_decision_is_final(store: Store) -> None:
    with_contract(store).add_decision(DIGEST, "tax", False, b"no")
    store.add_decision(DIGEST, "tax", False, b"no")
    with pytest.raises(RefusedError, match="already_decided"):
        store.add_decision(DIGEST, "tax", True, b"yes")
    assert [decision.approved for decision in store.decisions(DIGEST)] == [False]


def test_a_stranger_cannot_decide(store: Store) -> None:
    with pytest.raises(RefusedError, match="unknown_contract"):
        with_contract(store).add_decision(DIGEST, "registry", True, b"yes")


@pytest.mark.parametrize("statement", ["UPDATE decisions SET approved = TRUE", "DELETE FROM decisions"])
def test_the_database_itself_refuses_to_change_a_decision(store: Store, statement: str) -> None:
    with_contract(store).add_decision(DIGEST, "tax", False, b"no")
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


def test_a_run_belongs_to_one_contract(store: Store) -> None:
    with_run(store).open_run(RUN, DIGEST)
    store.add_contract("cd" * 32, "other", b"[]", ["tax"])
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
