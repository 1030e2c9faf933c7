"""A database that cannot be reached, refuses, or is asked to write."""

from __future__ import annotations

import pytest
from adbc_driver_postgresql import dbapi
from node_rows import settings

from fedshare.errors import ConfigError, DataError, UnavailableError
from fedshare_clients.node.data import inspect, load


def execute(url, *statements):
    with dbapi.connect(url) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        connection.commit()


@pytest.fixture
def customers(postgres_url):
    execute(
        postgres_url,
        "DROP TABLE IF EXISTS customers CASCADE",
        "CREATE TABLE customers "
        "(code text, sales numeric(12,2), grade text, bad boolean, exposure real, note text)",
        "INSERT INTO customers VALUES ('a1', 1.25, 'A', false, 1, 'x'), ('a2', NULL, 'B', true, 2, 'y')",
    )
    return postgres_url


def table_settings(tmp_path, url, **changes):
    return settings(tmp_path, {"source": "postgresql", "url": url, "table": "customers"} | changes)


def test_numeric_and_boolean_columns_are_read_as_numbers(tmp_path, customers):
    table = load(table_settings(tmp_path, customers, columns={"sales": {"kind": "numeric"}}))
    assert table.column("sales")[0] == 1.25
    assert table.label.tolist() == [0, 1]


def test_a_query_is_read(tmp_path, customers):
    query = "SELECT code, sales * 2 AS sales, grade, bad, exposure FROM customers ORDER BY code;"
    table = load(table_settings(tmp_path, customers, table=None, query=query))
    assert table.column("turnover")[0] == 2.5


def test_the_url_may_come_from_the_environment(tmp_path, customers, monkeypatch):
    config = table_settings(tmp_path, None, url_env="TEST_DATABASE_URL")
    with pytest.raises(ConfigError, match="TEST_DATABASE_URL"):
        load(config)
    monkeypatch.setenv("TEST_DATABASE_URL", customers)
    assert len(load(config)) == 2


def test_a_query_that_writes_is_refused_and_writes_nothing(tmp_path, customers):
    execute(
        customers,
        "CREATE OR REPLACE FUNCTION wipe() RETURNS SETOF customers "
        "AS 'DELETE FROM customers RETURNING *' LANGUAGE sql",
    )
    with pytest.raises(DataError, match="the node only reads"):
        load(table_settings(tmp_path, customers, table=None, query="SELECT * FROM wipe()"))
    assert len(load(table_settings(tmp_path, customers))) == 2


def test_a_second_statement_in_a_query_is_refused(tmp_path, customers):
    with pytest.raises(DataError):
        load(
            table_settings(tmp_path, customers, table=None, query="SELECT 1) AS x; DELETE FROM customers; --")
        )
    assert len(load(table_settings(tmp_path, customers))) == 2


def test_a_table_that_is_not_there_is_refused(tmp_path, customers):
    with pytest.raises(DataError, match="existing table"):
        load(table_settings(tmp_path, customers, table="nowhere.customers"))


def test_a_table_without_select_permission_is_refused(tmp_path, customers):
    execute(customers, "DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN")
    with pytest.raises(DataError, match="grant the node's role SELECT"):
        load(table_settings(tmp_path, customers.replace("fedshare@", "reader@")))


def test_a_role_that_is_not_there_is_refused(tmp_path, customers):
    with pytest.raises(DataError, match="no such database or role"):
        load(table_settings(tmp_path, customers.replace("fedshare@", "nobody@")))


def test_an_unreachable_database_is_unavailable_and_the_password_is_not_shown(tmp_path, free_port):
    config = table_settings(tmp_path, f"postgresql://reader:hunter2@127.0.0.1:{free_port}/credit")
    with pytest.raises(UnavailableError, match=f"127.0.0.1:{free_port} cannot be reached") as caught:
        load(config)
    assert "hunter2" not in f"{caught.value} {config!r}"
    assert isinstance(inspect(config).problems[0], UnavailableError)


def test_a_url_of_another_kind_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match="postgresql://"):
        load(table_settings(tmp_path, "mysql://somewhere/credit"))


def test_an_error_in_the_middle_of_a_query_does_not_show_the_cell(tmp_path, customers):
    query = "SELECT code, note::integer AS sales, grade, bad, exposure FROM customers"
    with pytest.raises(DataError) as caught:
        load(table_settings(tmp_path, customers, table=None, query=query))
    assert "run the query by hand" in str(caught.value) or "22P02" in str(caught.value)
    assert '"x"' not in str(caught.value)
