"""Rows of texts or values as features and a label, for sources that have columns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headwater_agent.data.labels import Labels
from headwater_agent.data.payload import MAX_FLOAT32, parse_number
from headwater_protocol.errors import OutOfBounds


class BadColumns(OutOfBounds):
    """A file or a query has not the columns that the configuration names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which places of a row are what."""

    width: int
    features: tuple[int, ...]
    label: int


def find_columns(
    names: Sequence[str] | None,
    width: int,
    *,
    features: tuple[str, ...] | None,
    label: str | int,
) -> Columns:
    """The places of the columns that a configuration names.

    Args:
        names: Of the columns; None where there is no header.
        width: How many there are.
        features: By name; None for all but the label's.
        label: By name or place.

    Raises:
        BadColumns: If one is missing, or nothing is left for features.
    """
    stripped = None if names is None else [name.strip().lstrip("\ufeff") for name in names]
    if isinstance(label, int):
        place = label + width if label < 0 else label
        if not 0 <= place < width:
            raise BadColumns(f"{width} columns, none of them is number {label}")
    else:
        place = _place(stripped, label)
    if features is None:
        places = tuple(index for index in range(width) if index != place)
    else:
        places = tuple(_place(stripped, name) for name in features)
    if not places:
        raise BadColumns(f"{width} columns leave none for features")
    return Columns(width=width, features=places, label=place)


def read_row(
    row: Sequence[object], columns: Columns, labels: Labels
) -> tuple[NDArray[np.float32], int]:
    """One example.

    Raises:
        OutOfBounds: If a value is missing, not a number, not finite or no class.
    """
    if len(row) != columns.width:
        raise OutOfBounds(f"{len(row)} columns, not {columns.width}")
    values = np.empty(len(columns.features), np.float32)
    for index, place in enumerate(columns.features):
        values[index] = _number(row[place])
    label = row[columns.label]
    if label is None or label == "":
        raise OutOfBounds("the label is missing")
    return values, labels.number(label)


def is_header(row: Sequence[str]) -> bool:
    """Whether no column is a number."""
    return bool(row) and not any(_is_number(text) for text in row)


def _place(names: Sequence[str] | None, name: str) -> int:
    if names is None:
        raise BadColumns(f"there is no header that would name the column {name!r}")
    if name not in names:
        raise BadColumns(f"there is no column {name!r}")
    return list(names).index(name)


def _number(value: object) -> float:
    if value is None or value == "":
        raise OutOfBounds("a value is missing")
    if not isinstance(value, str | int | float):
        raise OutOfBounds(f"{str(value)[:40]!r} is not a number")
    try:
        number = parse_number(value) if isinstance(value, str) else float(value)
    except (ValueError, OverflowError):
        raise OutOfBounds(f"{str(value)[:40]!r} is not a number") from None
    if not math.isfinite(number) or abs(number) > MAX_FLOAT32:
        raise OutOfBounds(f"{str(value)[:40]!r} is not finite in float32")
    return number


def _is_number(text: str) -> bool:
    try:
        parse_number(text)
    except ValueError:
        return False
    return True
