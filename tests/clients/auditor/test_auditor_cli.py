import functools
import gzip
import http.server
import json
import subprocess
import sys
import threading

import pytest
from audit_federation import Federation, key_of

from fedshare.audit.log import AuditLog
from fedshare.audit.notes import NoteSigner
from fedshare.errors import UnavailableError
from fedshare_clients.auditor.cli import main
from fedshare_clients.auditor.fetch import HttpSource


@pytest.fixture
def federation(tmp_path):
    federation = Federation(tmp_path)
    (tmp_path / "policy.txt").write_text(federation.policy_text)
    yield federation.honest().log()
    federation.close()


@pytest.fixture
def run(federation, capsys):
    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def policy(federation):
    return "--policy", federation.folder / "policy.txt"


def test_verify_says_that_a_good_log_is_good(run, federation, policy):
    code, out, _ = run("verify", federation.path, *policy)
    assert code == 0
    assert "18 entries, cosigned by bank-a, bank-b, tax" in out
    assert out.endswith("the log is good\n")


def test_verify_exits_with_the_class_of_the_finding_and_explains_it(run, federation, policy):
    federation.open("9")
    federation.log()
    code, out, _ = run("verify", federation.path, *policy)
    assert code == 28
    assert "entry 18: run 9 was opened and not closed" in out
    assert "completeness: something that has to be in the log is missing" in out


def test_verify_as_json_names_entry_class_and_meaning(run, federation, policy):
    federation.open("9")
    federation.log()
    code, out, _ = run("verify", federation.path, *policy, "--json")
    (finding,) = json.loads(out)["findings"]
    assert (code, finding["exit_code"], finding["index"], finding["class"]) == (28, 28, 18, "completeness")
    assert finding["meaning"].startswith("something that has to be")


def test_verify_since_an_earlier_checkpoint_finds_a_rollback(run, federation, policy, tmp_path):
    (tmp_path / "old").write_bytes((federation.path / "checkpoint").read_bytes())
    assert run("verify", federation.path, *policy, "--since", tmp_path / "old")[0] == 0
    federation.copy("backup")
    federation.open("9")
    federation.finish("9", outcome="failed")
    federation.log()
    (tmp_path / "new").write_bytes((federation.path / "checkpoint").read_bytes())
    assert run("verify", federation.path, *policy, "--since", tmp_path / "old")[0] == 0
    assert run("verify", tmp_path / "backup", *policy, "--since", tmp_path / "new")[0] == 23


def test_verify_takes_keys_from_elsewhere(run, federation, policy, tmp_path):
    (tmp_path / "keys").write_text(json.dumps({"bank-a": "A" * 43 + "="}))
    assert run("verify", federation.path, *policy, "--keys", tmp_path / "keys")[0] == 24
    (tmp_path / "keys").write_text('{"bank-a": 1}')
    assert run("verify", federation.path, *policy, "--keys", tmp_path / "keys")[0] == 2


def test_a_missing_or_malformed_policy_exits_2(run, federation, tmp_path):
    code, _, err = run("verify", federation.path, "--policy", tmp_path / "none")
    assert (code, "could not read the policy" in err) == (2, True)
    (tmp_path / "policy.txt").write_text("nonsense\n")
    code, out, _ = run("verify", federation.path, "--policy", tmp_path / "policy.txt", "--json")
    assert (code, json.loads(out)["exit_code"]) == (2, 2)


def test_a_folder_without_a_log_exits_20(run, policy, tmp_path):
    (tmp_path / "empty").mkdir()
    code, out, _ = run("verify", tmp_path / "empty", *policy)
    assert code == 20
    assert out.endswith("\n1 finding\n")


def test_a_folder_that_is_not_there_exits_2_and_is_no_finding(run, policy, tmp_path):
    for words in (
        ("verify", tmp_path / "none", *policy),
        ("show", tmp_path / "none"),
        ("prove", tmp_path / "none", 0),
    ):
        code, out, err = run(*words)
        assert (code, out) == (2, "")
        assert "no such folder" in err


def test_show_prints_every_entry(run, federation):
    code, out, _ = run("show", federation.path)
    assert (code, len(out.splitlines())) == (0, 18)
    assert " coordinator run_opened " in out
    code, out, _ = run("show", federation.path, "--from", 4, "--count", 2, "--json")
    assert [json.loads(line)["index"] for line in out.splitlines()] == [4, 5]
    assert json.loads(out.splitlines()[0])["kind"] == "contract"


def test_show_prints_an_unreadable_entry_too(run, federation):
    federation.entries.append(b"\xff")
    federation.log()
    assert run("show", federation.path, "--from", 18)[1].startswith("18 1970")


def test_a_receipt_is_made_and_checked(run, federation, policy, tmp_path):
    receipt = tmp_path / "x.tlog-proof"
    assert run("prove", federation.path, 5, "--out", receipt)[0] == 0
    assert run("prove", federation.path, 5)[1].encode() == receipt.read_bytes()
    code, out, _ = run("check-proof", receipt, *policy)
    assert (code, "entry 5 is in example.org/log under its checkpoint of 18" in out) == (0, True)
    code, out, _ = run("check-proof", receipt, *policy, "--json")
    assert json.loads(out)["statement"]["kind"] == "approval"


