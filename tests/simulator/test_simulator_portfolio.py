"""The portfolio of several banks: the sums of all customers, nothing about few of them, run after run."""

from __future__ import annotations

import json
from typing import Any

import html5lib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from simulation import Simulation, assert_ended, small_economy, split_banks

from fedshare.contract.model import parse_contract
from fedshare.errors import ConfigError, DataError
from fedshare_clients.node.bank_portfolio import memory_name
from fedshare_clients.node.bank_sums import BankSums
from fedshare_clients.node.data import Table
from fedshare_clients.node.report import build_document, write_report

INDUSTRIES, REGIONS = ("food", "retail", "mining"), ("north", "south")
TERMS: dict[str, Any] = {
    "portfolio": {"industries": INDUSTRIES, "regions": REGIONS, "single_name_limit": 0.05},
    "minimum_cohort": 15,
    "model": {"max_iterations": 2, "tolerance": 1e-9},
    "max_runs": 5,
}


def described(table, mining=40, seed=0):
    """Return the table with exposures, industries (a thin one of them ``mining`` customers) and regions."""
    draw = np.random.default_rng(seed)
    count = len(table)
    industry = np.array(["food", "retail", "unheard of"], dtype=object)[draw.integers(0, 3, count)]
    industry[:mining] = "mining"
    region = np.array(["north", "south"], dtype=object)[draw.integers(0, 2, count)]
    exposure = draw.lognormal(11, 0.6, count).round()
    columns = {"exposure": exposure, "industry": industry, "region": region}
    return Table(table.source, table.identifiers, columns, table.label)


def federation(mining=40, **settings):
    tables = split_banks(small_economy(900, 1200), (0.4, 0.35, 0.25))
    tables = {
        name: described(table, mining, seed) if name.startswith("bank") else table
        for seed, (name, table) in enumerate(tables.items())
    }
    columns = {"industry": {"categories": list(INDUSTRIES)}, "region": {"categories": list(REGIONS)}}
    return Simulation(tables, columns=columns, receive_timeout_seconds=60.0, **{**TERMS, **settings})


def banks_of(simulation):
    return [simulation.platforms[bank.id] for bank in simulation.contract.banks()]


def portfolio(simulation, run_id=1):
    assert {reply["status"] for reply in simulation.run(run_id).values()} == {"ok"}
    first, *others = [platform.results[run_id]["portfolio"] for platform in banks_of(simulation)]
    shared = {name: value for name, value in first.items() if name != "own_names_over_limit"}
    for each in others:
        assert {name: value for name, value in each.items() if name != "own_names_over_limit"} == shared
    return shared


def all_customers(simulation):
    """Return exposure, industry and default probability of every aligned customer of every bank."""
    rows = []
    for platform in banks_of(simulation):
        kept = platform.table.rows([each.encode() for each in platform.customers["identifier"]])
        pd = 1 / (1 + np.exp(-np.asarray(platform.customers["score"])))
        rows += list(zip(kept.column("exposure"), kept.column("industry"), pd, strict=True))
    return [np.array(part) for part in zip(*rows, strict=True)]


def test_every_bank_gets_the_sums_over_all_customers():
    simulation = federation()
    found = portfolio(simulation)
    exposure, industry, pd = all_customers(simulation)
    assert found["exposure"] == pytest.approx(exposure.sum())
    assert found["expected_loss"] == pytest.approx((exposure * pd * 0.4).sum())
    by_name = {cell["name"]: cell for cell in found["tables"]["industry"]["cells"]}
    assert set(by_name) == {"food", "retail", "mining", "other"}
    for name in INDUSTRIES:
        assert by_name[name]["exposure"] == pytest.approx(exposure[industry == name].sum())
        assert by_name[name]["customers"] == (industry == name).sum()
    assert found["tables"]["industry"]["rest"] is None


