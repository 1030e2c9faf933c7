"""The state folder, and the settings that name it."""

from __future__ import annotations

import errno
import os
import stat
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import yaml

from fedshare.contract.model import Column
from fedshare.errors import ConfigError, ProtocolError, RefusedError, StorageError
from fedshare.privacy.bands import Band
from fedshare.privacy.differences import Marks
from fedshare_clients.node.config import load_config, parse_config
from fedshare_clients.node.contracts import own_columns
from fedshare_clients.node.state import NodeState, RunRecord, write_private

SAMPLES = Path(__file__).parents[3] / "deploy" / "node"
MINIMAL = """
party: tax
role: feature_holder
coordinator: {address: "coordinator.example:1", fleet: "coordinator.example:2"}
data:
  source: csv
  path: rows.csv
  identifier: code
  columns: {turnover: {kind: numeric}}
"""


@pytest.fixture
def state(tmp_path):
    state = NodeState(tmp_path / "state")
    state.create("label_holder", os.urandom)
    return state


@pytest.mark.parametrize("role", ["feature_holder", "label_holder"])
def test_the_sample_configuration_loads(role):
    assert load_config(SAMPLES / f"{role.replace('_', '-')}.yaml").role == role


@pytest.mark.parametrize("name", ["feature-holder", "label-holder"])
def test_the_sample_configuration_has_the_columns_of_the_sample_contract(name):
    config = load_config(SAMPLES / f"{name}.yaml")
    document = yaml.safe_load((SAMPLES.parent / "examples/contract.yaml").read_text(encoding="utf-8"))
    (party,) = (each for each in document["parties"] if each["id"] == config.party)
    agreed = tuple(Column.model_validate(each | {"classification": "internal"}) for each in party["columns"])
    assert (party["role"], agreed) == (config.role, own_columns(config))


def test_the_sample_of_a_bank_does_not_refuse_contracts_without_noise():
    assert load_config(SAMPLES / "label-holder.yaml").privacy.limited() == set()


def test_relative_paths_are_relative_to_the_file(tmp_path):
    config = parse_config(MINIMAL, tmp_path / "node.yaml")
    assert config.data.path == tmp_path / "rows.csv"
    assert config.state == tmp_path / "state"
    assert config.coordinator.ca_certificate == tmp_path / "state" / "coordinator-ca.pem"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("surprise: 1", "surprise"),
        ("holdout_seed: " + "ab" * 32, "belong to a label_holder"),
        ("party: Tax Bureau", "party"),
        ("limits: {rows: 0}", "limits.rows"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(tmp_path, line, said):
    text = "\n".join(each for each in MINIMAL.splitlines() if each.split(":")[0] != line.split(":")[0])
    with pytest.raises(ConfigError, match=said):
        parse_config(f"{text}\n{line}\n", tmp_path / "node.yaml")


def test_the_label_cannot_be_a_column_under_another_name(tmp_path):
    text = MINIMAL.replace("feature_holder", "label_holder").replace(
        "identifier: code", "identifier: code\n  label: y"
    )
    with pytest.raises(ConfigError, match="cannot be a column"):
        parse_config(text.replace("{kind: numeric}", "{kind: numeric, column: y}"), tmp_path / "node.yaml")


def test_a_setting_that_is_there_twice_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="the key party is there twice"):
        parse_config(f"{MINIMAL}\nparty: court\n", tmp_path / "node.yaml")


def test_text_that_is_not_yaml_is_refused_by_its_line(tmp_path):
    with pytest.raises(ConfigError, match="line 2"):
        parse_config("party: [\n}", tmp_path / "node.yaml")


def test_the_holdout_seed_and_the_url_are_never_shown(tmp_path):
    text = MINIMAL.replace("feature_holder", "label_holder").replace(
        "identifier: code", "identifier: code\n  label: y"
    )
    config = parse_config(text + f"holdout_seed: {'ab' * 32}\n", tmp_path / "node.yaml")
    assert "abab" not in repr(config)


