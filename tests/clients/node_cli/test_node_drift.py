"""``fedshare-node drift`` as transcripts, on rows that change after the training run."""

import json

import numpy as np
import pytest

from fedshare.credit.bins import fit_design
from fedshare.credit.drift import row_reference
from fedshare_clients.node.cli import main
from fedshare_clients.node.config import load_config
from fedshare_clients.node.contracts import own_columns
from fedshare_clients.node.data import load
from fedshare_clients.node.manifest import commit_result
from fedshare_clients.node.state import NodeState

NODE = """
party: tax
role: feature_holder
coordinator: {address: "127.0.0.1:1", fleet: "127.0.0.1:1"}
data:
  source: csv
  path: rows.csv
  identifier: code
  identifier_kind: opaque
  columns: {income: {kind: numeric, bins: 5}, staff: {kind: numeric, bins: 5}}
"""


def write_rows(folder, *, seed, income=0.0):
    rng = np.random.default_rng(seed)
    columns = zip(rng.normal(income, 1.0, 1000), rng.normal(size=1000), strict=True)
    lines = [f"c{row},{first},{second}" for row, (first, second) in enumerate(columns)]
    (folder / "rows.csv").write_text("\n".join(["code,income,staff", *lines]), encoding="utf-8")


@pytest.fixture
def trained(tmp_path):
    """A node that kept run 1; its rows are still those of training."""
    (tmp_path / "node.yaml").write_text(NODE, encoding="utf-8")
    write_rows(tmp_path, seed=1)
    config = load_config(tmp_path / "node.yaml")
    state = NodeState(tmp_path / "state")
    state.create("feature_holder", bytes)
    design = fit_design(load(config), own_columns(config), 20, party="tax")
    result = {"contract_digest": "ab" * 32, "reference": row_reference(design)}
    state.write_run_json(1, "result.json", commit_result(result, bytes))
    return tmp_path


def drift(folder, capsys, *arguments):
    code = main(["--config", str(folder / "node.yaml"), "drift", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_rows_that_have_not_moved_are_stable(trained, capsys):
    write_rows(trained, seed=2)
    code, out, _ = drift(trained, capsys, "1")
    assert code == 0
    assert out.count("stable") == 2
    assert "1,000 rows today, against those of run 1" in out
    assert "in training" not in out


def test_a_shifted_column_is_shown_with_its_bins_and_ends_with_exit_code_9(trained, capsys):
    write_rows(trained, seed=2, income=1.0)
    code, out, _ = drift(trained, capsys, "1")
    assert code == 9
    header, first, *bins = out.splitlines()[1:7]
    assert header.split() == ["column", "PSI", "by", "chance", "verdict"]
    assert (first.split()[0], first.split()[-1]) == ("income", "shifted")
    assert all("20.0% in training" in line for line in bins)
    assert "staff" in out


def test_json_has_the_bins_of_every_column(trained, capsys):
    write_rows(trained, seed=2, income=1.0)
    code, out, _ = drift(trained, capsys, "1", "--json")
    document = json.loads(out)
    assert code == 9
    assert [each["name"] for each in document["columns"]] == ["income", "staff"]
    for column in document["columns"]:
        assert sum(each["training"] for each in column["bins"]) == pytest.approx(1.0)
        assert sum(each["now"] for each in column["bins"]) == pytest.approx(1.0)


def test_a_run_without_a_model_is_refused(trained, capsys):
    code, _, err = drift(trained, capsys, "2")
    assert code == 2
    assert "run 2 left no model here" in err


def test_an_altered_result_is_refused(trained, capsys):
    path = trained / "state/runs/1/result.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["reference"]["counts"][0] += 1
    path.write_text(json.dumps(document), encoding="utf-8")
    assert drift(trained, capsys, "1")[0] == 5
