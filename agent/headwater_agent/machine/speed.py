"""How fast this device trains, measured while it does, for the report to its gateways.

A device is told apart by what it did, so nothing is benchmarked for the report's sake. The mean is
exponential, with a weight of a quarter for the newest training: one that a backup slowed down does
not make a slow device.
"""

from typing import Final

from headwater_agent.machine.inputs import Trained
from headwater_protocol.identifiers import Digest
from headwater_protocol.messages.status import (
    MAX_MEMORY_BYTES,
    MAX_ROUND_TRIP_MS,
    MAX_SPEED,
    REPORTS_A_SESSION,
    CapabilityReport,
    classify_capability,
)

NEWEST_QUARTERS: Final = 1
"""The weight of the newest measurement, of four."""

NEWS_THOUSANDTHS: Final = 250
"""A speed that differs less from the reported one is not reported anew."""


class Speedometer:
    """Measures one device.

    Args:
        memory_bytes: Of the machine; 0 where nobody knows.
    """

    __slots__ = (
        "_count",
        "_link_bytes_per_s",
        "_memory_bytes",
        "_program",
        "_report",
        "_round_trip_ms",
        "_speed",
        "last_ms",
    )

    def __init__(self, *, memory_bytes: int) -> None:
        self._memory_bytes = min(memory_bytes, MAX_MEMORY_BYTES)
        self._program: Digest | None = None
        self._speed = 0
        self._count = 0
        self._report: CapabilityReport | None = None
        self._round_trip_ms = 0
        self._link_bytes_per_s = 0
        self.last_ms = 0
        """What the last training took; 0 before the first."""

    @property
    def report(self) -> CapabilityReport | None:
        """What there is to tell; None before the first measurement."""
        return self._report

    def note_round_trip(self, duration_ms: int) -> None:
        """An update was answered after this time; the shortest so far is what the link costs."""
        if 0 < duration_ms <= MAX_ROUND_TRIP_MS:
            self._round_trip_ms = min(self._round_trip_ms or duration_ms, duration_ms)

    def note_fetch(self, num_bytes: int, duration_ms: int) -> None:
        """Blobs of this size came within this time."""
        if num_bytes > 0 and duration_ms > 0:
            self._link_bytes_per_s = num_bytes * 1_000 // duration_ms

    def add(self, trained: Trained, program: Digest | None, *, session: int) -> bool:
        """Take a training; whether the report changed.

        Args:
            session: The current one, which numbers the report.
            trained: With the time that it took.
            program: What was trained; None where the round is over, and it was the last one.
        """
        if trained.duration_ms < 1 or trained.num_steps < 1:
            return False
        self.last_ms = trained.duration_ms
        known = program or self._program
        if known is None:
            return False
        measured = min(MAX_SPEED, trained.num_steps * 1_000_000 // trained.duration_ms)
        if known != self._program or not self._speed:
            self._program, self._speed = known, measured
        else:
            self._speed += (measured - self._speed) * NEWEST_QUARTERS // 4
        found = CapabilityReport(
            number=session * REPORTS_A_SESSION + self._count + 1,
            capability=classify_capability(
                steps_per_1000_s=self._speed, memory_bytes=self._memory_bytes
            ),
            memory_bytes=self._memory_bytes,
            program=known,
            steps_per_1000_s=self._speed,
            round_trip_ms=self._round_trip_ms,
            link_bytes_per_s=self._link_bytes_per_s,
        )
        if self._report is not None and not _is_news(self._report, found):
            return False
        self._count = (self._count + 1) % (REPORTS_A_SESSION - 1)
        self._report = found
        return True


def _is_news(before: CapabilityReport, after: CapabilityReport) -> bool:
    if (before.program, before.capability) != (after.program, after.capability):
        return True
    difference = abs(after.steps_per_1000_s - before.steps_per_1000_s)
    return difference * 1_000 > before.steps_per_1000_s * NEWS_THOUSANDTHS