def test_a_receipt_without_its_entry_needs_it(run, federation, policy, tmp_path):
    receipt = tmp_path / "x.tlog-proof"
    run("prove", federation.path, 5, "--out", receipt)
    lines = [line for line in receipt.read_text().splitlines(keepends=True) if not line.startswith("extra")]
    receipt.write_text("".join(lines))
    assert run("check-proof", receipt, *policy)[0] == 2
    (tmp_path / "entry").write_bytes(federation.entries[5])
    assert run("check-proof", receipt, *policy, "--entry", tmp_path / "entry")[0] == 0
    (tmp_path / "entry").write_bytes(federation.entries[6])
    assert run("check-proof", receipt, *policy, "--entry", tmp_path / "entry")[0] == 5


def test_a_receipt_of_an_entry_that_is_not_there_exits_2(run, federation):
    assert run("prove", federation.path, 99)[0] == 2


@pytest.fixture
def served(federation):
    handler = functools.partial(QuietHandler, directory=str(federation.path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_follow_keeps_a_copy_that_verifies(run, federation, policy, served, tmp_path):
    copy = tmp_path / "copy"
    assert run("follow", served, copy, *policy)[0] == 0
    assert run("verify", copy, *policy)[0] == 0
    federation.whole_run("8")
    federation.log()
    code, out, _ = run("follow", served, copy, *policy)
    assert (code, "28 entries" in out) == (0, True)
    assert run("verify", copy, *policy)[0] == 0


class ZippingHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.server.bodies[self.path]
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_zipped_files_are_read_and_bombs_are_not():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), ZippingHandler) as server:
        server.bodies = {
            "/good": gzip.compress(b"good"),
            "/bomb": gzip.compress(bytes(40_000_000)),
            "/broken": b"\x1f\x8bxxxxxxxxxxxx",
        }
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        source = HttpSource(f"http://127.0.0.1:{server.server_address[1]}")
        assert source.read("good") == b"good"
        for path in ("bomb", "broken"):
            with pytest.raises(UnavailableError):
                source.read(path)
        server.shutdown()
        thread.join()


def test_follow_refuses_a_log_that_was_rolled_back(run, federation, policy, served, tmp_path):
    backup = federation.copy("backup")
    federation.whole_run("8")
    federation.log()
    copy = tmp_path / "copy"
    run("follow", served, copy, *policy)
    held = (copy / "checkpoint").read_bytes()
    (federation.path / "checkpoint").write_bytes((backup / "checkpoint").read_bytes())
    code, _, err = run("follow", served, copy, *policy)
    assert (code, "rolled back" in err) == (5, True)
    assert (copy / "checkpoint").read_bytes() == held


def test_follow_refuses_an_entry_that_does_not_hash_to_its_tile(run, federation, policy, served, tmp_path):
    path = federation.path / "tile/entries/000.p/18"
    path.write_bytes(path.read_bytes().replace(b"payload", b"PAYLOAD", 1))
    assert run("follow", served, tmp_path / "copy", *policy)[0] == 5
    assert not (tmp_path / "copy/checkpoint").exists()


def test_follow_of_nothing_exits_6(run, policy, tmp_path):
    assert run("follow", "http://127.0.0.1:1/", tmp_path / "copy", *policy)[0] == 6
    assert run("follow", "file:///etc", tmp_path / "copy", *policy)[0] == 2


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in set("flwr grpc torch numpy scipy yaml pyarrow rbcl sqlalchemy".split()):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
from fedshare_clients.auditor.cli import main
from fedshare_clients.auditor.fetch import HttpSource
import fedshare.audit.log, fedshare_clients.auditor.witness
sys.exit(main(sys.argv[1:]))
"""


def test_the_auditor_needs_neither_flower_nor_grpc_nor_torch_nor_numpy(federation, policy):
    command = [sys.executable, "-c", BLOCKED, "verify", federation.path, *policy]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the log is good" in done.stdout


def test_every_exit_code_and_command_is_documented(federation, capsys):
    from pathlib import Path  # noqa: PLC0415

    from fedshare_clients.auditor.findings import FindingClass  # noqa: PLC0415

    guide = (Path(__file__).parents[3] / "docs/operating-auditor.md").read_text()
    for kind in FindingClass:
        assert f"| {int(kind)} | {kind.name.lower()} |" in guide
    for command in ("verify", "show", "prove", "check-proof", "follow", "witness"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        for word in capsys.readouterr().out.split():
            option = word.strip("[],")
            if option.startswith("--") and option != "--help":
                assert option in guide, (command, option)


def test_every_kind_of_statement_is_documented():
    from pathlib import Path  # noqa: PLC0415
    from typing import get_args  # noqa: PLC0415

    from fedshare.audit.statements import Statement  # noqa: PLC0415

    page = (Path(__file__).parents[3] / "docs/audit-log.md").read_text()
    for kind in get_args(Statement):
        assert f"| `{kind.model_fields['kind'].default}` |" in page


def test_an_entry_of_another_format_is_found_even_without_witnesses(run, tmp_path):
    signer = NoteSigner("example.org/private", key_of("private"))
    with AuditLog.open(tmp_path / "private", signer) as log:
        log.append([b"x"])
    (tmp_path / "p").write_text(f"log {signer.key.vkey}\nquorum none\n")
    assert run("verify", tmp_path / "private", "--policy", tmp_path / "p")[0] == 24