def test_a_thin_industry_is_hidden_in_company_and_a_name_above_the_limit_is_known_to_its_bank():
    simulation = federation(mining=4)
    platform = banks_of(simulation)[0]
    platform.table.columns["exposure"][50] = platform.table.columns["exposure"].sum()
    table = portfolio(simulation)["tables"]["industry"]
    assert "mining" not in {cell["name"] for cell in table["cells"]}
    assert table["rest"]["customers"] >= 15
    assert len(table["cells"]) == 2
    assert table["hhi_low"] < table["hhi_high"]
    own = [each.results[1]["portfolio"]["own_names_over_limit"] for each in banks_of(simulation)]
    assert [len(names) for names in own] == [1, 0, 0]


def test_no_bank_can_subtract_its_own_part_and_be_left_with_few_customers():
    # Some 49 customers in mining, well above the minimum cohort of 15, but 40 of them are one bank's.
    simulation = federation()
    for platform, mining in zip(banks_of(simulation), (40, 9, 0), strict=True):
        industry = platform.table.columns["industry"]
        industry[industry == "mining"] = "retail"
        industry[:mining] = "mining"
    found = portfolio(simulation)
    assert "mining" not in {cell["name"] for cell in found["tables"]["industry"]["cells"]}
    for own in banks_of(simulation):
        others = [platform for platform in banks_of(simulation) if platform is not own]
        aligned = [
            platform.table.rows([each.encode() for each in platform.customers["identifier"]])
            for platform in others
        ]
        for table in found["tables"].values():
            names = {cell["name"] for cell in table["cells"]}
            dimension = "industry" if names & {*INDUSTRIES, "other"} - {"other"} else "region"
            listed = INDUSTRIES if dimension == "industry" else REGIONS
            values = np.concatenate([each.column(dimension) for each in aligned])
            values = np.array([value if value in listed else "other" for value in values])
            counts = [np.sum(values == name) for name in names] + [np.sum(~np.isin(values, list(names)))]
            assert all(count == 0 or count >= 15 for count in counts)


def exposures(found):
    return {
        cell["name"]: (cell["customers"], cell["exposure"]) for cell in found["tables"]["industry"]["cells"]
    }


def test_a_second_run_about_the_same_customers_answers_the_same():
    simulation = federation()
    first, second = (portfolio(simulation, run)["tables"]["industry"]["cells"] for run in (1, 2))
    for again, before in zip(second, first, strict=True):
        # Two models of the same customers differ by the noise of the sealed products.
        assert again == {**before, "expected_loss": pytest.approx(before["expected_loss"], rel=1e-5)}


def test_one_changed_exposure_is_not_shown_by_comparison():
    simulation = federation()
    portfolio(simulation)
    banks_of(simulation)[1].table.columns["exposure"][100] += 5000.0
    assert portfolio(simulation, 2) == {"withheld": True}


def test_many_changed_exposures_are_shown():
    simulation = federation()
    first = portfolio(simulation)
    for platform in banks_of(simulation):
        platform.table.columns["exposure"] *= 1.1
    assert portfolio(simulation, 2)["exposure"] == pytest.approx(1.1 * first["exposure"])


def test_answers_are_remembered_for_the_same_banks_whatever_the_contract():
    simulation = federation()
    document = simulation.contract.model_dump(mode="json")
    another = parse_contract({**document, "nonce": "33" * 32})
    witnesses = {name: key for name, key in document["log"]["witnesses"].items() if name != "bank-c"}
    fewer = parse_contract(
        {
            **document,
            "parties": [party for party in document["parties"] if party["id"] != "bank-c"],
            "log": {**document["log"], "witnesses": witnesses, "quorum": len(witnesses)},
            "between_banks": {"accept_two": True},
        }
    )
    assert another.digest() != simulation.contract.digest()
    assert memory_name(another) == memory_name(simulation.contract)
    assert memory_name(fewer) != memory_name(simulation.contract)


