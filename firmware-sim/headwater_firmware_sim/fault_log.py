"""What was broken in a run: a row a fault, and those of one kind and second together."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from headwater_firmware_sim.results import FaultRow

MAX_FAULT_ROWS: Final = 10_000


@dataclass(slots=True)
class FaultLog:
    """Grows with every fault; times are ms since the start of the run."""

    counts: Counter[str] = field(default_factory=Counter)
    """By kind, also of those past the last row."""
    _rows: dict[tuple[str, str, int], tuple[int, int, int]] = field(default_factory=dict)

    def note(self, kind: str, target: str, *, now_ms: int, for_ms: int = 0) -> None:
        """Remember a fault that begins now."""
        self.counts[kind] += 1
        key = (kind, "all" if for_ms == 0 else target, now_ms // 1_000)
        known = self._rows.get(key)
        if known is None and len(self._rows) >= MAX_FAULT_ROWS:
            return
        from_ms, until_ms, count = known or (now_ms, now_ms, 0)
        self._rows[key] = (from_ms, max(until_ms, now_ms + for_ms), count + 1)

    @property
    def rows(self) -> tuple[FaultRow, ...]:
        """All of them, in order of their beginning."""
        rows = [
            FaultRow(kind=kind, from_ms=from_ms, until_ms=until_ms, target=target, count=count)
            for (kind, target, _), (from_ms, until_ms, count) in self._rows.items()
        ]
        return tuple(sorted(rows, key=lambda row: (row.from_ms, row.kind, row.target)))
