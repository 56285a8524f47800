"""A grid: a scenario, the keys that vary and their values; every combination is a point.

```toml
scenario = "fleet-100.toml"     # relative to this file
[grid]
seed = [1, 2, 3]
task.rule = ["mean", "trimmed_mean"]
"attackers.0.share" = [0.0, 0.1, 0.3]
```

A point is named by the digest of its whole scenario. So a sweep that is started again, with more
values or after a kill, knows what it has, and a changed scenario is run anew.
"""

import hashlib
import itertools
import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headwater_firmware_sim.scenario.reader import load_scenario
from headwater_firmware_sim.study.change import check_changed, put, read_toml
from headwater_firmware_sim.study.toml import format_value, is_toml
from headwater_protocol.errors import ConfigError

MAX_POINTS: Final = 10_000
NAME_DIGITS: Final = 16
"""Of a point's digest; 10,000 points collide once in 10^11 sweeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One combination."""

    name: str
    """Hexadecimal; its folder."""
    values: tuple[tuple[str, str], ...]
    """By key of the scenario, as TOML writes them."""
    scenario: str
    """The whole scenario as TOML."""
    file: str
    """Names it in messages."""
    folder: str
    """What the scenario's paths are relative to."""

    @property
    def label(self) -> str:
        """`seed=1 task.rule="mean"`."""
        return " ".join(f"{key}={value}" for key, value in self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """All points, each checked."""

    keys: tuple[str, ...]
    points: tuple[Point, ...]
    """The last key varies fastest."""


def load_grid(path: Path) -> Grid:
    """Read a grid and check the scenario of every point.

    Raises:
        ConfigError: If the file, a key, a value or a scenario cannot be used.
    """
    table = read_toml(path)
    unknown = sorted(table.keys() - {"scenario", "grid"})
    if unknown:
        raise ConfigError(f"{path}: {unknown[0]}", "is no key", fix="use scenario and [grid]")
    name = table.get("scenario")
    if not isinstance(name, str):
        raise ConfigError(f"{path}: scenario", "is missing", fix='add scenario = "FILE.toml"')
    axes = _read_axes(table.get("grid"), path)
    scenario = path.parent / name
    load_scenario(scenario)
    base = read_toml(scenario)
    points = []
    for values in itertools.product(*axes.values()):
        changed = deepcopy(base)
        for key, value in zip(axes, values, strict=True):
            put(changed, key, value, where=f"{path}: grid.{key}")
        points.append(_make_point(scenario, changed, dict(zip(axes, values, strict=True)), path))
    names = {point.name: point for point in points}
    if len(names) < len(points):
        raise ConfigError(f"{path}: grid", "has a value twice", fix="list each value once")
    return Grid(keys=tuple(axes), points=tuple(points))


def _read_axes(table: object, path: Path) -> dict[str, list[object]]:
    if not isinstance(table, dict) or not table:
        raise ConfigError(f"{path}: grid", "is missing", fix="add [grid] with seed = [1, 2]")
    axes: dict[str, list[object]] = {}
    for key, values in _flatten(table):
        if not isinstance(values, list) or not values:
            raise ConfigError(
                f"{path}: grid.{key}", f"is {values!r}", fix="give a list of one or more values"
            )
        if not all(is_toml(value) for value in values):
            raise ConfigError(
                f"{path}: grid.{key}", "has a date", fix="give numbers, texts or lists"
            )
        axes[key] = values
    count = math.prod(len(values) for values in axes.values())
    if count > MAX_POINTS:
        raise ConfigError(
            f"{path}: grid", f"has {count:,} points", fix=f"give at most {MAX_POINTS:,}"
        )
    return axes


def _flatten(table: Mapping[str, object], stem: str = "") -> list[tuple[str, object]]:
    """`task.rule = […]` without quotes is a table in a table."""
    flat: list[tuple[str, object]] = []
    for name, value in table.items():
        key = f"{stem}.{name}" if stem else name
        flat += _flatten(value, key) if isinstance(value, dict) else [(key, value)]
    return flat


def _make_point(
    scenario: Path, table: dict[str, object], values: Mapping[str, object], path: Path
) -> Point:
    written = tuple((key, format_value(value)) for key, value in values.items())
    label = " ".join(f"{key}={value}" for key, value in written)
    text, _ = check_changed(table, file=f"{path} ({label})", folder=scenario.parent)
    return Point(
        name=hashlib.sha256(text.encode()).hexdigest()[:NAME_DIGITS],
        values=written,
        scenario=text,
        file=str(scenario),
        folder=str(scenario.parent.resolve()),
    )
