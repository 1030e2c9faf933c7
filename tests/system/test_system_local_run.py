"""A whole federation as a user starts it: real SuperLink, SuperNodes, Exchange and PostgreSQL on loopback."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from adbc_driver_postgresql import dbapi

from fedshare.audit.checkpoint import Checkpoint
from fedshare.audit.entries import Entry
from fedshare.audit.notes import parse_note
from fedshare.audit.policy import Policy
from fedshare.audit.storage import FolderSource
from fedshare.audit.tiles import read_bundle
from fedshare_clients.auditor.verify import verify_log
from fedshare_clients.node.cli import main
from fedshare_clients.node.manifest import verify_result

pytestmark = pytest.mark.system

COMMAND = [sys.executable, "-c", "import sys; from fedshare_clients.local.cli import main; sys.exit(main())"]
UNIVERSE, CUSTOMERS, ITERATIONS = 1200, 800, 4


def tables(seed=5):
    rng = np.random.default_rng(seed)
    names = np.array([f"enterprise-{number:06d}" for number in rng.permutation(10**6)[:UNIVERSE]])
    turnover, age, cases = rng.normal(size=(3, UNIVERSE))
    own = rng.normal(size=UNIVERSE)
    logit = -0.8 + turnover - 0.6 * age + 0.5 * cases + 0.7 * own
    default = (rng.random(UNIVERSE) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    chosen = rng.permutation(UNIVERSE)[:CUSTOMERS]
    invoices = np.repeat(np.arange(UNIVERSE), 2)
    return {
        "tax": pa.table({"code": names, "turnover": turnover}),
        "registry": pa.table({"code": names, "age": age}),
        "court": pa.table({"code": names[invoices], "claim": cases[invoices]}),
        "bank": pa.table({"code": names[chosen], "usage": own[chosen], "bad": default[chosen]}),
    }


def experiment(folder, **changes):
    document = {
        "name": "small",
        "seed": 1,
        "minimum_cohort": 20,
        "alignment": {"identifier": "opaque", "quota": 5000},
        "model": {"max_iterations": ITERATIONS, "tolerance": 1e-9},
        "parties": {
            "tax": {
                "role": "feature_holder",
                "source": {"kind": "csv", "path": "tax.csv", "identifier": "code"},
                "columns": ["turnover"],
            },
            "court": {
                "role": "feature_holder",
                "source": {
                    "kind": "query",
                    "query": f"select code, sum(claim) as claims from '{folder}/court.parquet' group by code",  # noqa: S608
                    "identifier": "code",
                },
                "columns": ["claims"],
            },
            "bank": {
                "role": "label_holder",
                "source": {"kind": "parquet", "path": "bank.parquet", "identifier": "code", "label": "bad"},
                "columns": ["usage"],
            },
        },
        **changes,
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def write(folder):
    for name, table in tables().items():
        pq.write_table(table, folder / f"{name}.parquet")
        pa.csv.write_csv(table, folder / f"{name}.csv")
    return folder


def run(path, out, *options):
    return subprocess.run(
        [*COMMAND, "run", str(path), "--out", str(out), *options],
        capture_output=True, text=True, timeout=240, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def completed(tmp_path_factory, postgres_url):
    folder = write(tmp_path_factory.mktemp("federation"))
    with dbapi.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("registry_rows", tables()["registry"], mode="create")
        connection.commit()
    parties = yaml.safe_load(experiment(folder).read_text())["parties"]
    parties["registry"] = {
        "role": "feature_holder",
        "source": {
            "kind": "postgresql", "url": postgres_url, "table": "registry_rows", "identifier": "code",
        },
        "columns": ["age"],
    }  # fmt: skip
    for name, condition in (("bank", ">="), ("bank-b", "<")):
        query = f"select * from '{folder}/bank.parquet' where usage {condition} -0.4"  # noqa: S608
        source = {"kind": "query", "query": query, "identifier": "code", "label": "bad"}
        parties[name] = {"role": "label_holder", "source": source, "columns": ["usage"]}
    path = experiment(folder, parties=parties, between_banks={"accept_two": True})
    done = run(path, folder / "out", "--check")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / "out", json.loads((folder / "out" / "report.json").read_text()), done.stdout


def test_four_kinds_of_source_and_two_banks_train_to_the_pooled_optimum(completed):
    _, report, _ = completed
    assert report["rows"]["aligned"] == CUSTOMERS
    assert report["iterations"] == ITERATIONS
    assert abs(report["auc"]["federated"] - report["auc"]["pooled"]) <= 0.001
    assert report["auc"]["federated"] > report["auc"]["bank_only"] + 0.05
    assert {name: bank["aligned"] > 200 for name, bank in report["banks"].items()} == {
        "bank": True,
        "bank-b": True,
    }
    measured = report["all_banks"]["federated"]["auc"]
    assert measured["low"] <= report["auc"]["federated"] <= measured["high"]
    assert set(report["seconds"]) >= {"hello", "align", "prepare", "train", "total"}


def test_an_iteration_moves_eight_bytes_per_row_bank_and_direction(completed):
    _, _, printed = completed
    sent = re.findall(r"^tax  train (\d+) .* sent ([\d,]+) B  received ([\d,]+) B$", printed, re.MULTILINE)
    by_iteration = {int(number): (out, come) for number, out, come in sent}
    for direction in (0, 1):
        first, last = (
            int(by_iteration[number][direction].replace(",", "")) for number in (1, ITERATIONS - 1)
        )
        per_iteration = (last - first) / (ITERATIONS - 2)
        # One kilobyte of names, tags and coefficients per bank weighs at most 5 % of the 9.6 kB of so few rows' words.
        assert per_iteration == pytest.approx(2 * 8 * UNIVERSE, rel=0.10)


def test_the_report_needs_no_network_and_links_to_pages_beside_it(completed):
    out, _, _ = completed
    page = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""src=["'](?!data:)""", page)
    assert all((out / link).is_file() for link in re.findall(r"""href=["']([^"'#]+)""", page))
    assert page.count("<svg") == 4