def test_a_file_is_replaced_in_full(tmp_path):
    path = tmp_path / "file"
    write_private(path, b"one")
    write_private(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_earlier_file_and_nothing_half_written(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    write_private(path, b"one")

    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError, match="No space left"):
        write_private(path, b"two")
    assert path.read_bytes() == b"one"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_stops_init_and_a_second_init_completes_it(tmp_path, monkeypatch):
    state = NodeState(tmp_path / "state")
    replace = os.replace

    def full(source, target):
        if Path(target).name == "flower-key":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(StorageError):
            state.create("label_holder", os.urandom)
    identity = state.identity().public_bytes()
    state.create("label_holder", os.urandom)
    assert state.identity().public_bytes() == identity
    assert state.flower_public_text().startswith(b"ecdsa-sha2-nistp384 ")


def test_a_damaged_database_is_a_storage_error(state):
    (state.folder / "node.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError):
        state.runs()


def test_runs_are_kept_latest_first_even_with_64_bit_numbers(state):
    state.save_run(RunRecord(1, "ab", "completed", "close", "", "2026-01-01T00:00:00+00:00"))
    latest = RunRecord(2**64 - 1, "ab", "failed", "train", "a peer left", "2026-01-02T00:00:00+00:00")
    state.save_run(latest)
    assert state.runs()[0] == latest
    assert len(state.runs()) == 2


def test_a_run_begins_once_whatever_happens_to_the_process(state):
    for run_id in (7, 2**64 - 1):
        state.begin_run(run_id, "ab", datetime(2026, 6, 1, tzinfo=UTC))
        with pytest.raises(ProtocolError, match="used once"):
            NodeState(state.folder).begin_run(run_id, "ab", datetime(2026, 6, 1, tzinfo=UTC))
    assert {run.status for run in state.runs()} == {"running"}


def test_the_first_end_of_a_run_stays(state):
    ended = RunRecord(1, "ab", "completed", "evaluate", "model complete", "2026-01-01T00:00:00+00:00")
    state.save_run(RunRecord(1, "ab", "running", "train", "", "2026-01-01T00:00:00+00:00"))
    state.save_run(ended)
    state.save_run(RunRecord(1, "", "failed", "hello", "begun already", "2026-01-02T00:00:00+00:00"))
    assert state.runs() == [ended]


def test_a_run_that_the_process_did_not_survive_has_failed(state):
    state.save_run(RunRecord(1, "ab", "completed", "close", "", "2026-01-01T00:00:00+00:00"))
    state.begin_run(2, "ab", datetime(2026, 1, 2, tzinfo=UTC))
    NodeState(state.folder).fail_interrupted_runs(datetime(2026, 1, 3, tzinfo=UTC))
    assert [(run.run_id, run.status) for run in state.runs()] == [(2, "failed"), (1, "completed")]
    assert "the node ended during the run" in state.runs()[0].message


def test_what_is_spent_of_a_contract_adds_up_to_its_limit_and_survives_the_process(state):
    assert state.spend("ab", "identifiers/bank", 60, 100) == 0
    assert state.spend("ab", "identifiers/bank", 41, 100) == 60  # too many: nothing is added
    again = NodeState(state.folder)
    assert again.spend("ab", "identifiers/bank", 40, 100) == 60
    assert again.spend("ab", "identifiers/bank", 1, 100) == 100
    assert again.spend("ab", "runs", 1, 3) == again.spend("cd", "identifiers/bank", 1, 3) == 0


def test_a_withdrawn_consent_is_remembered_with_its_enterprise_and_contract(state):
    assert not state.is_withdrawn("ab" * 32)
    for _ in range(2):
        state.save_withdrawal("one", "ab" * 32, b"enterprise", datetime(2026, 6, 1, tzinfo=UTC))
    again = NodeState(state.folder)
    assert again.is_withdrawn("ab" * 32)
    assert not again.is_withdrawn("cd" * 32)
    assert again.withdrawn_enterprises("one") == {b"enterprise"}
    assert again.withdrawn_enterprises("other") == set()


def test_only_a_consent_given_later_under_the_same_contract_restores_an_enterprise(state):
    noon = datetime(2026, 6, 1, 12, tzinfo=UTC)
    state.save_withdrawal("one", "ab" * 32, b"enterprise", noon)
    east = timezone(timedelta(hours=8))
    for contract, enterprise, given_at in (
        ("other", b"enterprise", noon + timedelta(days=1)),
        ("one", b"another", noon + timedelta(days=1)),
        ("one", b"enterprise", datetime(2026, 6, 1, 19, 59, tzinfo=east)),  # a minute before noon
        ("one", b"enterprise", noon),
    ):
        state.restore(contract, enterprise, given_at)
        assert state.withdrawn_enterprises("one") == {b"enterprise"}
    state.restore("one", b"enterprise", datetime(2026, 6, 1, 20, 1, tzinfo=east))
    state.save_withdrawal("one", "ab" * 32, b"enterprise", noon)  # the old withdrawal again
    assert state.withdrawn_enterprises("one") == set()
    assert state.is_withdrawn("ab" * 32)


def test_the_files_of_a_run_are_private(state):
    path = state.write_run_json(7, "result.json", {"rows": 1})
    assert path == state.folder / "runs" / "7" / "result.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_drawn_holdout_seed_has_32_bytes(state):
    assert len(state.holdout_seed()) == 32


def test_what_is_kept_of_a_run_is_read_back_and_damage_is_no_missing_run(state):
    assert state.read_run_json(7, "result.json") is None
    path = state.write_run_json(7, "result.json", {"weights": [1.5]})
    assert state.read_run_json(7, "result.json") == {"weights": [1.5]}
    path.write_bytes(b"{")
    with pytest.raises(ConfigError, match="damaged"):
        state.read_run_json(7, "result.json")


def test_portfolios_are_remembered_in_order_and_per_contract(state):
    for number in range(3):
        state.add_portfolio_answer("aa", {"withheld": bool(number % 2), "number": number})
    state.add_portfolio_answer("bb", {"number": 9})
    again = NodeState(state.folder)
    assert [each["number"] for each in again.portfolio_answers("aa")] == [0, 1, 2]
    assert again.portfolio_answers("cc") == []
    assert all(file.stat().st_mode & 0o077 == 0 for file in (state.folder / "portfolios").rglob("*"))


def test_a_damaged_memory_of_portfolios_is_an_error_not_a_fresh_start(state):
    state.add_portfolio_answer("aa", {"number": 0})
    (state.folder / "portfolios" / "aa" / "000000.json").write_text("{")
    with pytest.raises(ConfigError, match="restore it from a backup"):
        state.portfolio_answers("aa")


BANK = MINIMAL.replace("feature_holder", "label_holder").replace(
    "identifier: code", "identifier: code\n  label: bad"
)
PRICES = "pricing: {funding: 0.02, operation: 0.01, loss_given_default: 0.4, bands: {city: 0.18}}\n"
WHERE = "portfolio: {exposure: turnover, industry: turnover, region: turnover}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + PRICES, "belong to a label_holder"),
        (BANK + WHERE, "portfolio needs pricing"),
        (BANK + PRICES + WHERE.replace("region: turnover", "region: place"), "no column place"),
        (BANK + PRICES.replace("0.4", "1.4"), "pricing.loss_given_default"),
        (BANK + PRICES.replace("{city: 0.18}", "{}"), "pricing.bands"),
    ],
)
def test_prices_and_portfolios_that_make_no_sense_are_refused(text, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        parse_config(text, tmp_path / "node.yaml")


def test_a_bank_with_prices_and_a_portfolio_loads(tmp_path):
    config = parse_config(BANK + PRICES + WHERE, tmp_path / "node.yaml")
    assert config.pricing.terms().cost == pytest.approx(0.03)
    assert config.portfolio.exposure == "turnover"


def test_over_whom_sums_were_is_remembered_once_each_and_survives_the_process(state):
    first = Marks(*np.array([[1, 2], [3, 4], [5, 6]], dtype=np.uint64))
    seen = []

    def choose(key, earlier):
        seen.append((key, [each.customers.tolist() for each in earlier]))
        return [first]

    for _ in range(3):
        NodeState(state.folder).extend_sums(choose)
    assert [earlier for _, earlier in seen] == [[], [[1, 2]], [[1, 2]]]
    assert len({key for key, _ in seen}) == 1


def test_sums_that_are_refused_are_not_remembered(state):

    def refuse(_key, _earlier):
        raise RefusedError("few_customers_changed", "too few")

    with pytest.raises(RefusedError):
        state.extend_sums(refuse)
    state.extend_sums(lambda _key, earlier: earlier)
    state.extend_sums(lambda _key, earlier: [] if not earlier else pytest.fail("something was remembered"))


def test_who_is_counted_with_another_bank_is_fixed_for_good_and_survives_the_process(state):
    assert state.fixed_customers("drops", "key") is None
    marks = Marks(*np.array([[1, 2], [3, 4], [5, 6]], dtype=np.uint64))
    nobody = Marks(*np.empty((3, 0), dtype=np.uint64))
    state.fix_customers("drops", "key", marks, b"first")
    state.fix_customers("counts", "key", nobody, b"second")
    with pytest.raises(StorageError):
        state.fix_customers("drops", "key", nobody, b"first")
    again = NodeState(state.folder)
    fixed, name = again.fixed_customers("drops", "key")
    assert ([each.tolist() for each in fixed.kinds()], name) == ([[1, 2], [3, 4], [5, 6]], b"first")
    fixed, name = again.fixed_customers("counts", "key")
    assert (len(fixed.customers), name) == (0, b"second")
    assert [each.customers.tolist() for each in again.ever_droppable()] == [[1, 2]]


def test_a_band_of_shared_customers_is_kept_per_contract_and_survives_the_process(state):
    assert state.shared_band("ab", "bank-b") is None
    state.save_shared_band("ab", "bank-b", Band(0, 0))
    state.save_shared_band("ab", "bank-b", Band(30, 60))
    again = NodeState(state.folder)
    assert again.shared_band("ab", "bank-b") == Band(30, 60)
    assert again.shared_band("cd", "bank-b") is None
