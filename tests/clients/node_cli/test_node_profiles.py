"""Consents and profiles at the command line of a bank's node."""

from __future__ import annotations

import json

import pytest
from score_bank import running_bank

from fedshare.identity.keys import IdentityKey
from fedshare.scoring.consent import sign_consent, sign_withdrawal, verify_consent, verify_withdrawal
from fedshare_clients.node.cli import main


@pytest.fixture
def bank(tmp_path):
    with running_bank(tmp_path) as running:
        yield running


def command(bank, *words):
    return main(["--config", str(bank.folder / "node.yaml"), *map(str, words)])


@pytest.fixture
def consent(bank):
    evidence = bank.folder / "signed.pdf"
    evidence.write_bytes(b"signed by the enterprise")
    file = bank.folder / "consent.json"
    words = ["--bank", "bank", "--enterprise", " known-1", "--evidence", evidence, "--until", "2099-01-01"]
    assert command(bank, "consent", "grant", "--contract", "joint-score", *words, "--out", file) == 0
    return file


def test_a_consent_is_signed_for_one_bank_and_enterprise(bank, consent):
    given = verify_consent(consent.read_bytes(), bank.state.identity().public_bytes())
    assert (given.bank, given.enterprise, given.contract_digest) == ("bank", "known-1", bank.agreed.digest())
    assert given.expires_at.year == 2099


@pytest.mark.parametrize(
    ("party", "until", "said"),
    [
        ("bank", "2020-01-01", "over already"),
        ("tax", "2099-01-01", "tax is none"),
        ("x", "2099-01-01", "no party"),
    ],
)
def test_a_consent_that_could_show_nothing_is_not_signed(bank, capsys, party, until, said):
    evidence, file = bank.folder / "signed.pdf", bank.folder / "consent.json"
    evidence.write_bytes(b"signed by the enterprise")
    words = [
        "--bank",
        party,
        "--enterprise",
        "known-1",
        "--evidence",
        evidence,
        "--until",
        until,
        "--out",
        file,
    ]
    assert command(bank, "consent", "grant", "--contract", "joint-score", *words) == 2
    assert said in capsys.readouterr().err
    assert not file.exists()


def test_a_profile_has_the_score_and_every_holders_part(bank, consent, capsys):
    out = bank.folder / "profile.json"
    assert command(bank, "profile", "--contract", "joint-score", "--consent", consent, "--out", out) == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["answer"]["status"] == "scored"
    assert isinstance(document["answer"]["points"], int)
    assert document["holders"]["tax"]["columns_with_value"] == 1
    assert out.stat().st_mode & 0o777 == 0o600
    assert "tax: known" in capsys.readouterr().out


def test_a_withdrawn_consent_shows_nothing_and_every_holder_is_told(bank, consent, capsys):
    out, profile = bank.folder / "withdrawal.json", bank.folder / "profile.json"
    assert command(bank, "consent", "withdraw", "--contract", "joint-score", consent, "--out", out) == 0
    assert bank.holders.told == [out.read_bytes()]
    taken = verify_withdrawal(out.read_bytes(), bank.state.identity().public_bytes())
    assert bank.state.is_withdrawn(taken.consent)
    assert bank.state.withdrawn_enterprises(bank.agreed.digest()) == {b"known-1"}
    assert command(bank, "profile", "--contract", "joint-score", "--consent", consent, "--out", profile) == 4
    assert "[consent_withdrawn]" in capsys.readouterr().err
    assert not profile.exists()


def test_a_withdrawal_counts_here_even_if_no_holder_can_be_told(bank, consent, capsys):
    settings = (bank.folder / "node.yaml").read_text(encoding="utf-8").replace(bank.address, "127.0.0.1:1")
    (bank.folder / "node.yaml").write_text(settings, encoding="utf-8")
    out = bank.folder / "withdrawal.json"
    assert command(bank, "consent", "withdraw", "--contract", "joint-score", consent, "--out", out) == 0
    assert "NO HOLDER was told" in capsys.readouterr().out
    assert bank.state.withdrawn_enterprises(bank.agreed.digest()) == {b"known-1"}
    assert command(bank, "consent", "apply", "--contract", "joint-score", out) == 0  # as at a holder


def test_a_withdrawal_or_a_consent_of_another_key_is_refused(bank, consent, capsys):
    stranger = IdentityKey.from_raw(bytes([9]) * 32)
    given = verify_consent(consent.read_bytes(), bank.state.identity().public_bytes())
    forged, out = bank.folder / "forged.json", bank.folder / "out.json"
    forged.write_bytes(sign_consent(given, stranger))
    assert command(bank, "profile", "--contract", "joint-score", "--consent", forged, "--out", out) == 5
    command(bank, "consent", "withdraw", "--contract", "joint-score", consent, "--out", out)
    taken = verify_withdrawal(out.read_bytes(), bank.state.identity().public_bytes())
    other = taken.model_copy(update={"consent": "ab" * 32, "enterprise": "known-2"})
    forged.write_bytes(sign_withdrawal(other, stranger))
    assert command(bank, "consent", "apply", "--contract", "joint-score", forged) == 5
    assert bank.state.withdrawn_enterprises(bank.agreed.digest()) == {b"known-1"}


def test_an_unknown_contract_and_a_missing_file_are_named(bank, consent, capsys):
    out = bank.folder / "out.json"
    assert command(bank, "consent", "withdraw", "--contract", "other", consent, "--out", out) == 2
    assert "called other" in capsys.readouterr().err
    words = ["--contract", "joint-score", "--consent", bank.folder / "none.json", "--out", out]
    assert command(bank, "profile", *words) == 2
    assert "none.json" in capsys.readouterr().err


def test_status_says_how_much_of_the_quota_of_scoring_is_used(bank, capsys):
    bank.state.spend(bank.agreed.digest(), "scored/bank", 7, 10)
    assert command(bank, "status") == 0
    assert "7 of 10 scored for bank" in capsys.readouterr().out
