"""Rows become flat tables."""

import csv
import io

import pytest

from headwater_firmware_sim.output.parquet import write_parquet
from headwater_firmware_sim.output.tables import TABLES, make_table
from tests.support.run_results import make_result


def read_csv(table):
    stream = io.BytesIO()
    table.write_csv(stream)
    return list(csv.DictReader(io.StringIO(stream.getvalue().decode())))


@pytest.mark.parametrize("name", sorted(TABLES))
def test_csv_has_a_line_for_each_row_and_the_types_of_the_rows(name):
    table = make_table(make_result(), name)
    rows = read_csv(table)
    assert len(rows) == len(table.rows) > 0
    for row, cells in zip(rows, table.to_dicts(), strict=True):
        assert row == {key: "" if cell is None else str(cell) for key, cell in cells.items()}
    for cells in table.to_dicts():
        for column in table.columns:
            assert cells[column.name] is None or type(cells[column.name]) is column.type


def test_each_reason_has_a_column_and_they_sum_to_the_total():
    result = make_result(devices=80)
    rows = make_table(result, "rounds").to_dicts()
    reasons = [name for name in rows[0] if name.startswith("rejected_")]
    assert reasons == ["rejected_low_score", "rejected_stale_round"]
    for row, entry in zip(rows, result.rounds, strict=True):
        assert row["rejected"] == sum(row[name] for name in reasons)
        assert row["rejected"] == sum(entry.rejected.values())


def test_a_table_without_rows_still_has_its_columns():
    table = make_table(make_result(rounds=0, with_faults=False), "faults")
    assert read_csv(table) == []
    assert [column.name for column in table.columns][:2] == ["kind", "from_ms"]


@pytest.mark.study
@pytest.mark.parametrize("name", sorted(TABLES))
@pytest.mark.parametrize("rounds", [0, 3])
def test_parquet_has_the_same_rows(name, rounds, tmp_path):
    import pyarrow.parquet

    table = make_table(make_result(rounds=rounds, with_faults=bool(rounds)), name)
    with (tmp_path / "a.parquet").open("wb") as stream:
        write_parquet(table, stream)
    read = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert read.to_pylist() == table.to_dicts()
    assert "null" not in {str(kind) for kind in read.schema.types}
