"""What the executor's gate lets pass: a bundle with settings, and nothing else."""

from __future__ import annotations

import hashlib
import io
import zipfile
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedshare.errors import ConfigError, RefusedError
from fedshare_clients.node._flwr_runtime import require_supported_flwr
from fedshare_clients.node.app import RunConfig
from fedshare_clients.node.executor import verify_bundle, verify_run_config

PYPROJECT = """
[project]
name = "fedshare"
version = "0.1.0"
[tool.flwr.app]
publisher = "fedshare"
fab-include = ["/README.md"]
[tool.flwr.app.components]
serverapp = "fedshare_server.app:app"
clientapp = "fedshare_clients.node.app:app"
[tool.flwr.app.config]
contract_digest = ""
model_run = ""
"""
README = "settings"
DIGEST = "ab" * 32


def bundle(*extra: tuple[str, str], pyproject: str = PYPROJECT) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (
            ("pyproject.toml", pyproject),
            ("README.md", README),
            (".info/CONTENT", ""),
            *extra,
        ):
            archive.writestr(name, content)
    return file.getvalue()


def check(fab: bytes) -> None:
    verify_bundle(fab, hashlib.sha256(fab).hexdigest())


def code_of(fab: bytes) -> str:
    with pytest.raises(RefusedError) as caught:
        check(fab)
    return caught.value.code


def test_a_bundle_with_settings_only_passes() -> None:
    check(bundle())


@pytest.mark.parametrize(
    "name",
    [
        "evil.py",
        "fedshare_clients/node/app.py",
        "fedshare_clients/",
        "a.so",
        "../pyproject.toml",
        "/pyproject.toml",
        "./README.md",
        "README.MD",
        "sitecustomize.pyc",
        ".info/x.py",
    ],
)
def test_a_bundle_with_any_other_file_is_refused_as_code(name: str) -> None:
    assert code_of(bundle((name, "print()"))) == "bundle_carries_code"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=40))
def test_no_other_file_name_passes(name: str) -> None:
    fab = bundle((name, ""))
    if name not in {"pyproject.toml", "README.md", ".info/CONTENT"}:
        assert code_of(fab) == "bundle_carries_code"


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_file_that_is_there_twice_is_refused() -> None:
    assert code_of(bundle(("pyproject.toml", PYPROJECT))) == "bundle_differs"


@pytest.mark.parametrize(
    "change",
    [
        ("fedshare_clients.node.app:app", "os:system"),
        ("fedshare_server.app:app", "other:app"),
        ("[project]", "[build-system]\nrequires = []\n[project]"),
        ('version = "0.1.0"', 'version = "0.1.0"\ndependencies = ["evil"]'),
        ("[tool.flwr.app.config]", "[tool.other]\n[tool.flwr.app.config]"),
        ("[tool.flwr.app.config]", "[tool.flwr.federations]\n[tool.flwr.app.config]"),
        ('publisher = "fedshare"', 'publisher = "fedshare"\nrunner = "x"'),
        ("[tool.flwr.app.components]", "[tool.flwr.app.components]\nextra = 1"),
        ("[project]", "not toml ["),
        ("[tool.flwr.app.config]", "[tool.flwr.app.other]"),
    ],
)
def test_a_bundle_whose_table_says_anything_else_is_refused(change: tuple[str, str]) -> None:
    assert code_of(bundle(pyproject=PYPROJECT.replace(*change))) == "bundle_differs"


def test_a_bundle_that_configures_more_than_the_contract_is_refused() -> None:
    assert code_of(bundle(pyproject=PYPROJECT + "rounds = 3\n")) == "run_config_differs"


def test_a_bundle_that_is_not_the_one_the_run_states_is_refused() -> None:
    with pytest.raises(RefusedError, match="SHA-256"):
        verify_bundle(bundle(), "00" * 32)


def test_a_bundle_that_unpacks_to_too_much_is_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pyproject.toml", PYPROJECT + "#" * 10_000_000)
    assert code_of(file.getvalue()) == "bundle_differs"


@given(st.binary(max_size=2000))
def test_bytes_that_are_no_bundle_are_refused_and_nothing_else(fab: bytes) -> None:
    assert code_of(fab) in {"bundle_differs", "bundle_carries_code"}


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_bundle_passes_unharmed_or_is_refused(place: int, value: int) -> None:
    fab = bytearray(bundle())
    fab[place % len(fab)] = value
    with suppress(RefusedError):  # anything else that it raises fails the test
        check(bytes(fab))


def test_the_run_configuration_names_the_contract_and_the_model_that_is_served() -> None:
    assert verify_run_config({"contract_digest": DIGEST, "model_run": ""}) == RunConfig(DIGEST)
    served = verify_run_config({"contract_digest": DIGEST, "model_run": str(2**64 - 1)})
    assert served == RunConfig(DIGEST, 2**64 - 1)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"contract_digest": DIGEST},
        {"contract_digest": "", "model_run": ""},
        {"contract_digest": DIGEST.upper(), "model_run": ""},
        {"contract_digest": DIGEST + "\n", "model_run": ""},
        {"contract_digest": 7, "model_run": ""},
        {"contract_digest": DIGEST, "model_run": "", "table": "customers"},
        {"contract_digest": DIGEST, "model_run": 7},
        {"contract_digest": DIGEST, "model_run": "07"},
        {"contract_digest": DIGEST, "model_run": "-1"},
        {"contract_digest": DIGEST, "model_run": "7\n"},
        {"contract_digest": DIGEST, "model_run": "1" * 21},
    ],
)
def test_a_run_configuration_that_says_anything_else_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(RefusedError) as caught:
        verify_run_config(config)
    assert caught.value.code == "run_config_differs"


@pytest.mark.parametrize("version", ["1.40.9", "1.42.0", "2.41.0", "1.4.1"])
def test_another_minor_version_of_flower_is_refused(version: str) -> None:
    with pytest.raises(ConfigError, match=r"1\.41"):
        require_supported_flwr(version)


def test_the_installed_flower_is_the_supported_one() -> None:
    require_supported_flwr()
