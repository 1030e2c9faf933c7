"""``fedshare-node`` as transcripts: command, exit code, what appears."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from fake_coordinator import FakeCoordinator

from fedshare.audit.entries import EntrySigner
from fedshare.audit.policy import Policy
from fedshare.audit.statements import Revocation
from fedshare.contract.signing import verify_decision
from fedshare.identity.keys import IdentityKey, encode_public_key
from fedshare_clients.node.cli import main
from fedshare_clients.node.config import load_config
from fedshare_clients.node.state import NodeState

ROWS = "code,income,bad\n" + "".join(f"c{row},{row % 7},{row % 2}\n" for row in range(200))
COLUMNS = [{"name": "income", "kind": "numeric", "bins": 5}]


@pytest.fixture
def coordinator():
    fake = FakeCoordinator()
    yield fake
    fake.stop()


@pytest.fixture
def node(tmp_path, capsys):
    """A bank's node.yaml and its command: returns exit code, output and errors."""
    (tmp_path / "rows.csv").write_text(ROWS)
    write_settings(tmp_path, "127.0.0.1:1")

    def run(*arguments):
        code = main(["--config", str(tmp_path / "node.yaml"), *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def write_settings(folder, address, **data):
    document = {
        "party": "bank-a",
        "role": "label_holder",
        "coordinator": {"address": address, "fleet": "127.0.0.1:2"},
        "data": {
            "source": "csv",
            "path": "rows.csv",
            "identifier": "code",
            "identifier_kind": "opaque",
            "label": "bad",
            "columns": {"income": {"kind": "numeric", "bins": 5}},
        }
        | data,
        "limits": {"connect_timeout_seconds": 1},
    }
    (folder / "node.yaml").write_text(yaml.safe_dump(document))


@pytest.fixture
def enrolled(node, coordinator, tmp_path):
    write_settings(tmp_path, coordinator.address)
    (tmp_path / "invitation.json").write_text(coordinator.invitation("bank-a", "label_holder"))
    assert node("init")[0] == 0
    code, out, err = node("enrol", str(tmp_path / "invitation.json"))
    assert code == 0, err
    assert "bank-a is enrolled" in out
    return node


def test_init_makes_private_keys_and_prints_the_fingerprint(node, tmp_path):
    code, out, _ = node("init")
    assert code == 0
    assert "identity fingerprint" in out
    state = tmp_path / "state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    files = [path for path in state.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {
        "identity.pem",
        "tls-key.pem",
        "flower-key",
        "holdout-seed",
        "node.sqlite",
    }
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)


