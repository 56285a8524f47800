"""Examples on disk: read, checked, and one line about what is wrong."""

from pathlib import Path

import numpy as np
import pytest

from headwater_models.dataset import Dataset, load_dataset
from headwater_protocol.errors import ConfigError, OutOfBounds

LIMIT = 10_000


def test_folder_of_csv_is_read_in_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("5,6,1\n")
    (tmp_path / "a.csv").write_text("x,y,label\n1,2.5,0\n\n3,-4e0,2\n")
    (tmp_path / "notes.txt").write_text("ignored")
    data = load_dataset(tmp_path, max_bytes=LIMIT, key="data.path")
    assert data.features.tolist() == [[1, 2.5], [3, -4], [5, 6]]
    assert data.labels.tolist() == [0, 2, 1]
    assert data.features.dtype == np.float32
    assert data.labels.dtype == np.int32


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2,0\n1,abc,0\n", ["line 2", "'abc' is not a number"]),
        ("1,2,0\n1,nan,0\n", ["line 2", "not finite"]),
        ("1,1e99,0\n", ["line 1", "not finite"]),
        ("1,2,0\n1,2,3,0\n", ["line 2", "4 columns, the first line has 3"]),
        ("1,2,0.5\n", ["line 1", "label '0.5' is not an integer"]),
        ("1,2,-1\n", ["line 1", "label -1"]),
        ("1\n", ["line 1", "1 columns"]),
        ("a,b,c\n", ["holds no example"]),
        ("", ["holds no example"]),
    ],
)
def test_bad_csv_names_file_and_line(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_dataset(tmp_path, max_bytes=LIMIT, key="data.path")
    message = str(caught.value)
    assert message.startswith("data.path: ")
    assert "\n" not in message
    assert all(word in message for word in words)
    assert str(tmp_path) in message


def save(path: Path, **arrays: object) -> Path:
    np.savez(path / "data.npz", **arrays)  # type: ignore[arg-type]
    return path / "data.npz"


def test_npz_is_read(tmp_path: Path) -> None:
    path = save(tmp_path, features=np.ones((3, 8, 8)), labels=np.array([0, 1, 2]))
    data = load_dataset(path, max_bytes=LIMIT, key="data.path")
    assert data.features.shape == (3, 8, 8)
    assert data.reshaped((64,)).shape == (3, 64)
    assert data.num_examples == 3


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({"features": np.ones((3, 2))}, "no array 'labels'"),
        ({"features": np.ones(3), "labels": np.zeros(3, int)}, "features are"),
        ({"features": np.ones((3, 2)), "labels": np.zeros(2, int)}, "labels are"),
        ({"features": np.ones((3, 2)), "labels": np.zeros(3)}, "labels are float64"),
        ({"features": np.array([[1, np.nan]]), "labels": np.zeros(1, int)}, "example 0"),
        ({"features": np.array([[1, 1e300]]), "labels": np.zeros(1, int)}, "example 0"),
        ({"features": np.ones((0, 2)), "labels": np.zeros(0, int)}, "no example"),
        ({"features": np.ones((1, 2)), "labels": np.full(1, -1)}, "label"),
        ({"features": np.array([[{}]]), "labels": np.zeros(1, int)}, "data.npz"),
        ({"features": np.ones((1, 9_999)), "labels": np.zeros(1, int)}, "exceeds 10000 bytes"),
    ],
)
def test_bad_npz_is_one_line(tmp_path: Path, arrays: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        load_dataset(save(tmp_path, **arrays), max_bytes=LIMIT, key="data.path")
    assert "\n" not in str(caught.value)


def test_data_at_the_limit_is_read_and_one_past_it_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2,0\n" * 10)
    assert load_dataset(tmp_path, max_bytes=120, key="data.path").num_examples == 10
    with pytest.raises(ConfigError, match="max_data_bytes"):
        load_dataset(tmp_path, max_bytes=119, key="data.path")


def test_path_that_holds_no_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("")
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    for path in (tmp_path, tmp_path / "none", tmp_path / "file.txt", tmp_path / "broken.npz"):
        with pytest.raises(ConfigError):
            load_dataset(path, max_bytes=LIMIT, key="data.path")


def test_examples_of_another_size_than_the_program_takes_are_refused() -> None:
    data = Dataset(features=np.ones((2, 3), np.float32), labels=np.zeros(2, np.int32))
    with pytest.raises(OutOfBounds, match="3 values"):
        data.reshaped((4,))


def save_npz(path, num_examples, width=3):
    np.savez(
        path,
        features=np.full((num_examples, width), num_examples, np.float32),
        labels=np.zeros(num_examples, np.int32),
    )


def test_a_folder_of_npz_files_is_read_in_order_of_their_names(tmp_path):
    save_npz(tmp_path / "b.npz", 2)
    save_npz(tmp_path / "a.npz", 4)
    dataset = load_dataset(tmp_path, max_bytes=10_000, key="data.path")
    assert dataset.features[:, 0].tolist() == [4, 4, 4, 4, 2, 2]


def test_npz_files_of_other_shapes_or_beside_csv_are_refused(tmp_path):
    save_npz(tmp_path / "a.npz", 2)
    save_npz(tmp_path / "b.npz", 2, width=4)
    with pytest.raises(ConfigError, match=r"b\.npz"):
        load_dataset(tmp_path, max_bytes=10_000, key="data.path")
    (tmp_path / "b.npz").unlink()
    (tmp_path / "c.csv").write_text("1,2,3,0\n")
    with pytest.raises(ConfigError, match="keep one of the two kinds"):
        load_dataset(tmp_path, max_bytes=10_000, key="data.path")


def test_the_limit_holds_for_a_folder_as_a_whole(tmp_path):
    save_npz(tmp_path / "a.npz", 1_000)
    save_npz(tmp_path / "b.npz", 1_000)
    assert len(load_dataset(tmp_path, max_bytes=32_000, key="data.path").labels) == 2_000
    with pytest.raises(ConfigError, match="exceeds"):
        load_dataset(tmp_path, max_bytes=31_999, key="data.path")