def test_a_holder_sees_how_important_its_own_columns_are_and_that_its_rows_have_not_moved(completed, capsys):
    out, report, _ = completed
    node = ["--config", str(out / "tax" / "node.yaml")]
    assert main([*node, "report", str(report["run_id"]), "--json"]) == 0
    (column,) = json.loads(capsys.readouterr().out)["importance"]
    assert column["name"] == "turnover"
    assert column["spread"] > 0.3
    assert main([*node, "drift", str(report["run_id"]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["columns"][0]["index"] == 0.0


def test_the_audit_log_is_left_with_its_policy_and_verifies(completed):
    out, _, printed = completed
    assert re.search(
        r"^audit: log 127\.0\.0\.1/log: \d+ entries, cosigned by bank, bank-b, court, registry, tax; the log is good$",
        printed,
        re.MULTILINE,
    )
    assert sorted(path.name for path in (out / "log").iterdir()) == ["checkpoint", "tile"]
    policy = Policy.parse((out / "policy.txt").read_bytes())
    checked = verify_log(FolderSource(out / "log"), policy)
    assert checked.findings == []
    assert checked.statements["approval"] == checked.statements["model_manifest"] == 5
    assert checked.statements["phase_opened"] == checked.statements["phase_closed"] == 6
    # Every party has accounted for every phase in which envelopes pass.
    assert checked.statements["envelopes"] == 20


def logged(folder):
    source = FolderSource(folder)
    size = Checkpoint.parse(parse_note(source.read("checkpoint")).text).size
    return [Entry.parse(entry).statement for entry in read_bundle(source, 0, size)]


def test_each_party_has_a_private_log_of_what_it_did_and_when_it_was_let(completed):
    out, _, _ = completed
    said = logged(out / "tax" / "state" / "private-log")
    events = [each for each in said if each.kind == "private_event"]
    opened = [each.facts["phase"] for each in events if each.event == "phase_opened"]
    assert opened == ["hello", "align", "prepare", "train", "evaluate"]
    assert "completed" in {each.event for each in events}
    common = {each.to_bytes() for each in logged(out / "log")}
    assert {each.to_bytes() for each in said if each.kind != "private_event"} <= common


def test_what_each_party_kept_opens_its_commitment_in_the_log(completed):
    out, report, _ = completed
    announced = {}
    for party in ("bank", "bank-b", "court", "registry", "tax"):
        result = json.loads(
            (out / party / "state" / "runs" / str(report["run_id"]) / "result.json").read_text()
        )
        announced[party] = verify_result(result)
    manifests = [each for each in logged(out / "log") if each.kind == "model_manifest"]
    assert [each.components for each in manifests] == [announced] * 5


def test_the_coordinator_keeps_nothing_of_the_data(completed):
    out, _, _ = completed
    secrets = [name.as_py().encode() for name in tables()["tax"]["code"][:50]]
    secrets += [repr(value.as_py()).encode() for value in tables()["tax"]["turnover"][:50]]
    files = [path for path in (out / "coordinator").rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        assert not any(secret in content for secret in secrets), path


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.set_column(1, "turnover", pa.array(["much"] * len(t))), "turnover"),
        (lambda t: t.set_column(1, "turnover", pa.array([1.0] * len(t))), "turnover"),
        (lambda t: pa.concat_tables([t, t.slice(0, 1)]), "twice"),
    ],
    ids=["text", "constant", "duplicate"],
)
def test_bad_rows_are_named_before_anything_starts(tmp_path, spoil, said):
    write(tmp_path)
    pa.csv.write_csv(spoil(tables()["tax"]), tmp_path / "tax.csv")
    done = run(experiment(tmp_path), tmp_path / "out")
    assert done.returncode == 3
    (line,) = done.stderr.strip().splitlines()
    assert "tax" in line
    assert said in line or "identifier" in line
    assert not (tmp_path / "out" / "report.json").exists()


def test_an_output_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    write(tmp_path)
    done = run(experiment(tmp_path), "/proc/out")
    assert done.returncode == 8
    assert done.stderr.startswith("fedshare-local: /proc/out: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff\xfe", ": expected UTF-8 text; save the file as UTF-8"),
        (
            b"name: small\nparties: [",
            ", line 2: expected YAML, found something else; check the indentation and the quotes",
        ),
    ],
)
def test_an_experiment_that_is_no_yaml_is_one_sentence(tmp_path, text, said):
    (tmp_path / "experiment.yaml").write_bytes(text)
    done = run(tmp_path / "experiment.yaml", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.endswith(f"experiment.yaml{said}\n")
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_field_is_a_matter_of_configuration(tmp_path):
    write(tmp_path)
    done = run(experiment(tmp_path, colour="red"), tmp_path / "out")
    assert (done.returncode, "colour" in done.stderr) == (2, True)


def begin(folder):
    """Start a long run; return its process and all it has started once the parties are in the phase align."""
    write(folder)
    path = experiment(folder, model={"max_iterations": 200, "tolerance": 1e-12})
    process = subprocess.Popen(
        [*COMMAND, "run", str(path), "--out", str(folder / "out")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    log = folder / "out" / "logs" / "train.log"
    deadline = time.monotonic() + 120
    while not (log.exists() and "phase align" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process, psutil.Process(process.pid).children(recursive=True)


def still_running(processes):
    return [each for each in processes if each.is_running() and each.status() != "zombie"]


def test_ctrl_c_ends_everything_that_was_started(tmp_path):
    process, children = begin(tmp_path)
    assert len(children) > 8  # a SuperLink, and a SuperNode for each of three nodes, among others
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "fedshare-local: interrupted; every process was ended\n"
    assert not still_running(children)


def test_a_killed_node_ends_the_run_and_nothing_is_left_running(tmp_path):
    process, children = begin(tmp_path)
    (node,) = [
        child for child in children
        if child.ppid() == process.pid and str(Path("tax") / "node.yaml") in " ".join(child.cmdline())
    ]  # fmt: skip
    os.killpg(node.pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=150)
    assert process.returncode == 7, errors
    assert "tax" in errors.strip().splitlines()[-1]
    assert not still_running(children)


def test_candidates_are_run_and_set_side_by_side(tmp_path):
    experiment(write(tmp_path))
    candidates = {"plain": {}, "no-such-column": {"parties": {"tax": {"columns": ["income"]}}}}
    path = tmp_path / "candidates.yaml"
    path.write_text(yaml.safe_dump({"base": "experiment.yaml", "candidates": candidates}), encoding="utf-8")
    done = subprocess.run(
        [*COMMAND, "compare", str(path), "--out", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=240, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 3, done.stdout[-2000:] + done.stderr[-2000:]
    result = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert result["trials"] == 2
    assert list(result["candidates"]) == ["plain"]
    assert "income" in result["failures"]["no-such-column"]
    validation = tmp_path / "out" / "plain" / "bank" / "report" / "report.json"
    area = json.loads(validation.read_text())["models"]["federated"]["auc"]["auc"]
    assert area == pytest.approx(result["candidates"]["plain"]["auc"])
