"""CSV and npz: what is read, what is picked up later, and one line for whatever is wrong."""

import os
from pathlib import Path

import numpy as np
import pytest

from headwater_agent.data.csv_files import READ_BYTES, SETTLED_MS
from headwater_agent.data.pool import NoExamples
from headwater_protocol.errors import ConfigError
from tests.agent.data.support import make


def test_headerless_csv_with_the_label_last(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2,0\n3,4,1\n")
    source, told = make(tmp_path, path=".")
    source.open()
    found = source.dataset()
    assert found.features.tolist() == [[1, 2], [3, 4]]
    assert found.labels.tolist() == [0, 1]
    assert told.lines == []


def test_columns_by_name_in_any_order_with_class_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "\ufefftime,state,power,voltage\n1,idle,2.5,230\n2,busy,9,229\n"
    )
    (tmp_path / "b.csv").write_text("voltage,power,state\r\n231,3,idle\r\n")
    source, told = make(
        tmp_path,
        source="csv",
        path=".",
        features=["power", "voltage"],
        label="state",
        classes=["idle", "busy"],
    )
    source.open()
    found = source.dataset()
    assert found.features.tolist() == [[2.5, 230], [9, 229], [3, 231]]
    assert found.labels.tolist() == [0, 1, 0]
    assert told.lines == []


@pytest.mark.parametrize("label", [0, "y", -3])
def test_label_by_name_or_place(tmp_path: Path, label: object) -> None:
    (tmp_path / "a.csv").write_text("y,a,b\n7,1,2\n")
    source, _ = make(tmp_path, path="a.csv", label=label)
    source.open()
    assert source.dataset().labels.tolist() == [7]
    assert source.dataset().features.tolist() == [[1, 2]]


def test_appended_rows_and_new_files_are_picked_up(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("1,0\n")
    source, told = make(tmp_path, path=".")
    source.open()
    with path.open("a") as file:
        file.write("2,1\n")
    (tmp_path / "b.csv").write_text("3,0\n")
    assert source.dataset().features.reshape(-1).tolist() == [1, 2, 3]
    assert source.dataset().num_examples == 3
    assert told.lines == []


def test_line_that_is_still_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("1,0\n2.5,1")
    written_ms = path.stat().st_mtime_ns // 1_000_000
    now_ms = [written_ms + SETTLED_MS - 1]
    source, _ = make(tmp_path, path=".")
    source._clock = lambda: now_ms[0]  # type: ignore[attr-defined]
    source.open()
    assert source.dataset().num_examples == 1
    with path.open("a") as file:
        file.write("2\n")
    assert source.dataset().labels.tolist() == [0, 12]
    with path.open("a") as file:
        file.write("3,1")
    now_ms[0] = path.stat().st_mtime_ns // 1_000_000 + SETTLED_MS
    assert source.dataset().labels.tolist() == [0, 12, 1]


def test_replaced_file_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("1,0\n2,0\n")
    source, _ = make(tmp_path, path=".")
    source.open()
    (tmp_path / "new").write_text("5,0\n6,0\n7,0\n")
    os.replace(tmp_path / "new", path)
    assert source.dataset().features.reshape(-1).tolist() == [5, 6, 7]
    path.write_text("8,1\n")
    assert source.dataset().features.reshape(-1).tolist() == [8]


def test_bad_rows_are_told_with_file_line_and_fix_and_the_good_are_used(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "x,y,label\n1,2,0\nnan,2,0\n1,inf,0\n1,two,0\n1,2\n,2,0\n1,2,\n1,2,red\n1e39,2,0\n3,4,1\n"
    )
    source, told = make(tmp_path, path=".")
    source.open()
    assert source.dataset().features.tolist() == [[1, 2], [3, 4]]
    assert told.problems.counts == {str(path): 8}
    # The 1st, 2nd, 4th and 8th.
    assert told.lines == [
        f"{path} line 3: 'nan' is not finite in float32; correct or remove it",
        f"{path} line 4: 'inf' is not finite in float32; correct or remove it",
        f"{path} line 6: 2 columns, not 3; correct or remove it",
        f"{path} line 10: '1e39' is not finite in float32; correct or remove it",
    ]


def test_bad_file_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("p,state\n1,idle\n")
    (tmp_path / "b.csv").write_text("q,state\n1,idle\n")
    (tmp_path / "c.csv").write_bytes(b"")
    (tmp_path / "d.csv").write_bytes(b"p,state\n\xff\xfe,idle\n2,idle\n")
    source, told = make(tmp_path, path=".", features=["p"], label="state", classes=["idle", "busy"])
    source.open()
    assert source.dataset().features.reshape(-1).tolist() == [1, 2]
    assert source.dataset().num_examples == 2
    assert len(told.lines) == 3
    assert "b.csv line 1: there is no column 'p'; correct the file's header" in told.lines[0]
    assert "c.csv: the file is empty" in told.lines[1]
    assert "d.csv line 2" in told.lines[2]


def test_files_of_other_widths_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2,0\n")
    (tmp_path / "b.csv").write_text("1,2,3,0\n1,2,3,0\n")
    source, told = make(tmp_path, path=".")
    source.open()
    assert source.dataset().num_examples == 1
    assert told.problems.counts == {str(tmp_path / "b.csv"): 1}


def test_endless_line_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("1,0\n" + "7" * (2 * READ_BYTES) + ",1\n2,1\n")
    source, told = make(tmp_path, path=".")
    source.open()
    assert source.dataset().features.reshape(-1).tolist() == [1, 2]
    assert len(told.lines) == 1
    assert f"{path} line 2: the line has more than" in told.lines[0]


def test_file_longer_than_a_read_keeps_its_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    num_rows = READ_BYTES // 4
    path.write_text("1234,1\n" * num_rows + "bad,1\n")
    source, told = make(tmp_path, path=".", max_examples=50)
    source.open()
    assert source.dataset().num_examples == 50
    assert source.pool.num_seen == num_rows
    assert f"line {num_rows + 1}:" in told.lines[0]


def test_missing_path_and_rows_of_no_use_end_the_start(tmp_path: Path) -> None:
    source, _ = make(tmp_path, path="none")
    with pytest.raises(ConfigError, match="none does not exist"):
        source.open()
    (tmp_path / "a.csv").write_text("1,red\n")
    source, _ = make(tmp_path, path=".")
    with pytest.raises(ConfigError, match=r"a.csv line 1: the label 'red' is no whole number"):
        source.open()


def test_empty_folder_waits_for_files(tmp_path: Path) -> None:
    source, _ = make(tmp_path, path=".")
    source.open()
    with pytest.raises(NoExamples, match=r"put \*\.csv files"):
        source.dataset()
    (tmp_path / "a.csv").write_text("1,0\n")
    assert source.dataset().num_examples == 1


def test_npz_folder_takes_new_files_and_leaves_bad_ones_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=np.ones((3, 2, 2)), labels=np.arange(3))
    (tmp_path / "b.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "c.npz", features=np.ones((3, 4, 2)), labels=np.arange(3))
    source, told = make(tmp_path, path=".")
    source.open()
    assert source.dataset().features.shape == (3, 2, 2)
    assert [line.partition(": ")[0][-5:] for line in told.lines] == ["b.npz", "c.npz"]
    np.savez(tmp_path / "d.npz", features=np.ones((2, 2, 2)), labels=np.arange(2))
    assert source.dataset().num_examples == 5
    assert source.dataset().num_examples == 5
