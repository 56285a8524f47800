"""What differs between two runs."""

from collections.abc import Mapping
from dataclasses import dataclass

from headwater_firmware_sim.output.tables import Cell
from headwater_firmware_sim.report.run_report import flatten
from headwater_firmware_sim.results import JsonValue, RunResult
from headwater_firmware_sim.study.metrics import summarise

MISSING = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One name with two values."""

    name: str
    a: Cell
    b: Cell

    @property
    def delta(self) -> int | float | None:
        """B minus A; None where one is no number."""
        if isinstance(self.a, int | float) and isinstance(self.b, int | float):
            is_flag = isinstance(self.a, bool) or isinstance(self.b, bool)
            return None if is_flag else self.b - self.a
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs side by side."""

    is_same_ledger: bool
    """Whether both main chains end in the same block."""
    metrics: tuple[Difference, ...]
    """All of them, the equal ones too."""
    counts: tuple[Difference, ...]
    """Those that differ."""
    config: tuple[Difference, ...]
    """Keys of the scenarios that differ."""

    @property
    def differing(self) -> tuple[Difference, ...]:
        """The metrics that differ."""
        return tuple(entry for entry in self.metrics if entry.a != entry.b)

    def to_json(self) -> JsonValue:
        """For `--json`."""
        return {
            "same_ledger": self.is_same_ledger,
            "metrics": {
                entry.name: {"a": entry.a, "b": entry.b, "delta": entry.delta}
                for entry in self.metrics
            },
            "counts": {entry.name: {"a": entry.a, "b": entry.b} for entry in self.counts},
            "config": {entry.name: {"a": entry.a, "b": entry.b} for entry in self.config},
        }


def compare_runs(a: RunResult, b: RunResult) -> Comparison:
    """Set two runs side by side."""
    return Comparison(
        is_same_ledger=a.final.main_chain_digest == b.final.main_chain_digest,
        metrics=_pair(summarise(a), summarise(b)),
        counts=_list_differing(a.counts, b.counts),
        config=_list_differing(dict(flatten(a.config)), dict(flatten(b.config))),
    )


def _pair(a: Mapping[str, Cell], b: Mapping[str, Cell]) -> tuple[Difference, ...]:
    names = dict.fromkeys((*a, *b))
    return tuple(Difference(name=name, a=a.get(name), b=b.get(name)) for name in names)


def _list_differing(
    a: Mapping[str, int] | Mapping[str, str], b: Mapping[str, int] | Mapping[str, str]
) -> tuple[Difference, ...]:
    return tuple(entry for entry in _pair(dict(a), dict(b)) if entry.a != entry.b)
