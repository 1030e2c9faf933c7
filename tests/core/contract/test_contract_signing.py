"""Decisions and the code digest."""

from __future__ import annotations

import hashlib
from datetime import datetime

import pytest
from contract_documents import KEYS, NOW, contract
from pydantic import ValidationError

from fedshare.contract.codedigest import PACKAGES, code_digest, installed_code_digest
from fedshare.contract.signing import DECISION_TYPE, Decision, sign_decision, verify_decision
from fedshare.errors import ProtocolError
from fedshare.identity import dsse

DIGEST = contract().digest()
BANK = KEYS["bank"].public_bytes()


def decision(**changes):
    return Decision(
        **{"contract_digest": DIGEST, "party": "bank", "verdict": "approve", "time": NOW, **changes}
    )


def test_a_signed_decision_reads_back_as_the_same():
    rejection = decision(verdict="reject", reason="the quota is too high")
    assert verify_decision(sign_decision(rejection, KEYS["bank"]), "bank", BANK) == rejection


def test_the_same_decision_has_the_same_bytes():
    assert sign_decision(decision(), KEYS["bank"]) == sign_decision(decision(), KEYS["bank"])


def test_a_decision_by_another_key_or_in_another_name_is_refused():
    for signed in (
        sign_decision(decision(), KEYS["tax"]),
        sign_decision(decision(party="tax"), KEYS["bank"]),
    ):
        with pytest.raises(ProtocolError):
            verify_decision(signed, "bank", BANK)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        decision().model_dump_json().replace("approve", "maybe").encode(),
        decision().model_dump_json().replace("Z", "").encode(),
        decision().model_dump_json().replace("{", '{"surprise":1,', 1).encode(),
        decision().model_dump_json().replace(DIGEST, DIGEST.upper()).encode(),
        decision().model_dump_json().replace('"reason":""', '"reason":"\\u001b[2J"').encode(),
    ],
    ids=range(9),
)
def test_signed_bytes_that_are_no_decision_are_refused(payload):
    with pytest.raises(ProtocolError, match="decision"):
        verify_decision(dsse.sign(payload, DECISION_TYPE, KEYS["bank"]), "bank", BANK)


def test_a_statement_of_another_type_is_no_decision():
    with pytest.raises(ProtocolError):
        verify_decision(
            dsse.sign(decision().model_dump_json().encode(), "application/json", KEYS["bank"]), "bank", BANK
        )


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ValidationError, match="time"):
        decision(time=datetime(2026, 6, 1))  # noqa: DTZ001  that is the point


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "shared"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("one\n")
    (folder / "inner" / "two.py").write_text("two\n")
    return folder


def test_the_code_digest_is_what_sha256sum_prints_hashed_again(package):
    lines = [
        f"{hashlib.sha256(text.encode()).hexdigest()}  shared/{name}\n"
        for name, text in (("__init__.py", "one\n"), ("inner/two.py", "two\n"))
    ]
    assert code_digest([package]) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_code_digest_does_not_depend_on_place_or_caches(package, tmp_path):
    before = code_digest([package])
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "two.cpython-311.pyc").write_text("cache")
    (package / "py.typed").write_text("")
    moved = package.rename(tmp_path / "elsewhere")
    assert code_digest([moved.rename(tmp_path / "shared")]) == before


@pytest.mark.parametrize("name", ["new.py", "inner/new.py", "inner/two.pyc", "inner/two.so"])
def test_whatever_python_would_import_changes_the_code_digest(package, name):
    before = code_digest([package])
    (package / name).write_text("surprise")
    assert code_digest([package]) != before


def test_a_changed_moved_or_missing_file_changes_the_code_digest(package):
    digests = {code_digest([package])}
    (package / "inner" / "two.py").write_text("two \n")
    digests.add(code_digest([package]))
    (package / "inner" / "two.py").rename(package / "two.py")
    digests.add(code_digest([package]))
    (package / "two.py").unlink()
    digests.add(code_digest([package]))
    assert len(digests) == 4


def test_the_installed_code_has_one_digest():
    assert installed_code_digest() == installed_code_digest()
    assert PACKAGES == ("fedshare", "fedshare_clients", "fedshare_server")
