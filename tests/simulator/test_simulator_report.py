"""The validation report of a real run in memory: its figures, its page and what it refuses."""

from __future__ import annotations

import html
import json

import html5lib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from simulation import Simulation, small_economy, split_banks
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from fedshare.errors import ConfigError, ProtocolError
from fedshare_clients.node.data import Table
from fedshare_clients.node.pricing import PricingConfig
from fedshare_clients.node.report import Challenger, build_document, write_report

PRICING = PricingConfig(
    funding=0.02, operation=0.01, loss_given_default=0.4, bands={"city": 0.18, "micro-lender <24 %>": 0.24},
    guarantee={"cover": 0.8, "fee": 0.01},
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    simulation = Simulation(small_economy(), purpose="a test of <markup> & signs", minimum_cohort=20)
    replies = simulation.run()
    assert all(reply["status"] == "ok" for reply in replies.values())
    bank = simulation.platforms["bank"]
    customers = tmp_path_factory.mktemp("run") / "customers.parquet"
    pq.write_table(pa.table(dict(bank.customers)), customers)
    # As it comes back from the file.
    return json.loads(json.dumps(bank.result)), customers, simulation.contract


@pytest.fixture(scope="module")
def document(run):
    return build_document(*run, pricing=PRICING)


@pytest.fixture(scope="module")
def page(document, tmp_path_factory):
    return write_report(document, tmp_path_factory.mktemp("report") / "new")


def held_out(customers):
    table = pq.read_table(customers)
    holdout = table["holdout"].to_numpy(zero_copy_only=False)
    return {name: table[name].to_numpy()[holdout] for name in ("label", "weight", "score", "bank_only")}


def test_figures_are_those_of_scikit_learn_on_the_held_out_customers(run, document):
    rows = held_out(run[1])
    for model, column in (("federated", "score"), ("bank_only", "bank_only")):
        figures, probability = document["models"][model], 1 / (1 + np.exp(-rows[column]))
        assert figures["auc"]["auc"] == pytest.approx(roc_auc_score(rows["label"], rows[column]))
        assert figures["log_loss"] == pytest.approx(log_loss(rows["label"], probability))
        assert figures["brier"]["brier"] == pytest.approx(brier_score_loss(rows["label"], probability))


def test_the_comparison_is_between_the_federated_and_the_banks_own_model(document):
    (test,) = document["comparisons"]
    areas = {name: each["auc"]["auc"] for name, each in document["models"].items()}
    assert test["difference"] == pytest.approx(areas["federated"] - areas["bank_only"])
    assert test["low"] < test["difference"] < test["high"]


def test_no_group_is_smaller_than_the_minimum_cohort(document):
    for model in document["models"].values():
        assert min(grade["customers"] for grade in model["grades"]) >= document["minimum_cohort"]
        assert len(model["roc"]) <= 1 + document["customers"]["holdout"] // document["minimum_cohort"]


def test_the_same_report_again_is_the_same(run, document):
    assert build_document(*run, pricing=PRICING) == document


def test_importance_has_every_own_column_and_the_holders_as_one(run, document):
    assert {part["name"] for part in document["importance"]} == {"utilisation", "all holders together"}
    assert all(part["spread"] > 0 for part in document["importance"])


def test_the_columns_of_the_bank_and_of_the_holders_add_to_the_score_as_two_groups(run, document):
    rows, table = held_out(run[1]), pq.read_table(run[1])
    own = table["own_part"].to_numpy()[table["holdout"].to_numpy(zero_copy_only=False)]
    first, second = document["groups"]
    assert (first["name"], second["name"]) == ("own columns", "registry, tax together")
    assert first["auc_alone"] == pytest.approx(roc_auc_score(rows["label"], own))
    assert first["auc_lost"] == pytest.approx(
        roc_auc_score(rows["label"], rows["score"]) - roc_auc_score(rows["label"], rows["score"] - own)
    )
    assert first["share"] + second["share"] == pytest.approx(1.0)


def test_a_single_holder_is_named_in_the_groups(tmp_path):
    tables = small_economy(600, 900)
    simulation = Simulation({"bank": tables["bank"], "tax": tables["tax"]}, minimum_cohort=20)
    simulation.run()
    assert [each["name"] for each in report_of(simulation, "bank", tmp_path)["groups"]] == [
        "own columns",
        "tax",
    ]


def test_probabilities_that_are_off_are_said_to_be_so_in_words(document, tmp_path):
    off = {**document, "calibration_findings": ["Defaults are more frequent than predicted."]}
    in_order = {**document, "calibration_findings": []}
    said = "The probabilities of the federated model are off."
    assert said in write_report(off, tmp_path / "off").read_text(encoding="utf-8")
    page = write_report(in_order, tmp_path / "in-order").read_text(encoding="utf-8")
    assert said not in page
    assert "Nothing is off in the probabilities" in page


def test_the_triangle_serves_as_many_as_the_answers_say(run, document):
    rows = held_out(run[1])
    terms = PRICING.terms()
    for band in document["triangle"]["bands"]:
        probability = 1 / (1 + np.exp(-rows["score"]))
        within = terms.break_even_rate(probability) <= band["cap"]
        assert band["within_cap"]["federated"]["enterprises"] == within.sum()
        assert band["at_same_loss"]["federated"]["realised_loss"] <= band["loss_rate"] + 1e-9
        assert f"{100 * band['cap']:g} %" in band["sentence"]


def test_the_page_is_valid_html_of_its_own_and_shows_the_figures(page, document):
    text = page.read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(text)
    for outside in ("src=", 'href="http', "@import", "url(http", "<script"):
        assert outside not in text
    assert f"{document['models']['federated']['auc']['auc']:.4f}" in text
    shown = html.unescape(text).replace("\u00a0", " ")
    for band in document["triangle"]["bands"]:
        assert band["sentence"] in shown


def test_every_chart_is_well_formed_and_draws_within_its_frame(page):
    tree = html5lib.parse(page.read_text(encoding="utf-8"), namespaceHTMLElements=False)
    charts = [each for each in tree.iter() if str(each.tag).endswith("svg")]
    assert len(charts) == 6
    for chart in charts:
        assert chart.get("aria-label")
        _, _, width, height = map(float, chart.get("viewBox").split())
        for line in (each for each in chart.iter() if str(each.tag).endswith("polyline")):
            points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
            assert all(0 <= x <= width for x, _ in points)
            assert all(np.isfinite(y) and y <= height for _, y in points)


def test_text_of_the_contract_cannot_become_markup(page):
    text = page.read_text(encoding="utf-8")
    assert "a test of &lt;markup&gt; &amp; signs" in text
    assert "<markup>" not in text
    assert "micro-lender <24" not in text


def test_no_identifier_of_a_customer_is_in_any_file(page, run):
    identifiers = pq.read_table(run[1])["identifier"].to_pylist()
    for file in page.parent.iterdir():
        text = file.read_text(encoding="utf-8")
        assert not any(identifier in text for identifier in identifiers)
        assert file.stat().st_mode & 0o077 == 0


def test_the_model_card_has_every_section(page):
    card = (page.parent / "model-card.md").read_text(encoding="utf-8")
    for heading in (
        "# Model card",
        "## Performance",
        "## Scale, cost and quality",
        "## Lineage",
        "## Limits",
    ):
        assert heading in card
    assert "| bank | label holder | utilisation |" in card


def test_a_report_without_prices_has_no_triangle(run, tmp_path):
    document = build_document(*run)
    assert document["triangle"] is None
    assert 'id="triangle"' not in write_report(document, tmp_path).read_text(encoding="utf-8")


def test_a_challenger_is_compared_on_the_same_customers(run, tmp_path):
    table = pq.read_table(run[1])
    path = tmp_path / "old-scores.parquet"
    noise = np.random.default_rng(1).normal(0, 1, len(table))
    pq.write_table(
        pa.table(
            {"identifier": table["identifier"][::-1], "score": (table["score"].to_numpy() + noise)[::-1]}
        ),
        path,
    )
    document = build_document(*run, challenger=Challenger("old-scores", path))
    assert [test["second"] for test in document["comparisons"]] == ["bank_only", "old-scores"]
    assert document["comparisons"][1]["difference"] > 0
    write_report(document, tmp_path / "report")


def test_a_challenger_that_lacks_a_customer_is_refused(run, tmp_path):
    path = tmp_path / "part.parquet"
    pq.write_table(pq.read_table(run[1]).slice(1), path)
    with pytest.raises(ConfigError, match="has no score for 1 of"):
        build_document(*run, challenger=Challenger("part", path))


def test_an_altered_result_is_refused(run):
    result, customers, contract = run
    with pytest.raises(ProtocolError):
        build_document({**result, "iterations": result["iterations"] + 1}, customers, contract)


def test_the_result_of_another_contract_is_refused(run):
    result, customers, contract = run
    with pytest.raises(ConfigError, match="under this contract"):
        build_document(result, customers, contract.model_copy(update={"purpose": "another"}))


def test_a_missing_customer_file_is_named(run, tmp_path):
    result, _, contract = run
    with pytest.raises(ConfigError, match=r"gone\.parquet"):
        build_document(result, tmp_path / "gone.parquet", contract)


def test_a_bank_without_columns_of_its_own_has_a_report_too(tmp_path):
    tables = small_economy()
    bank = tables["bank"]
    simulation = Simulation(
        {**tables, "bank": Table("bank", bank.identifiers, {}, bank.label)}, minimum_cohort=20
    )
    simulation.run()
    platform, path = simulation.platforms["bank"], tmp_path / "customers.parquet"
    pq.write_table(pa.table(dict(platform.customers)), path)
    document = build_document(
        json.loads(json.dumps(platform.result)), path, simulation.contract, pricing=PRICING
    )
    assert document["models"]["bank_only"]["auc"]["auc"] == pytest.approx(0.5)
    assert document["models"]["bank_only"]["calibration"] is None
    assert document["stability"]["bank_only"] is None
    assert document["scorecard"]["columns"] == []
    html5lib.HTMLParser(strict=True).parse(
        write_report(document, tmp_path / "report").read_text(encoding="utf-8")
    )


def report_of(simulation, bank, folder):
    platform, path = simulation.platforms[bank], folder / f"{bank}.parquet"
    pq.write_table(pa.table(dict(platform.customers)), path)
    return build_document(json.loads(json.dumps(platform.result)), path, simulation.contract, pricing=PRICING)


def test_figures_over_all_banks_are_the_same_at_every_bank_and_bound_the_pooled_ones(tmp_path):
    tables = split_banks(small_economy(), (0.5, 0.3, 0.2))
    for name in ("bank-a", "bank-b", "bank-c"):
        # The second bank has one branch only.
        branch = np.arange(len(tables[name])) % 2.0 * (name != "bank-b")
        bank = tables[name]
        tables[name] = Table(name, bank.identifiers, {**bank.columns, "branch": branch}, bank.label)
    simulation = Simulation(tables, minimum_cohort=15, receive_timeout_seconds=60.0)
    assert {reply["status"] for reply in simulation.run().values()} == {"ok"}
    banks = [bank.id for bank in simulation.contract.banks()]
    first, *others = [report_of(simulation, bank, tmp_path) for bank in banks]
    assert first["all_banks"]["banks"] == 3
    left_out = "The bank's own model has no branch: of its own customers no two bins have 15 each."
    assert [left_out in each["limits"] for each in (first, *others)] == [False, True, False]
    assert all(each["all_banks"] == first["all_banks"] for each in others)
    for name, column in (("federated", "score"), ("bank_only", "bank_only")):
        edges = simulation.platforms[banks[0]].result["all_banks"][name]["histogram"]["upper"]
        rows = [held_out(tmp_path / f"{bank}.parquet")[column] for bank in banks]
        counts = np.array(
            [np.bincount(np.searchsorted(edges, each), minlength=len(edges) + 1) for each in rows]
        )
        left = counts.sum(axis=0) - counts  # what remains when a bank subtracts its own part
        assert counts.sum(axis=0).min() >= 15
        assert ((left == 0) | (left >= 15)).all()
    pooled = [held_out(tmp_path / f"{bank}.parquet") for bank in banks]
    labels, scores = (np.concatenate([rows[name] for rows in pooled]) for name in ("label", "score"))
    area = first["all_banks"]["models"]["federated"]["auc"]
    assert area["low"] <= roc_auc_score(labels, scores) <= area["high"]
    (band, _) = first["all_banks"]["triangle"]["bands"]
    assert "the banks' own" in band["sentence"]
    within = PRICING.terms().break_even_rate(1 / (1 + np.exp(-scores))) <= band["cap"]
    # Groups of scores count as a whole, and those of two banks' minimum cohort are wide.
    assert 0.5 * within.sum() <= band["within_cap"]["federated"]["enterprises"] <= within.sum()
    page = write_report(first, tmp_path / "report").read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(page)
    assert "All 3 banks together" in page


def test_the_report_of_a_private_network_says_what_it_is_and_what_was_spent(tmp_path):
    tables = split_banks(small_economy(600, 700), (0.4, 0.3, 0.3))
    simulation = Simulation(
        {party: table for party, table in tables.items() if party.startswith("bank")},
        bank_model={"kind": "mlp", "settings": {"hidden": 8}, "rounds": 2},
        privacy={
            "labels": {"epsilon": 3.0},
            "network": {
                "epsilon": 4.0,
                "delta": 1e-5,
                "sample_rate": 0.2,
                "lot_size": 80,
                "ranges": {"utilisation": [-2.0, 2.0]},
            },
        },
        outputs={"coordinator_metrics": False},
    )
    assert all(reply["status"] == "ok" for reply in simulation.run().values())
    bank = simulation.platforms["bank-a"]
    pq.write_table(pa.table(dict(bank.customers)), tmp_path / "customers.parquet")
    document = build_document(bank.result, tmp_path / "customers.parquet", simulation.contract)
    text = write_report(document, tmp_path / "report").read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(text)
    card = (tmp_path / "report" / "model-card.md").read_text(encoding="utf-8")
    assert (
        "Network mlp on the banks' columns, trained across banks by fedavg; every bank keeps all of it. 2 rounds."
        in card
    )
    assert "Scorecard" not in card
    for page in (text, card):
        assert "ε 3 by this run" in page
        assert "ε 4, δ 1e-05 of ε 10, δ 0.0001 by all runs of this bank" in page
    assert [part["name"] for part in document["importance"]] == ["own columns, network"]
