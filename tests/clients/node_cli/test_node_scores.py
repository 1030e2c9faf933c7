"""A bank's own systems ask its node: over mutual TLS, one by one and by files, and the receipts that come with answers."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from score_bank import running_bank

from fedshare.errors import ConfigError, ProtocolError, UnavailableError
from fedshare.scoring.answer import verify_receipt
from fedshare.wire.v1 import scoring_pb2 as wire
from fedshare.wire.v1.scoring_pb2_grpc import ScoreServiceStub
from fedshare_clients.node.cli import main
from fedshare_clients.node.config import parse_config
from fedshare_clients.node.enrolment import TlsIdentity, connect
from fedshare_clients.node.score_files import score_applicants
from fedshare_clients.node.score_service import ScoreServer
from fedshare_clients.node.score_tls import client_identity, open_authority, server_identity
from fedshare_clients.node.score_wire import answer_from_wire, answer_to_wire, question_to_wire
from fedshare_clients.node.scorer import ScoringDesk
from fedshare_clients.node.state import NodeState


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    with running_bank(tmp_path_factory.mktemp("bank")) as running:
        yield running.folder, running.address, running.tls, running.holders


def ask(address, tls, **question):
    with connect(address, tls) as channel:
        request = wire.ScoreRequest(question=wire.Question(**question))
        return answer_from_wire(ScoreServiceStub(channel).Score(request, timeout=10).answer)


def score(address, tls, contract, questions):
    with connect(address, tls) as channel:
        return score_applicants(channel, contract, questions)


def command(folder, *words):
    return main(["--config", str(folder / "node.yaml"), *words])


def test_a_system_of_the_bank_is_answered_and_can_prove_it(bank):
    folder, address, tls, _ = bank
    answer = ask(address, tls, enterprise=" known-1 ")
    assert (answer.enterprise, answer.status, answer.own_columns) == ("known-1", "scored", "table")
    assert answer.probability == pytest.approx(1 / (1 + np.exp(-1.5)))
    assert (answer.band, answer.reasons) == ("decline", ("usage", "sales"))
    verify_receipt(answer, NodeState(folder / "state").identity().public_bytes())


def test_own_columns_come_with_the_question(bank):
    _, address, tls, _ = bank
    given = ask(address, tls, enterprise="known-1", columns={"usage": wire.Cell(number=0.0)})
    assert given.own_columns == "given"
    assert given.probability == pytest.approx(1 / (1 + np.exp(0.5)))
    assert ask(address, tls, enterprise="known-1", columns={"usage": wire.Cell()}).own_columns == "given"


def test_a_question_that_cannot_be_understood_is_an_invalid_argument(bank):
    _, address, tls, _ = bank
    for question in (
        {"enterprise": " "},
        {"enterprise": "known-1", "columns": {"mood": wire.Cell(number=1.0)}},
    ):
        with pytest.raises(grpc.RpcError) as caught:
            ask(address, tls, **question)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_contract_that_is_not_served_here_is_a_failed_precondition(bank):
    _, address, tls, _ = bank
    with connect(address, tls) as channel, pytest.raises(grpc.RpcError) as caught:
        ScoreServiceStub(channel).Score(wire.ScoreRequest(contract="another"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_scoring_without_a_serving_run_can_be_tried_again_later(bank, tmp_path, capsys):
    folder, _, _, _ = bank
    pq.write_table(pa.table({"code": ["known-5"]}), tmp_path / "in.parquet")
    words = ["--in", str(tmp_path / "in.parquet"), "--out", str(tmp_path / "out.parquet")]
    assert command(folder, "score", "--contract", "another", *words) == 6
    assert "no_serving_run" in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()


def test_nobody_without_a_certificate_of_the_banks_own_authority_is_answered(bank, tmp_path):
    _, address, tls, _ = bank
    foreign = open_authority(tmp_path, datetime.now(UTC), create=True)
    stranger = client_identity(foreign, "loans", datetime.now(UTC))
    forged = TlsIdentity(tls.ca_pem, stranger.certificate_pem, stranger.key_pem)
    with pytest.raises(UnavailableError):
        score(address, forged, "", [question_to_wire("known-1", {})])


def test_many_are_answered_in_their_order(bank):
    _, address, tls, _ = bank
    names = [f"known-{number}" for number in range(1234)]
    answers = score(address, tls, "joint-score", [question_to_wire(name, {}) for name in names])
    assert [answer.enterprise for answer in answers] == names


def test_a_batch_that_is_too_large_is_refused(bank):
    _, address, tls, _ = bank
    request = wire.ScoreBatchRequest(questions=[question_to_wire("known-1", {})] * 1001)
    with connect(address, tls) as channel, pytest.raises(grpc.RpcError) as caught:
        list(ScoreServiceStub(channel).ScoreBatch(iter([request]), timeout=10))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_of_applicants_becomes_a_file_of_answers(bank, tmp_path, capsys, suffix):
    folder, _, _, _ = bank
    rows = pa.table({"code": ["known-5", "nobody", "known-6"], "usage_rate": [0.1, 0.2, None]})
    source, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    (pa_csv.write_csv if suffix == ".csv" else pq.write_table)(rows, source)
    assert command(folder, "score", "--in", str(source), "--out", str(out), "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["status"] == {"scored": 2, "withheld": 1}
    assert said["reasons"] == {"unknown_enterprise": 1}
    answers = (pa_csv.read_csv(out) if suffix == ".csv" else pq.read_table(out)).to_pylist()
    assert [row["enterprise"] for row in answers] == ["known-5", "nobody", "known-6"]
    assert [row["own_columns"] for row in answers] == ["given"] * 3
    assert answers[0]["probability"] == pytest.approx(1 / (1 + np.exp(0.5)))
    assert json.loads(answers[1]["coverage"]) == {"tax": False}


def test_answers_are_replaced_only_where_that_is_asked_for(bank, tmp_path, capsys):
    folder, _, _, _ = bank
    out = tmp_path / "out.csv"
    out.write_text("kept")
    pq.write_table(pa.table({"code": ["known-5"]}), tmp_path / "in.parquet")
    words = ["score", "--in", str(tmp_path / "in.parquet"), "--out", str(out)]
    assert command(folder, *words) == 2
    assert "exists already" in capsys.readouterr().err
    assert out.read_text() == "kept"
    assert command(folder, *words, "--force") == 0
    assert "known-5" in out.read_text()


def test_receipts_in_a_file_are_checked_row_by_row(bank, tmp_path, capsys):
    folder, _, _, _ = bank
    out = tmp_path / "out.parquet"
    pq.write_table(pa.table({"code": ["known-5", "nobody", "known-6"]}), tmp_path / "in.parquet")
    assert command(folder, "score", "--in", str(tmp_path / "in.parquet"), "--out", str(out)) == 0
    assert command(folder, "receipts", str(out)) == 0
    assert "all 3 answers" in capsys.readouterr().out
    table = pq.read_table(out)
    raised = table.set_column(table.schema.get_field_index("points"), "points", pa.array([900, None, 500]))
    pq.write_table(raised, out)
    assert command(folder, "receipts", str(out)) == 5
    assert "row 1" in capsys.readouterr().err
    (tmp_path / "other.parquet").write_bytes(b"no parquet")
    assert command(folder, "receipts", str(tmp_path / "other.parquet")) == 3


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"code": ["a", None]}, "row 2"),
        ({"code": ["a", "a"]}, "row 2"),
        ({"name": ["a"]}, "code"),
        ({"code": ["a"], "usage_rate": ["much"]}, "usage_rate"),
    ],
)
def test_wrong_applicants_are_named_and_nothing_is_written(bank, tmp_path, capsys, rows, said):
    folder, _, _, _ = bank
    pq.write_table(pa.table(rows), tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    assert command(folder, "score", "--in", str(tmp_path / "in.parquet"), "--out", str(out)) == 3
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_a_file_of_another_kind_and_a_missing_file_are_named(bank, tmp_path, capsys):
    folder, _, _, _ = bank
    assert command(folder, "score", "--in", str(tmp_path / "in.xlsx"), "--out", str(tmp_path / "o.csv")) == 2
    assert command(folder, "score", "--in", str(tmp_path / "in.csv"), "--out", str(tmp_path / "o.csv")) == 3
    assert "in.csv: expected a file of applicants, found none; correct --in" in capsys.readouterr().err


def test_nothing_is_written_where_nobody_can_be_scored(bank, tmp_path, capsys):
    folder, _, _, holders = bank
    pq.write_table(pa.table({"code": ["known-5"]}), tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    holders.closed = "ended"
    try:
        assert command(folder, "score", "--in", str(tmp_path / "in.parquet"), "--out", str(out)) == 6
    finally:
        holders.closed = ""
    assert "no_serving_run" in capsys.readouterr().err
    assert not out.exists()


def test_a_certificate_for_a_system_is_written_once_and_is_enough(bank, tmp_path):
    folder, address, _, _ = bank
    files = tmp_path / "loans"
    assert command(folder, "score-client", "loans", "--out", str(files)) == 0
    assert {path.stat().st_mode & 0o777 for path in files.iterdir()} == {0o600}
    tls = TlsIdentity(*((files / name).read_bytes() for name in ("ca.pem", "certificate.pem", "key.pem")))
    assert ask(address, tls, enterprise="known-1").status == "scored"
    assert command(folder, "score-client", "loans", "--out", str(files)) == 2


def test_a_taken_port_is_named(bank):
    folder, address, _, _ = bank
    now = datetime.now(UTC)
    authority = open_authority(folder / "state", now, create=False)
    with pytest.raises(UnavailableError, match=r"scoring\.listen"):
        ScoreServer(ScoringDesk(), address, server_identity(authority, ["127.0.0.1"], now))


def test_a_node_without_a_score_service_says_so(bank, tmp_path, capsys):
    folder, *_ = bank
    text = (folder / "node.yaml").read_text(encoding="utf-8").split("scoring:")[0]
    (folder / "silent.yaml").write_text(text, encoding="utf-8")
    words = ["--config", str(folder / "silent.yaml"), "score-client", "x", "--out", str(tmp_path / "x")]
    assert main(words) == 2
    assert "scoring" in capsys.readouterr().err


@pytest.mark.parametrize(
    "bands", ["[{name: a, up_to: 0.5}]", "[{name: a, up_to: 0.5}, {name: b, up_to: 0.4}]"]
)
def test_bands_that_leave_a_gap_are_a_matter_of_configuration(bank, bands):
    folder, *_ = bank
    text = (folder / "node.yaml").read_text(encoding="utf-8")
    start = text.index("  bands:")
    with pytest.raises(ConfigError, match="decision bands"):
        parse_config(text[:start] + f"  bands: {bands}\n", folder / "node.yaml")


def test_an_answer_survives_the_wire(bank):
    _, address, tls, _ = bank
    for name in ("known-1", "nobody"):
        answer = ask(address, tls, enterprise=name)
        assert answer_from_wire(answer_to_wire(answer)) == answer
        assert answer_from_wire(answer_to_wire(answer)).receipt == answer.receipt
    with pytest.raises(ProtocolError):
        answer_from_wire(wire.ScoreAnswer(status="guessed", own_columns="table"))


def test_after_an_own_revocation_no_serving_run_is_to_be_waited_for(tmp_path, capsys):
    pq.write_table(pa.table({"code": ["known-5"]}), tmp_path / "in.parquet")
    words = ["--in", str(tmp_path / "in.parquet"), "--out", str(tmp_path / "out.parquet")]
    with running_bank(tmp_path) as running:
        running.holders.closed = "ended"
        running.state.save_revocation(running.agreed.digest(), b"entry")
        assert command(running.folder, "score", "--contract", "joint-score", *words) == 4
    assert "[contract_revoked]" in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()
