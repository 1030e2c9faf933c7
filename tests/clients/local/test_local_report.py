"""The page of a whole run: valid, of its own, and drawn even where a figure is missing."""

from __future__ import annotations

import html5lib

from fedshare_clients.local.report import write_report


def report(**changes):
    metrics = {"auc": 0.6, "ks": 0.2}
    return {
        "experiment": "small",
        "run_id": 1,
        "contract_digest": "ab" * 32,
        "parties": {"bank": "label_holder", "tax": "feature_holder"},
        "rows": {"bank": 100, "tax": 200, "aligned": 90, "training": 60, "holdout": 30},
        "coverage": {"tax": 0.9},
        "bins": {"bank": 4, "tax": 5},
        "iterations": 2,
        "history": [{"loss": 0.5, "holdout_loss": 0.6}, {"loss": 0.4, "holdout_loss": 0.5}],
        "seconds": {"hello": 0.1, "train": 2.0, "total": 9.0},
        "bytes": {"bank": {"sent": 1, "received": 2}, "tax": {"sent": 3, "received": 10**7}},
        "banks": {"bank": {"bank_only": metrics, "federated": metrics}},
        "privacy": {},
        "auc": {"bank_only": 0.6, "federated": 0.7, "pooled": 0.7},
        "ks": {"bank_only": 0.2, "federated": 0.3, "pooled": 0.3},
        "validation": {"bank": "bank/report/report.html"},
        **changes,
    }


def page(folder, **changes):
    write_report(report(**changes), folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(text)
    return text


def test_the_page_is_valid_and_has_its_four_charts(tmp_path):
    text = page(tmp_path)
    assert text.count("<svg") == 4
    assert "src=" not in text


def test_the_seconds_of_the_chart_add_up_to_the_whole(tmp_path):
    text = page(tmp_path)
    assert "set-up, signing, reports" in text
    assert ">6.9<" in text
    assert "together 9.0" in text


def test_scores_are_counted_by_status_with_the_reasons(tmp_path):
    counts = {
        "answers": 1200,
        "status": {"scored": 1190, "withheld": 10},
        "reasons": {"unknown_enterprise": 10},
    }
    text = page(tmp_path, scores={"bank": {**counts, "seconds": 3.14}})
    row = "".join(text[text.index("<h2>Scores") :].split())
    cells = "".join(
        f"<td>{each}</td>" for each in ("1,200", "1,190", "0", "10", "unknown_enterprise:10", "3.1")
    )
    assert cells in row


def test_a_loss_that_was_not_measured_is_left_out_of_the_chart(tmp_path):
    text = page(tmp_path, history=[{"loss": 0.5, "holdout_loss": None}, {"loss": 0.4, "holdout_loss": None}])
    assert ">training<" in text
    assert ">held out<" not in text


def test_a_history_without_any_loss_is_no_obstacle(tmp_path):
    page(tmp_path, history=[{"loss": None, "holdout_loss": None}])


def test_the_page_says_what_each_bank_has_spent_of_its_privacy_budget(tmp_path):
    spent = {"epsilon": 3.0, "delta": 1e-5}
    amount = {**spent, "spent": {"epsilon": 6.0, "delta": 2e-5}, "limit": {"epsilon": 10.0, "delta": 1e-4}}
    labels = {"epsilon": 2.0, "delta": 0.0}
    text = page(
        tmp_path,
        privacy={"bank": {"network": amount, "labels": {**labels, "spent": labels, "limit": labels}}},
    )
    assert "<td>network</td><td>ε 3, δ 1e-05</td><td>ε 6, δ 2e-05</td><td>ε 10, δ 0.0001</td>" in text
    assert "<td>labels</td><td>ε 2</td><td>ε 2</td><td>ε 2</td>" in text
    assert "Privacy spent" not in page(tmp_path)


def test_banks_alone_have_rounds_and_no_columns_of_others(tmp_path):
    text = page(tmp_path, parties={"bank": "label_holder"}, coverage={})
    assert "With one network of all banks" in text
    assert "after 2 rounds" in text
    assert ">round<" in text


def test_the_page_says_without_which_bank_the_run_went_on(tmp_path):
    assert "went on without bank-c, bank-d, lost on the way" in page(
        tmp_path, lost_banks=["bank-c", "bank-d"]
    )
    assert "lost on the way" not in page(tmp_path)
