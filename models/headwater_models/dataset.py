"""Examples from a folder of CSV or npz files, or one npz file: a device's own, or a delegate's.

They never leave their owner and never come from the network; a configuration names them. Whether
they fit a program is only known once a task names one, so the shape of an example is checked then.

CSV: one example a line, numbers separated by commas, the class label last; an optional first line
of names. npz: `features`, float or integer of shape (n, ...), and `labels`, integer of shape (n,).
"""

import csv
import math
import zipfile
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_protocol.errors import ConfigError, OutOfBounds

MAX_LABEL: Final = 2**20
"""More classes than any program that a device trains."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """Examples in memory."""

    features: NDArray[np.float32]
    """Shape (n, ...), finite, n at least 1."""
    labels: NDArray[np.int32]
    """Shape (n,), not negative."""

    def __post_init__(self) -> None:
        if len(self.features) != len(self.labels) or len(self.labels) == 0:
            raise OutOfBounds(f"{len(self.features)} examples and {len(self.labels)} labels")
        if not bool(np.isfinite(self.features).all()):
            raise OutOfBounds("a feature is NaN or infinite")
        if int(self.labels.min()) < 0:
            raise OutOfBounds("a label is negative")

    @property
    def num_examples(self) -> int:
        """How many."""
        return len(self.labels)

    def reshaped(self, input_shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The features in the shape (n, *input_shape) of a program.

        Raises:
            OutOfBounds: If an example has another number of values.
        """
        size = math.prod(self.features.shape[1:])
        if size != math.prod(input_shape):
            raise OutOfBounds(
                f"an example has {size} values, the program takes {input_shape}; "
                "check which data and which task the configuration names"
            )
        return self.features.reshape(len(self.features), *input_shape)