def test_the_same_banks_cannot_change_the_tables():
    simulation = federation()
    portfolio(simulation)
    terms = {"industries": ["food", "mining"], "regions": REGIONS}
    simulation.contract = parse_contract({**simulation.contract.model_dump(mode="json"), "portfolio": terms})
    simulation.sign(simulation.contract)
    replies = simulation.run(2)
    assert {replies[bank.party]["code"] for bank in banks_of(simulation)} == {"portfolio_differs"}


def test_customers_that_change_places_do_not_hide_one_that_is_new():
    # 40 customers each of two industries swap them: both tables would change a lot, and their sum by one customer.
    simulation = federation(minimum_cohort=15)
    first = portfolio(simulation)
    for platform in banks_of(simulation):
        industry = platform.table.columns["industry"]
        food, retail = (np.flatnonzero(industry == name)[:40] for name in ("food", "retail"))
        industry[food], industry[retail] = "retail", "food"
    assert exposures(portfolio(simulation, 2)) == exposures(first)


def test_no_bank_can_work_out_the_largest_name_of_the_others(monkeypatch):
    summed = []
    total = BankSums.total

    def watched(sums, channel, step, values, bits):
        summed.append(step)
        return total(sums, channel, step, values, bits)

    monkeypatch.setattr(BankSums, "total", watched)
    simulation = federation()
    platform = banks_of(simulation)[1]
    platform.table.columns["exposure"][np.argmax(platform.table.columns["exposure"])] = 2.345678e8
    found = portfolio(simulation)
    of_portfolio = {step for step in summed if "portfolio" in step or "names" in step}
    assert of_portfolio == {
        "customers of the portfolio",
        "objections to cells of the portfolio",
        "amounts of the portfolio",
    }
    assert not {"name_hhi", "names_over_limit"} & set(found)
    # The others' sum in a cell is about the minimum cohort of them or more.
    assert all(cell["customers"] >= 15 for cell in found["tables"]["industry"]["cells"])


def test_holdings_are_remembered_before_any_amount_leaves(monkeypatch):
    simulation = federation()
    platform = banks_of(simulation)[2]

    def full_disk(answer):
        raise DataError("the disk is full")

    monkeypatch.setattr(platform, "remember", full_disk)
    assert_ended(simulation, simulation.run())


def test_impossible_amounts_end_the_run_before_anything_is_computed():
    simulation = federation()
    platform = banks_of(simulation)[1]
    platform.table.columns["exposure"][7] = -1.0
    assert_ended(simulation, simulation.run(until="hello"))
    assert "row 8, field exposure: expected exposures from 0" in str(platform.failure)
    assert simulation.exchange.crossed == []


def test_a_portfolio_beside_network_privacy_is_refused():
    with pytest.raises(ConfigError, match=r"privacy\.network does not go with .*portfolio"):
        federation(
            bank_model={"kind": "logistic"},
            privacy={
                "network": {
                    "epsilon": 1.0,
                    "delta": 1e-6,
                    "sample_rate": 0.1,
                    "lot_size": 60,
                    "ranges": {"exposure": [0.0, 1e6]},
                }
            },
        )


def test_the_report_shows_the_portfolio_and_no_name(tmp_path):
    simulation = federation(mining=4)
    platform = banks_of(simulation)[0]
    platform.table.columns["exposure"][50] = platform.table.columns["exposure"].sum()
    portfolio(simulation)
    path = tmp_path / "customers.parquet"
    pq.write_table(pa.table(dict(platform.customers)), path)
    result = json.loads(json.dumps(platform.results[1]))
    (name,) = result["portfolio"]["own_names_over_limit"]
    page = write_report(build_document(result, path, simulation.contract), tmp_path / "report")
    text = page.read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(text)
    assert "not shown apart" in text
    assert "HHI between" in text
    assert all(name not in file.read_text(encoding="utf-8") for file in page.parent.iterdir())
