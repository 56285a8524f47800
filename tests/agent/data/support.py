"""Builders for data sources."""

from pathlib import Path

from headwater_agent.data.config import DataConfig, parse_data
from headwater_agent.data.pool import ExampleSource
from headwater_agent.data.problems import Problem, Problems
from headwater_agent.data.source import make_source

NOW_MS = 4_000_000_000_000
"""Long after any file of a test was written: whatever is there has settled."""


class Told:
    """Problems as a log would show them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.problems = Problems(self.tell)

    def tell(self, problem: Problem, count: int) -> None:
        self.lines.append(str(problem))
        assert "\n" not in self.lines[-1]


def parse(folder: Path, **values: object) -> DataConfig:
    return parse_data(values, folder=folder, max_bytes=1 << 20)


def make(folder: Path, *, now_ms: int = NOW_MS, **values: object) -> tuple[ExampleSource, Told]:
    told = Told()
    source = make_source(
        parse(folder, **values),
        entropy=b"e" * 32,
        problems=told.problems,
        clock=lambda: now_ms,
    )
    return source, told
