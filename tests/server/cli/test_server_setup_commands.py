"""``init``, ``enrol`` and ``parties`` as transcripts: command, exit code, what appears."""

from __future__ import annotations

import json
import os
import stat
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fedshare.errors import ConfigError, StorageError
from fedshare.identity.certificates import create_authority, key_to_pem, read_client, to_pem
from fedshare_server.authority import renew_server
from fedshare_server.cli import main, parser
from fedshare_server.config import ServerConfig, StateFolder, load_config, replace_file, write_new_file
from fedshare_server.storage import open_store

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "deploy" / "coordinator" / "server.yaml"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    assert main(["init", "--state", str(folder), "--name", "coordinator.example"]) == 0
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_sample_settings_are_the_documented_defaults() -> None:
    assert load_config(SAMPLE) == ServerConfig()
    assert set(yaml.safe_load(SAMPLE.read_text())) == set(ServerConfig.model_fields)


def test_init_writes_private_keys_for_the_operator_only(state: Path) -> None:
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in state.iterdir()}
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert {name for name, mode in modes.items() if mode & 0o077} == {"ca.pem", "log.vkey", "server.pem"}


def test_init_makes_a_server_certificate_for_the_name(state: Path) -> None:
    certificate = x509.load_pem_x509_certificate((state / "server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "coordinator.example" in names.get_values_for_type(x509.DNSName)


def test_a_server_certificate_is_renewed_in_time_for_the_same_key(state: Path) -> None:
    folder, settings, now = StateFolder(state), ServerConfig(name="coordinator.example"), datetime.now(UTC)
    before = snapshot(state)
    assert not renew_server(folder, settings, now + timedelta(days=330))
    assert snapshot(state) == before
    assert renew_server(folder, settings, now + timedelta(days=340))
    after = snapshot(state)
    assert {name for name in after if after[name] != before[name]} == {"server.pem"}
    old, new = (x509.load_pem_x509_certificate(files["server.pem"]) for files in (before, after))
    assert old.public_key() == new.public_key()
    assert new.not_valid_after_utc > old.not_valid_after_utc


def test_a_server_certificate_follows_the_configured_name(state: Path) -> None:
    assert renew_server(StateFolder(state), ServerConfig(name="moved.example"), datetime.now(UTC))
    certificate = x509.load_pem_x509_certificate((state / "server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "moved.example" in names.get_values_for_type(x509.DNSName)


def test_init_never_overwrites(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(state)
    assert main(["init", "--state", str(state)]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert snapshot(state) == before


def test_init_takes_an_authority_that_exists(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    authority = create_authority(key, "city", datetime.now(UTC), timedelta(days=30), os.urandom)
    (tmp_path / "city.pem").write_bytes(to_pem(authority.certificate))
    (tmp_path / "city.key").write_bytes(key_to_pem(key))
    imported = ["--ca-cert", str(tmp_path / "city.pem"), "--ca-key", str(tmp_path / "city.key")]
    assert main(["init", "--state", str(tmp_path / "state"), *imported]) == 0
    server = x509.load_pem_x509_certificate((tmp_path / "state" / "server.pem").read_bytes())
    server.verify_directly_issued_by(authority.certificate)


def test_init_refuses_half_an_authority(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--state", str(tmp_path / "state"), "--ca-cert", "city.pem"]) == 2
    assert "belong together" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_init_starts_from_settings(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("grpc_port: 1234\n")
    assert main(["init", "--state", str(tmp_path / "state"), "--config", str(tmp_path / "mine.yaml")]) == 0
    assert load_config(tmp_path / "state" / "server.yaml") == ServerConfig(grpc_port=1234)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grpc_prot: 1\n", "grpc_prot: unknown field; did you mean grpc_port?"),
        ("grpc_port: 0\n", "grpc_port: Input should be greater"),
        ("grpc_port: 9092\n", "must differ"),
        ("- a\n", "valid dictionary"),
        ("a: [\n", "expected YAML"),
        ("grpc_port: 1\ngrpc_port: 2\n", "the key grpc_port is there twice"),
    ],
)
def test_wrong_settings_name_the_field(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "server.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_config(tmp_path / "server.yaml")


def test_an_invitation_holds_what_a_node_needs_and_is_private(state: Path, tmp_path: Path) -> None:
    out = tmp_path / "tax.invitation"
    assert main(["enrol", "tax", "--state", str(state), "--role", "feature_holder", "--out", str(out)]) == 0
    document = json.loads(out.read_bytes())
    assert document["grpc_address"] == "coordinator.example:9443"
    assert document["fleet_address"] == "coordinator.example:9092"
    assert document["ca_certificate"].encode() == (state / "ca.pem").read_bytes()
    assert read_client(document["certificate"].encode()).common_name == "invitation:tax"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_an_invitation_file_is_never_overwritten(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tax.invitation"
    out.write_text("mine")
    assert main(["enrol", "tax", "--state", str(state), "--role", "feature_holder", "--out", str(out)]) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert out.read_text() == "mine"
    store = open_store(f"sqlite:///{state / 'fedshare.db'}")
    assert store.invitations() == []
    store.close()


@pytest.mark.parametrize("party", ["Tax", "9tax", "tax bureau", "invitation:tax", "t" * 33])
def test_a_wrong_party_id_is_refused(
    state: Path, tmp_path: Path, party: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["enrol", party, "--state", str(state), "--role", "feature_holder", "--out", str(out)]) == 2
    assert "is no party id" in capsys.readouterr().err
    assert not out.exists()


def test_parties_lists_who_is_invited(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "bank.invitation")
    main(["enrol", "bank-a", "--state", str(state), "--role", "label_holder", "--out", out])
    capsys.readouterr()
    assert main(["parties", "--state", str(state)]) == 0
    assert [line.split()[:3] for line in capsys.readouterr().out.splitlines()] == [
        ["PARTY", "ROLE", "STATE"],
        ["bank-a", "label_holder", "invited"],
    ]


def test_a_folder_without_a_coordinator_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parties", "--state", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "run `fedshare-server init`" in error
    assert error.count("\n") == 1


def test_a_folder_that_others_can_enter_is_refused(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state.chmod(0o755)
    assert main(["parties", "--state", str(state)]) == 2
    assert "chmod 700" in capsys.readouterr().err


def test_training_needs_a_contract(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Flower's own imports
        assert main(["train", "credit", "--state", str(state)]) == 2
    assert "no contract has the name or digest credit" in capsys.readouterr().err


def test_debug_shows_where_an_error_arose(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        main(["--debug", "parties", "--state", str(tmp_path)])


def test_the_state_folder_comes_from_the_environment(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSHARE_STATE", str(state))
    assert main(["parties"]) == 0


def test_every_command_and_setting_is_in_the_operating_guide() -> None:
    guide = (ROOT / "docs" / "operating-coordinator.md").read_text() + SAMPLE.read_text()
    verbs = next(action for action in parser()._actions if action.dest == "==SUPPRESS==" or action.choices)
    for verb in verbs.choices:
        assert f"fedshare-server {verb}" in guide, verb
    for setting in ServerConfig.model_fields:
        assert setting in guide, setting


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        replace_file(file, b"new")
    with pytest.raises(StorageError, match="No space left"):
        write_new_file(tmp_path / "other", b"new")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("file", "old")]
