"""A sweep on a terminal: a bar with the time left; plain lines where there is no terminal."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from headwater_firmware_sim.report.numbers import format_time
from headwater_firmware_sim.study.grid import Point


class SweepProgress:
    """A context manager around a sweep; what was finished before does not count as speed."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._bar = Progress(
            TextColumn("points"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", left="")
        self._started_s = 0.0
        self._total = 0
        self._finished = 0
        self._kept = 0

    def __enter__(self) -> "SweepProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, *, total: int, finished: int) -> None:
        """`finished` of `total` were there already."""
        self._started_s = self._clock()
        self._total, self._finished, self._kept = total, finished, finished
        self._bar.update(self._task, total=total, completed=finished)
        if finished:
            self._console.print(f"{finished:,} of {total:,} points were finished before")

    def point_done(self, point: Point, failure: str | None) -> None:
        """One more is finished, or failed with this line."""
        self._finished += 1
        left = self._say_left()
        self._bar.update(self._task, completed=self._finished, left=left)
        if failure is not None:
            self._console.print(f"failed: {point.label}: {failure}", soft_wrap=True, markup=False)
        if not self._console.is_terminal:
            self._console.print(
                f"{self._finished:,} of {self._total:,}, {left}: {point.label}",
                soft_wrap=True,
                markup=False,
                highlight=False,
            )

    def _say_left(self) -> str:
        rest = self._total - self._finished
        if not rest:
            return "done"
        pace_s = (self._clock() - self._started_s) / (self._finished - self._kept)
        return f"about {format_time(round(max(1.0, rest * pace_s)) * 1_000)} left"