class _Unusable(Exception):
    """What is wrong with a file and how to mend it; `load_dataset` adds whose file it is."""

    def __init__(self, problem: str, *, fix: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix


def load_dataset(path: Path, *, max_bytes: int, key: str) -> Dataset:
    """Read the examples at `path`, a folder of `*.csv` or `*.npz` by name, or an npz file.

    Args:
        path: The folder or file.
        max_bytes: Limit of the examples in memory, checked while reading.
        key: Of the configuration that names `path`, for the error.

    Raises:
        ConfigError: Names the file, the line where there is one, and the fix.
    """
    try:
        return _load(path, max_bytes)
    except _Unusable as error:
        raise ConfigError(key, error.problem, fix=error.fix) from None
    except OSError as error:
        raise ConfigError(
            key, f"cannot read {path}: {error}", fix="check the permissions"
        ) from None


def _load(path: Path, max_bytes: int) -> Dataset:
    if path.is_dir():
        archives = sorted(path.glob("*.npz"))
        if not archives:
            return _load_csv_folder(path, max_bytes)
        if any(path.glob("*.csv")):
            raise _Unusable(f"{path} holds *.csv and *.npz", fix="keep one of the two kinds there")
        return _load_npz_folder(archives, path, max_bytes)
    if path.suffix == ".npz" and path.is_file():
        return _load_npz(path, max_bytes)
    if not path.exists():
        raise _Unusable(f"{path} does not exist", fix="name a folder of *.csv or an .npz file")
    raise _Unusable(f"{path} is neither a folder nor an .npz file", fix="name one of these")


def _load_csv_folder(path: Path, max_bytes: int) -> Dataset:
    files = sorted(path.glob("*.csv"))
    if not files:
        raise _Unusable(f"{path} holds no *.csv and no *.npz", fix="put the examples there")
    features, labels = array("f"), array("i")
    width = 0
    for file in files:
        with file.open(newline="", encoding="utf-8", errors="replace") as lines:
            reader = csv.reader(lines)
            while True:
                try:
                    row = next(reader)
                except StopIteration:
                    break
                except csv.Error as error:
                    raise _bad_line(file, reader.line_num, str(error)) from None
                if not row or (reader.line_num == 1 and _is_heading(row)):
                    continue
                width = width or len(row)
                _append_row(row, width, features, labels, file=file, line=reader.line_num)
                if 4 * (len(features) + len(labels)) > max_bytes:
                    raise _too_large(path, max_bytes)
    if not labels:
        raise _Unusable(f"{path} holds no example", fix="put the examples there")
    return Dataset(
        features=np.frombuffer(features, dtype=np.float32).reshape(len(labels), width - 1),
        labels=np.frombuffer(labels, dtype=np.int32),
    )


def _append_row(
    row: list[str],
    width: int,
    features: "array[float]",
    labels: "array[int]",
    *,
    file: Path,
    line: int,
) -> None:
    if len(row) != width or width < 2:
        raise _bad_line(file, line, f"{len(row)} columns, the first line has {width}")
    for text in row[:-1]:
        try:
            value = float(text)
        except ValueError:
            raise _bad_line(file, line, f"{text[:40]!r} is not a number") from None
        if not math.isfinite(value) or abs(value) > np.finfo(np.float32).max:
            raise _bad_line(file, line, f"{text[:40]!r} is not finite in float32")
        features.append(value)
    try:
        label = int(row[-1])
    except ValueError:
        raise _bad_line(file, line, f"the label {row[-1][:40]!r} is not an integer") from None
    if not 0 <= label <= MAX_LABEL:
        raise _bad_line(file, line, f"the label {label} is not 0 to {MAX_LABEL}")
    labels.append(label)


def _is_heading(row: list[str]) -> bool:
    """Whether no column is a number."""
    for text in row:
        try:
            float(text)
        except ValueError:
            continue
        return False
    return True


def _load_npz_folder(archives: list[Path], folder: Path, max_bytes: int) -> Dataset:
    parts: list[Dataset] = []
    left_bytes = max_bytes
    for archive in archives:
        part = _load_npz(archive, left_bytes)
        if parts and part.features.shape[1:] != parts[0].features.shape[1:]:
            raise _bad_file(
                archive,
                f"its examples have shape {part.features.shape[1:]}, those of "
                f"{archives[0].name} {parts[0].features.shape[1:]}",
            )
        left_bytes -= part.features.nbytes + part.labels.nbytes
        if left_bytes < 0:
            raise _too_large(folder, max_bytes)
        parts.append(part)
    return Dataset(
        features=np.concatenate([part.features for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
    )


def _load_npz(path: Path, max_bytes: int) -> Dataset:
    try:
        with zipfile.ZipFile(path) as archive:
            # Before anything is unpacked: a small file may unpack to a large one.
            if sum(member.file_size for member in archive.infolist()) > 2 * max_bytes:
                raise _too_large(path, max_bytes)
        with np.load(path, allow_pickle=False) as arrays:
            missing = sorted({"features", "labels"} - set(arrays.files))
            if missing:
                raise _bad_file(path, f"it has no array {missing[0]!r}")
            features, labels = arrays["features"], arrays["labels"]
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise _bad_file(path, str(error)) from None
    if features.dtype.kind not in "fiu" or features.ndim < 2:
        raise _bad_file(path, f"features are {features.dtype} of shape {features.shape}")
    if labels.dtype.kind not in "iu" or labels.shape != features.shape[:1]:
        raise _bad_file(path, f"labels are {labels.dtype} of shape {labels.shape}")
    if 4 * (features.size + labels.size) > max_bytes:
        raise _too_large(path, max_bytes)
    if len(labels) == 0 or features.size == 0:
        raise _bad_file(path, "it holds no example")
    if int(labels.min()) < 0 or int(labels.max()) > MAX_LABEL:
        raise _bad_file(path, f"a label is not 0 to {MAX_LABEL}")
    with np.errstate(over="ignore"):
        converted = features.astype(np.float32)
    if not bool(np.isfinite(converted).all()):
        index = int(np.argmin(np.isfinite(converted).reshape(len(labels), -1).all(axis=1)))
        raise _bad_file(path, f"example {index} has a feature that is not finite in float32")
    return Dataset(features=converted, labels=labels.astype(np.int32))


def _bad_line(file: Path, line: int, problem: str) -> _Unusable:
    return _Unusable(f"{file} line {line}: {problem}", fix="correct or remove the line")


def _bad_file(file: Path, problem: str) -> _Unusable:
    return _Unusable(f"{file}: {problem}", fix="store features (n, ...) and integer labels (n,)")


def _too_large(path: Path, max_bytes: int) -> _Unusable:
    return _Unusable(
        f"{path} exceeds {max_bytes} bytes in memory", fix="raise limits.max_data_bytes"
    )