def test_the_flower_key_is_what_the_supernode_reads(node, tmp_path):
    node("init")
    key = load_ssh_private_key((tmp_path / "state" / "flower-key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP384R1)


def test_init_again_keeps_the_keys(node):
    assert node("init")[1] == node("init")[1]


def test_a_missing_configuration_is_one_sentence_without_a_traceback(tmp_path, capsys):
    assert main(["--config", str(tmp_path / "none.yaml"), "init"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("fedshare-node: ")
    assert said.err.count("\n") == 1


def test_data_check_prints_columns_and_finds_nothing(node):
    code, out, _ = node("data", "check")
    assert code == 0
    assert "200 rows, 3 columns" in out
    assert "income  numeric" in out
    assert "no problems" in out


def test_data_check_lists_every_problem_and_exits_3(node, tmp_path):
    (tmp_path / "rows.csv").write_text("code,income,bad\na,1,0\na,hidden,7\n")
    code, out, _ = node("data", "check")
    assert code == 3
    assert "3 problem(s)" in out
    assert "hidden" not in out


def test_data_check_finds_the_exposures_that_no_portfolio_takes(node, tmp_path):
    rows = [f"e{number},{number},{number % 7},{'ns'[number % 2]},{number // 2 % 2}" for number in range(200)]
    rows[2] = "e2,2,-1,n,1"
    (tmp_path / "rows.csv").write_text("\n".join(["code,income,owed,region,bad", *rows]))
    document = yaml.safe_load((tmp_path / "node.yaml").read_text())
    document["data"]["columns"] |= {"owed": {"kind": "numeric"}, "region": {"kind": "categorical"}}
    document["pricing"] = {"funding": 0, "operation": 0, "loss_given_default": 0.4, "bands": {"city": 0.1}}
    document["portfolio"] = {"exposure": "owed", "industry": "region", "region": "region"}
    (tmp_path / "node.yaml").write_text(yaml.safe_dump(document))
    code, out, _ = node("data", "check")
    assert code == 3
    assert "row 3, field owed: expected exposures from 0 to 1,000,000,000,000, found 1 that are" in out


def test_data_check_prints_json(node):
    code, out, _ = node("data", "check", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["rows"] == 200
    assert document["columns"][0]["bins"] >= 2
    assert document["problems"] == []


def test_a_state_folder_that_others_can_read_is_refused(node, tmp_path):
    node("init")
    (tmp_path / "state").chmod(0o755)
    code, _, err = node("status")
    assert code == 2
    assert "0700" in err


def test_commands_before_enrolment_say_what_to_do(node):
    node("init")
    for command in (("contract", "list"), ("run",)):
        code, _, err = node(*command)
        assert code == 2, err
        assert "fedshare-node enrol" in err


def test_an_invitation_for_another_party_is_refused(node, coordinator, tmp_path):
    write_settings(tmp_path, coordinator.address)
    (tmp_path / "invitation.json").write_text(coordinator.invitation("bank-b", "label_holder"))
    node("init")
    code, _, err = node("enrol", str(tmp_path / "invitation.json"))
    assert code == 2
    assert "bank-b" in err


def test_a_damaged_invitation_is_refused_without_showing_its_key(node, coordinator, tmp_path):
    document = json.loads(coordinator.invitation("bank-a", "label_holder"))
    document["version"] = 9
    (tmp_path / "invitation.json").write_text(json.dumps(document))
    node("init")
    code, _, err = node("enrol", str(tmp_path / "invitation.json"))
    assert code == 2
    assert "PRIVATE KEY" not in err


def test_enrolment_is_tried_again_while_the_coordinator_starts(node, coordinator, tmp_path):
    coordinator.failures_left = 1
    write_settings(tmp_path, coordinator.address)
    (tmp_path / "invitation.json").write_text(coordinator.invitation("bank-a", "label_holder"))
    node("init")
    assert node("enrol", str(tmp_path / "invitation.json"))[0] == 0


def test_a_used_invitation_is_refused(enrolled, tmp_path):
    code, _, err = enrolled("enrol", str(tmp_path / "invitation.json"))
    assert code == 4
    assert err.count("[invitation_used]") == 1


def test_an_unreachable_coordinator_exits_6(enrolled, tmp_path, free_port, caplog):
    write_settings(tmp_path, f"127.0.0.1:{free_port}")
    code, _, err = enrolled("contract", "list")
    assert code == 6
    assert f"127.0.0.1:{free_port}" in err
    assert caplog.messages == [f"the coordinator at 127.0.0.1:{free_port} does not answer; trying for 1 s"]


def test_contract_show_prints_terms_and_fingerprints(enrolled, coordinator):
    contract = coordinator.draft("pilot", COLUMNS)
    assert "pilot" in enrolled("contract", "list")[1]
    code, out, _ = enrolled("contract", "show", "pilot")
    assert code == 0
    assert contract.digest() in out
    assert "fingerprint" in out
    assert "income: numeric, at most 5 bins" in out
    assert "tell each party, at most" in out  # the leak ledger
    assert "bank-a (label_holder, this node): no decision" in out


def test_an_approval_is_signed_stored_and_handed_in_once(enrolled, coordinator, tmp_path):
    contract = coordinator.draft("pilot", COLUMNS)
    digest = contract.digest()
    for _ in range(2):
        code, out, err = enrolled("contract", "approve", digest[:8], "--yes")
        assert code == 0, err
        assert "bank-a has approved contract pilot" in out
    key = contract.party("bank-a").identity_key_bytes()
    assert verify_decision(coordinator.decisions[digest], "bank-a", key).verdict == "approve"
    state = NodeState(load_config(tmp_path / "node.yaml").state)
    assert state.approved_contract(digest).digest() == digest
    assert "approve" in enrolled("status")[1]


def test_a_contract_with_other_columns_is_refused(enrolled, coordinator):
    coordinator.draft("pilot", [{"name": "income", "kind": "numeric", "bins": 6}])
    code, _, err = enrolled("contract", "approve", "pilot", "--yes")
    assert code == 4
    assert "[columns_differ]" in err
    assert coordinator.decisions == {}


def test_a_contract_with_another_flower_key_is_refused(enrolled, coordinator):
    coordinator.enrolled["bank-a"]["flower_key"] = "ef" * 32
    coordinator.draft("pilot", COLUMNS)
    code, _, err = enrolled("contract", "approve", "pilot", "--yes")
    assert code == 4
    assert "[party_key_differs]" in err


def test_a_contract_with_other_identifiers_is_refused(enrolled, coordinator):
    coordinator.draft("pilot", COLUMNS, alignment={"identifier": "uscc", "quota": 10})
    code, _, err = enrolled("contract", "approve", "pilot", "--yes")
    assert code == 4
    assert "[configuration_differs]" in err


@pytest.mark.parametrize(
    ("limit", "noise", "code", "named"),
    [
        ({"label_epsilon": 5}, {}, "noise_missing", "privacy.label_epsilon"),
        ({"network_delta": 1e-5}, {}, "noise_missing", "privacy.network_delta"),
        ({}, {"labels": {"epsilon": 6}}, "privacy_budget_exceeded", "privacy.label_epsilon"),
    ],
)
def test_a_contract_that_the_banks_own_limits_refuse_is_not_signed(
    enrolled, coordinator, tmp_path, limit, noise, code, named
):
    settings = yaml.safe_load((tmp_path / "node.yaml").read_text())
    (tmp_path / "node.yaml").write_text(yaml.safe_dump({**settings, "privacy": limit}))
    coordinator.draft("pilot", COLUMNS, privacy=noise)
    exit_code, _, err = enrolled("contract", "approve", "pilot", "--yes")
    assert exit_code == 4
    assert f"[{code}]" in err
    assert named in err
    assert coordinator.decisions == {}


def test_a_contract_that_is_not_the_one_asked_for_is_an_attack(enrolled, coordinator):
    first, second = coordinator.draft("pilot", COLUMNS), coordinator.draft("other", COLUMNS)
    coordinator.contracts[first.digest()] = second
    code, _, err = enrolled("contract", "approve", first.digest(), "--yes")
    assert code == 5
    assert "report it" in err


def test_a_rejection_is_final(enrolled, coordinator):
    coordinator.draft("pilot", COLUMNS)
    assert enrolled("contract", "reject", "pilot", "--yes", "--reason", "no mandate")[0] == 0
    code, _, err = enrolled("contract", "approve", "pilot", "--yes")
    assert code == 2
    assert "final" in err


def test_a_decision_without_a_terminal_needs_yes(enrolled, coordinator):
    coordinator.draft("pilot", COLUMNS)
    code, _, err = enrolled("contract", "approve", "pilot")
    assert code == 2
    assert "--yes" in err
    assert coordinator.decisions == {}


def test_errors_are_json_on_request(node):
    code, out, err = node("contract", "list", "--json")
    assert code == 2
    assert json.loads(out)["exit_code"] == 2
    assert err == ""


def test_status_is_json_on_request(enrolled):
    document = json.loads(enrolled("status", "--json")[1])
    assert document["party"] == "bank-a"
    assert document["certificate_until"]
    assert document["runs"] == []
    assert document["privacy"]["labels"] == {
        "spent": {"epsilon": 0.0, "delta": 0.0},
        "limit": {"epsilon": 5.0, "delta": 0.0},
    }


def test_status_shows_what_was_spent_of_the_privacy_budget(enrolled):
    out = enrolled("status")[1]
    assert "labels: epsilon 0 of 5 spent" in out
    assert "network: epsilon 0 of 10, delta 0 of 0.0001 spent" in out


def test_a_report_on_an_unknown_run_says_where_to_look(enrolled):
    code, _, err = enrolled("report", "77")
    assert code == 2
    assert "run 77 left no result here; 'fedshare-node status' lists the runs" in err


def test_a_node_whose_coordinator_is_down_tries_again_and_then_says_so(enrolled, tmp_path):
    command = "import sys; from fedshare_clients.node.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", command, "--config", str(tmp_path / "node.yaml"), "run"],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 6
    *said, last = done.stderr.strip().splitlines()
    assert (
        sum("127.0.0.1:2 cannot be reached (Connection refused); trying again" in line for line in said) >= 2
    )
    assert last.startswith("fedshare-node: the coordinator at 127.0.0.1:2 could not be reached for 1 seconds")


def test_enrolment_keeps_the_keys_of_the_log_and_announces_the_witness(enrolled, coordinator, tmp_path):
    state = NodeState(load_config(tmp_path / "node.yaml").state)
    assert state.log_trust().coordinator_key == encode_public_key(coordinator.log_key.public_bytes())
    assert coordinator.witnesses["bank-a"] == state.witness_signer("bank-a").key.vkey


def test_an_approval_is_an_entry_of_the_log_too(enrolled, coordinator):
    contract = coordinator.draft("pilot", COLUMNS)
    assert enrolled("contract", "approve", "pilot", "--yes")[0] == 0
    (said,) = coordinator.submitted
    assert (said.kind, said.issuer, said.contract_digest) == ("approval", "bank-a", contract.digest())


def test_a_contract_with_another_log_is_refused(enrolled, coordinator):
    coordinator.log_key = IdentityKey.generate(os.urandom)
    coordinator.draft("pilot", COLUMNS)
    code, _, err = enrolled("contract", "approve", "pilot", "--yes")
    assert code == 4
    assert "[log_differs]" in err


def test_a_revocation_is_final(enrolled, coordinator):
    coordinator.draft("pilot", COLUMNS)
    enrolled("contract", "approve", "pilot", "--yes")
    assert enrolled("contract", "revoke", "pilot", "--yes")[0] == 0
    told = list(coordinator.submitted)
    code, _, err = enrolled("contract", "approve", "pilot", "--yes")
    assert code == 2
    assert "taken its approval back, which is final" in err
    code, _, err = enrolled("contract", "revoke", "pilot", "--yes")
    assert code == 2
    assert "taken its approval back already" in err
    assert coordinator.submitted == told


def test_status_shows_when_an_approval_was_taken_back(enrolled, coordinator, tmp_path):
    digest = coordinator.draft("pilot", COLUMNS).digest()
    enrolled("contract", "approve", "pilot", "--yes")
    state = NodeState(load_config(tmp_path / "node.yaml").state)
    said = Revocation(issuer="bank-a", issued_at=2_000_000_000, contract_digest=digest)
    state.save_revocation(digest, EntrySigner(state.identity()).sign(said))
    (shown,) = json.loads(enrolled("status", "--json")[1])["decisions"]
    assert (shown["verdict"], shown["decided_at"]) == ("revoke", "2033-05-18T03:33:20+00:00")


def test_revoking_is_signed_once_and_the_node_remembers_it(enrolled, coordinator, tmp_path):
    contract = coordinator.draft("pilot", COLUMNS)
    assert enrolled("contract", "revoke", "pilot", "--yes")[0] == 2  # nothing is approved yet
    enrolled("contract", "approve", "pilot", "--yes")
    assert enrolled("contract", "revoke", "pilot")[0] == 2  # asks, and nobody is there
    for _ in range(2):
        coordinator.revocations.clear()  # as if it had never arrived
        code, out, err = enrolled("contract", "revoke", "pilot", "--yes", "--reason", "merger")
        assert code == 0, err
        assert "has taken back its approval of contract pilot" in out
    _, first, second = coordinator.submitted
    assert first == second
    assert (first.kind, first.reason) == ("revocation", "merger")
    state = NodeState(load_config(tmp_path / "node.yaml").state)
    assert state.revocation(contract.digest()) is not None
    assert [each["verdict"] for each in json.loads(enrolled("status", "--json")[1])["decisions"]] == [
        "revoke"
    ]


def test_contract_policy_prints_what_the_auditors_command_reads(enrolled, coordinator, tmp_path):
    contract = coordinator.draft("pilot", COLUMNS)
    code, _, error = enrolled("contract", "policy", "pilot")  # only of what this party has approved
    assert (code, "has approved no contract called pilot" in error) == (2, True)
    enrolled("contract", "approve", "pilot", "--yes")
    code, out, _ = enrolled("contract", "policy", "pilot")
    assert code == 0
    policy = Policy.parse(out.encode())
    assert [log.key.vkey for log in policy.logs] == [contract.log.key]
    assert set(policy.witnesses) == {"bank-a", "tax"}
