"""Running a grid: what is there already, what is left, and the table of it all.

```
OUT/points/<name>/             a run's folder, and point.json, written last: the point is finished
OUT/summary.csv                a row for each point of the grid
OUT/.lock                      held by the sweep that writes here
```
"""

import csv
import fcntl
import io
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from headwater_firmware_sim.output.folder import save_run
from headwater_firmware_sim.output.tables import Cell
from headwater_firmware_sim.output.whole import explain, write_whole
from headwater_firmware_sim.study.grid import Grid, Point
from headwater_firmware_sim.study.metrics import summarise
from headwater_firmware_sim.study.work import Outcome
from headwater_protocol.errors import ConfigError

POINTS_NAME: Final = "points"
POINT_NAME: Final = "point.json"
SUMMARY_NAME: Final = "summary.csv"
LOCK_NAME: Final = ".lock"

Execute = Callable[[Sequence[Point]], Generator[Outcome, None, None]]
"""Runs points somewhere; a generator, closed when the sweep stops."""


class SweepView(Protocol):
    """Shows how far a sweep is."""

    def start(self, *, total: int, finished: int) -> None:
        """`finished` of `total` were there already."""
        ...

    def point_done(self, point: Point, failure: str | None) -> None:
        """One more is finished, or failed with this line."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """A point and what came of it."""

    point: Point
    metrics: Mapping[str, Cell]
    """Empty where it failed or was not run."""
    failure: str | None


@dataclass(slots=True, kw_only=True)
class SweepReport:
    """A sweep at its end."""

    keys: tuple[str, ...]
    rows: tuple[SweepRow, ...]
    """In order of the grid."""
    num_kept: int
    """Finished before; not run again."""
    num_run: int
    failures: dict[str, str] = field(default_factory=dict)
    """By name of the point."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the summary."""
        metrics = next((row.metrics for row in self.rows if row.metrics), {})
        return ("point", *self.keys, *metrics, "failure")

    def cells(self, row: SweepRow) -> list[Cell]:
        """A row of the summary."""
        values: dict[str, Cell] = {
            "point": row.point.name,
            **{key: json_or_text(value) for key, value in row.point.values},
            **row.metrics,
            "failure": row.failure,
        }
        return [values.get(name) for name in self.columns]


def run_sweep(grid: Grid, out: Path, execute: Execute, view: SweepView) -> SweepReport:
    """Run the points of `grid` that are not in `out` yet.

    Raises:
        ConfigError: If `out` cannot be written to, or another sweep writes there.
    """
    with _lock(out):
        kept = {point.name: _load_metrics(out, point) for point in grid.points}
        metrics = {name: entry for name, entry in kept.items() if entry is not None}
        num_kept = len(metrics)
        left = [point for point in grid.points if point.name not in metrics]
        failures: dict[str, str] = {}
        view.start(total=len(grid.points), finished=num_kept)
        by_name = {point.name: point for point in left}
        try:
            with closing(execute(left)) as outcomes:
                for outcome in outcomes:
                    point = by_name[outcome.point]
                    if outcome.result is None:
                        failures[point.name] = outcome.failure or "failed"
                    else:
                        metrics[point.name] = _save(out, point, outcome)
                    view.point_done(point, outcome.failure)
        finally:
            report = SweepReport(
                keys=grid.keys,
                rows=tuple(
                    SweepRow(
                        point=point,
                        metrics=metrics.get(point.name, {}),
                        failure=failures.get(point.name),
                    )
                    for point in grid.points
                ),
                num_kept=num_kept,
                num_run=len(metrics) - num_kept + len(failures),
                failures=failures,
            )
            write_whole({out / SUMMARY_NAME: _format_summary(report)})
    return report


def _save(out: Path, point: Point, outcome: Outcome) -> Mapping[str, Cell]:
    if outcome.result is None:
        return {}
    folder = out / POINTS_NAME / point.name
    save_run(outcome.result, folder)
    metrics = summarise(outcome.result)
    content = {"values": dict(point.values), "metrics": metrics}
    write_whole({folder / POINT_NAME: f"{json.dumps(content, indent=2)}\n".encode()})
    return metrics


def _load_metrics(out: Path, point: Point) -> Mapping[str, Cell] | None:
    """None where the point is not finished; whatever else stands there is written anew."""
    path = out / POINTS_NAME / point.name / POINT_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        metrics = content["metrics"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return metrics if isinstance(metrics, dict) else None


def _format_summary(report: SweepReport) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(report.columns)
    writer.writerows(report.cells(row) for row in report.rows)
    return text.getvalue().encode()


def json_or_text(value: str) -> Cell:
    """A TOML value as a cell: numbers and texts as they are, the rest as TOML."""
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    return parsed if isinstance(parsed, bool | int | float | str) else value


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        stream = (out / LOCK_NAME).open("w")
    except OSError as error:
        raise explain(error, path=out) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                "--out", f"another sweep writes to {out}", fix="wait for it or name another folder"
            ) from error
        yield
