"""CSV and Parquet files that cannot be read as they are, and what the error says to do."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from node_rows import good_rows, settings

from fedshare.errors import ConfigError, DataError
from fedshare_clients.node.data import load
from fedshare_clients.node.data.loading import roster_digest

HEADER = b"code,sales,grade,bad,exposure\n"
ROWS = b"a1,1,A,0,1\na2,2,B,1,1\n"


def csv_settings(tmp_path, content, **changes):
    (tmp_path / "rows.csv").write_bytes(content)
    return settings(tmp_path, {"source": "csv", "path": "rows.csv", **changes})


def parquet_settings(tmp_path, rows, **changes):
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    return settings(tmp_path, {"source": "parquet", "path": "rows.parquet"}, **changes)


def refused(config):
    with pytest.raises(DataError) as caught:
        load(config)
    assert caught.value.party == "bank-a"
    assert caught.value.source
    return caught.value


def test_identifiers_in_a_csv_keep_their_leading_zeros(tmp_path):
    table = load(csv_settings(tmp_path, HEADER + b"001,1,A,0,1\n0020,2,B,1,1\n"))
    assert table.identifiers == [b"001", b"0020"]


def test_a_byte_order_mark_is_not_part_of_the_header(tmp_path):
    assert len(load(csv_settings(tmp_path, b"\xef\xbb\xbf" + HEADER + ROWS))) == 2


def test_a_quoted_cell_may_hold_delimiters_and_line_ends(tmp_path):
    table = load(csv_settings(tmp_path, HEADER + ROWS + b'a3,3,"x,\ny",0,1\n'))
    assert table.column("grade").tolist() == ["A", "B", "x,\ny"]


def test_a_row_with_too_few_cells_is_refused_by_its_number(tmp_path):
    error = refused(csv_settings(tmp_path, HEADER + ROWS + b"a3,3\na4,3\n"))
    assert error.row == 3
    assert "expected 5 cells as in the header, found 2 (and 1 more" in str(error)


def test_bytes_that_are_not_utf_8_are_refused_with_the_likely_encoding(tmp_path):
    error = refused(csv_settings(tmp_path, HEADER + ROWS + "a3,3,制造业,0,1\n".encode("gb18030")))
    assert (error.row, error.field) == (3, "grade")
    assert "gb18030" in str(error)


def test_a_declared_encoding_is_read(tmp_path):
    content = (HEADER + ROWS).decode() + "a3,3,制造业,0,1\n"
    table = load(csv_settings(tmp_path, content.encode("gb18030"), encoding="gb18030"))
    assert table.column("grade").tolist()[2] == "制造业"


def test_bytes_that_are_not_in_the_declared_encoding_are_refused(tmp_path):
    content = HEADER + ROWS + b"a3,3,\xff\xff,0,1\n"
    assert "gb18030" in str(refused(csv_settings(tmp_path, content, encoding="gb18030")))


def test_an_unknown_encoding_is_refused(tmp_path):
    assert "klingon" in str(refused(csv_settings(tmp_path, HEADER + ROWS, encoding="klingon")))


def test_an_empty_csv_file_is_refused(tmp_path):
    assert "empty file" in str(refused(csv_settings(tmp_path, b"")))


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    error = refused(csv_settings(tmp_path, b"code,sales,grade,bad,exposure,sales\na1,1,A,0,1,2\n"))
    assert "found 2" in str(error)
    assert error.field == "sales"


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert "no such file" in str(refused(settings(tmp_path, {"source": "csv", "path": "none.csv"})))
    assert "no such file" in str(refused(settings(tmp_path, {"source": "parquet", "path": "none.parquet"})))


def test_a_folder_instead_of_a_file_is_refused(tmp_path):
    refused(settings(tmp_path, {"source": "csv", "path": "."}))
    refused(settings(tmp_path, {"source": "parquet", "path": "."}))


@pytest.mark.parametrize("module", ["csv_file.csv.open_csv", "parquet_file.pq.ParquetFile"])
def test_a_file_without_read_permission_is_refused(tmp_path, monkeypatch, module):
    def deny(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    # Simulated: the tests may run as root, whom no file mode stops.
    name, _, attribute = module.rpartition(".")
    kind, _, library = name.partition(".")
    target = __import__(f"fedshare_clients.node.data.{kind}", fromlist=[library])
    monkeypatch.setattr(getattr(target, library), attribute, deny)
    source = "csv" if kind == "csv_file" else "parquet"
    assert "permission denied" in str(refused(settings(tmp_path, {"source": source, "path": "rows"})))


def test_a_file_that_is_not_parquet_is_refused(tmp_path):
    (tmp_path / "rows.parquet").write_bytes(HEADER + ROWS)
    error = refused(settings(tmp_path, {"source": "parquet", "path": "rows.parquet"}))
    assert "expected a Parquet file" in str(error)


def test_a_damaged_parquet_file_is_refused(tmp_path):
    config = parquet_settings(tmp_path, good_rows())
    content = (tmp_path / "rows.parquet").read_bytes()
    (tmp_path / "rows.parquet").write_bytes(
        content[:4] + bytes(len(content) // 3) + content[len(content) // 3 + 4 :]
    )
    refused(config)


def test_dates_in_a_numeric_column_are_refused(tmp_path):
    rows = good_rows() | {"sales": [dt.date(2025, 1, day) for day in (1, 2, 3, 4)]}
    assert "found dates" in str(refused(parquet_settings(tmp_path, rows)))


def test_floating_point_identifiers_are_refused_because_digits_may_be_lost(tmp_path):
    rows = good_rows() | {"code": [1.0, 2.0, 3.0, 4.0]}
    assert "floating-point" in str(refused(parquet_settings(tmp_path, rows)))


def test_whole_numbers_and_dictionaries_are_categories(tmp_path):
    rows = good_rows() | {"grade": pa.array(["A", None, "B", "A"]).dictionary_encode()}
    assert load(parquet_settings(tmp_path, rows)).column("grade").tolist() == ["A", None, "B", "A"]
    rows["grade"] = [3, 1, None, 3]
    assert load(parquet_settings(tmp_path, rows)).column("grade").tolist() == ["3", "1", None, "3"]


def holder_settings(tmp_path, roster):
    (tmp_path / "roster.txt").write_text(roster, encoding="utf-8")
    config = parquet_settings(tmp_path, good_rows())
    data = config.data.model_copy(update={"label": None, "weight": None, "roster": tmp_path / "roster.txt"})
    return config.model_copy(update={"role": "feature_holder", "data": data})


def test_a_roster_adds_rows_without_values_for_enterprises_that_the_holder_lacks(tmp_path):
    table = load(holder_settings(tmp_path, "a9\na2\n\na8\n"))
    assert table.identifiers == [b"a1", b"a2", b"a3", b"a4", b"a9", b"a8"]
    assert str(table.column("turnover")[4:].tolist()) == "[nan, nan]"
    assert table.column("grade")[4:].tolist() == [None, None]


def test_a_code_that_is_on_the_roster_twice_is_refused(tmp_path):
    error = refused(holder_settings(tmp_path, "a9\na9\n"))
    assert error.source.endswith("roster.txt")


def test_a_roster_that_is_not_there_is_refused(tmp_path):
    config = holder_settings(tmp_path, "a9\n")
    (tmp_path / "roster.txt").unlink()
    refused(config)


def test_the_roster_digest_is_what_sha256sum_prints(tmp_path):
    holder_settings(tmp_path, "abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2 appendix B.1
    assert roster_digest(tmp_path / "roster.txt", party="tax") == expected


def test_a_file_source_without_a_path_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match="needs a path"):
        settings(tmp_path, {"source": "csv"})
