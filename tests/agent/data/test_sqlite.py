"""A query of somebody else's database: read only, run again when it changed."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from headwater_agent.data.pool import NoExamples
from headwater_protocol.errors import ConfigError
from tests.agent.data.support import make

QUERY = "SELECT power, voltage, state FROM reading ORDER BY id"


def write(path: Path, *rows: tuple[object, object, object]) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(
            "CREATE TABLE IF NOT EXISTS reading (id INTEGER PRIMARY KEY, power, voltage, state)"
        )
        database.executemany("INSERT INTO reading (power, voltage, state) VALUES (?, ?, ?)", rows)


def options(**changes: object) -> dict[str, object]:
    values = {"source": "sqlite", "database": "a.db", "query": QUERY, "label": "state"}
    return values | {"classes": ["idle", "busy"]} | changes


def test_rows_become_examples_and_later_ones_too(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    write(path, (1.5, 230, "idle"), (9, 229, "busy"))
    source, told = make(tmp_path, **options())
    source.open()
    assert source.dataset().features.tolist() == [[1.5, 230], [9, 229]]
    assert source.dataset().labels.tolist() == [0, 1]
    write(path, (2, 228, "idle"))
    assert source.dataset().num_examples == 3
    assert told.lines == []


def test_bad_rows_are_told_by_number(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    write(path, (1, 2, "idle"), (None, 2, "idle"), ("high", 2, "idle"), (1, 2, "red"), (1, 2, None))
    source, told = make(tmp_path, **options(features=["power"]))
    source.open()
    assert source.dataset().features.tolist() == [[1]]
    assert told.problems.total == 4
    assert told.lines[0] == f"{path} line 2: a value is missing; correct or remove it"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"query": "SELECT nowhere FROM reading"}, "no such column"),
        ({"query": "DELETE FROM reading"}, "readonly"),
        ({"query": "SELECT 1; SELECT 2"}, "one statement"),
        ({"label": "colour"}, "no column 'colour'"),
        ({"features": ["amps"]}, "no column 'amps'"),
        ({"database": "none.db"}, "none.db does not exist"),
        ({"classes": ["red"]}, "the label 'idle' is no class"),
    ],
)
def test_what_cannot_work_ends_the_start_in_one_line(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    write(tmp_path / "a.db", (1, 2, "idle"))
    source, _ = make(tmp_path, **options(**changes))
    with pytest.raises(ConfigError, match=words) as caught:
        source.open()
    assert "\n" not in str(caught.value)
    with closing(sqlite3.connect(tmp_path / "a.db")) as database:
        assert database.execute("SELECT count(*) FROM reading").fetchone() == (1,)


def test_endless_query_is_given_up(tmp_path: Path) -> None:
    write(tmp_path / "a.db", (1, 2, "idle"))
    endless = (
        "WITH RECURSIVE n(power) AS (SELECT 1 UNION ALL SELECT power + 1 FROM n) "
        "SELECT max(power) AS power, 'idle' AS state FROM n"
    )
    source, _ = make(tmp_path, **options(query=endless))
    ticks = iter(range(0, 10_000_000, 40))
    source._monotonic_s = lambda: next(ticks)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="interrupted"):
        source.open()


def test_lost_database_leaves_the_examples(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    write(path, (1, 2, "idle"))
    source, told = make(tmp_path, **options())
    source.open()
    path.unlink()
    assert source.dataset().num_examples == 1
    assert "the rows of the last query are used" in told.lines[0]


def test_empty_table_waits(tmp_path: Path) -> None:
    write(tmp_path / "a.db")
    source, _ = make(tmp_path, **options())
    source.open()
    with pytest.raises(NoExamples, match="gives no rows"):
        source.dataset()
