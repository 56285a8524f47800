"""Examples from files: `*.csv` with a header or without, or one `.npz`."""

import csv
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_firmware_sim.data.examples import Examples
from headwater_protocol.errors import ConfigError

MAX_EXAMPLES: Final = 5_000_000


def load_folder(
    path: Path, *, shape: tuple[int, ...], num_classes: int, user_column: str, by_user: bool
) -> tuple[Examples, NDArray[np.int64] | None]:
    """All examples of a folder or file, and whose each is.

    Args:
        path: A folder of `*.csv`, one `.csv`, or one `.npz`.
        shape: Of one example.
        num_classes: Labels are below it.
        user_column: The CSV column or npz array with the users; never a feature.
        by_user: Ask for the users, who are None otherwise.

    Raises:
        ConfigError: If a file cannot be read or does not fit the program.
    """
    if path.suffix == ".npz":
        features, labels, users = _load_npz(path, user_column, by_user=by_user)
    else:
        features, labels, users = _load_csv(path, user_column, by_user=by_user)
    examples = fit_examples(features, labels, shape=shape, num_classes=num_classes, key="data.path")
    if users is None:
        return examples, None
    if len(users) != len(examples):
        raise ConfigError(
            "data.partition.column",
            f"{len(users)} users of {len(examples)} examples",
            fix="give one a row",
        )
    return examples, np.unique(users, return_inverse=True)[1].astype(np.int64)


def fit_examples(
    features: object, labels: object, *, shape: tuple[int, ...], num_classes: int, key: str
) -> Examples:
    """Arrays as a program takes them.

    Raises:
        ConfigError: Naming `key`, if a shape, type or label does not fit.
    """
    try:
        x, y = np.asarray(features), np.asarray(labels)
        if x.dtype.kind == "c" or y.dtype.kind == "c":
            raise TypeError("they are complex")
        # What does not fit into float32 is found below, with the key that a warning lacks.
        with np.errstate(over="ignore", invalid="ignore"):
            x = np.ascontiguousarray(x, dtype=np.float32)
        is_whole = y.ndim == 1 and bool(np.all(np.equal(np.mod(y, 1), 0)))
    except (TypeError, ValueError) as error:
        raise ConfigError(key, f"no arrays of numbers: {error}", fix="give float arrays") from None
    if not is_whole or not len(y):
        raise ConfigError(
            key, f"labels have shape {y.shape}", fix="give (n,) whole numbers, n at least 1"
        )
    if len(x) != len(y) or x.size != len(y) * int(np.prod(shape)):
        raise ConfigError(
            key,
            f"features have shape {x.shape} for {len(y)} labels",
            fix=f"the program takes ({len(y)}, {', '.join(map(str, shape))})",
        )
    if int(y.min()) < 0 or int(y.max()) >= num_classes:
        raise ConfigError(
            key,
            f"labels are {int(y.min())} to {int(y.max())}",
            fix=f"the program knows 0 to {num_classes - 1}",
        )
    if not bool(np.isfinite(x).all()):
        raise ConfigError(key, "features hold NaN or infinity", fix="clean them")
    return Examples(features=x.reshape(len(y), *shape), labels=y.astype(np.int32))


def _load_npz(
    path: Path, user_column: str, *, by_user: bool
) -> tuple[object, object, NDArray[np.str_] | None]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = {"features", "labels"} - set(arrays.files)
            if by_user and user_column not in arrays.files:
                missing.add(user_column)
            if missing:
                raise ConfigError(
                    "data.path", f"{path} lacks {', '.join(sorted(missing))}", fix="add the arrays"
                )
            users = arrays[user_column].astype(np.str_) if by_user else None
            return arrays["features"], arrays["labels"], users
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError("data.path", f"{path}: {error}", fix="give an .npz of arrays") from None


def _load_csv(
    path: Path, user_column: str, *, by_user: bool
) -> tuple[object, object, NDArray[np.str_] | None]:
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    rows: list[list[float]] = []
    users: list[str] = []
    for file in files:
        _read_csv(file, user_column, rows, users, by_user=by_user)
    if not rows:
        raise ConfigError("data.path", f"{path} holds no examples", fix="put *.csv there")
    if len({len(row) for row in rows}) > 1:
        raise ConfigError("data.path", f"{path}: rows differ in length", fix="make them alike")
    table = np.array(rows)
    return table[:, :-1], table[:, -1], np.array(users) if by_user else None


def _read_csv(
    file: Path, user_column: str, rows: list[list[float]], users: list[str], *, by_user: bool
) -> None:
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            reader = csv.reader(stream)
            column: int | None = None
            for number, row in enumerate(reader, start=1):
                if number == 1 and (by_user or user_column in row):
                    if user_column not in row:
                        raise ConfigError(
                            "data.partition.column",
                            f"{file} has no column {user_column!r}",
                            fix="name one of its header",
                        )
                    column = row.index(user_column)
                    continue
                if not row or (number == 1 and not _is_number(row[0])):
                    continue
                if column is not None:
                    users.append(row.pop(column))
                rows.append([float(cell) for cell in row])
                if len(rows) > MAX_EXAMPLES:
                    raise ConfigError(
                        "data.path", f"more than {MAX_EXAMPLES} examples", fix="give fewer"
                    )
    except (OSError, ValueError, csv.Error, IndexError) as error:
        raise ConfigError("data.path", f"{file}: {error}", fix="give rows of numbers") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
