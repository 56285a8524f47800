"""What a running agent says about itself: one small row beside its state, and a line for systemd.

Written when something changed, at most every `MIN_INTERVAL_S`, and every `HEARTBEAT_S` otherwise;
the write is not synced, so a card is not worn by it. Who asks reads the row and takes no lock.
"""

import json
import os
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from headwater_agent.data.pool import ExampleSource
from headwater_agent.device import Device
from headwater_agent.guest.host import Host
from headwater_agent.shell.journal import tell
from headwater_agent.shell.notify import Notifier
from headwater_agent.store import StateStore
from headwater_protocol.errors import StorageError

MIN_INTERVAL_S: Final = 10.0
HEARTBEAT_S: Final = 300.0
MAX_ERRORS: Final = 8
MAX_TEXT_CHARACTERS: Final = 400
MAX_PROBLEMS: Final = 4
"""Of the data, the newest; they do not push out the errors of the device."""


@dataclass(slots=True)
class Link:
    """The way to the brokers."""

    broker: str = ""
    is_connected: bool = False
    since_ms: int = 0
    """When `is_connected` became what it is."""
    failures: int = 0
    """Attempts in a row that failed."""
    problem: str = ""
    """Why it is not connected."""


@dataclass(slots=True)
class Reporter:
    """Collects, and writes what changed."""

    device: Device
    store: StateStore
    notifier: Notifier
    started_ms: int
    link: Link = field(default_factory=Link)
    errors: deque[dict[str, object]] = field(default_factory=lambda: deque(maxlen=MAX_ERRORS))
    source: ExampleSource | None = None
    """Of the device's data; None where nobody knows."""
    host: Host | None = None
    """Decides whether the device may train; None where it always may."""
    clock_jumps: int = 0
    activity: str = ""
    """Set for what the machine does not know, such as a full disk; else empty."""
    _written: str = ""
    _written_at_s: float = float("-inf")
    _is_refused: bool = False

    def note_error(self, text: str, *, now_ms: int) -> None:
        """Remember an error with its fix; the same one again only counts."""
        text = _bound(text)
        for known in self.errors:
            if known["text"] == text:
                known["count"] = int(str(known["count"])) + 1
                known["time_ms"] = now_ms
                return
        self.errors.append({"time_ms": now_ms, "text": text, "count": 1})

    def describe(self) -> str:
        """What the device does now, in a few words."""
        device = self.device
        entry = device.state.outbox
        if self.activity:
            return self.activity
        if device.is_training:
            return f"training for round {device.round_in_work}"
        if device.is_waiting:
            permission = device.permission
            why = "" if permission is None else f": {permission.detail or permission.reason}"
            return f"waiting to train for round {device.round_in_work}{why}"
        if device.round_in_work is not None:
            return f"fetching model and program of round {device.round_in_work}"
        if entry is not None and not entry.is_held:
            return f"sending the update of round {entry.round}"
        if entry is not None:
            return f"waiting for the verdict of round {entry.round}"
        return "waiting for a round" if self.link.is_connected else "connecting"

    def update(self, *, now_ms: int, is_last: bool = False) -> None:
        """Write the report if it is due."""
        activity = "stopped" if is_last else self.describe()
        self.notifier.status(activity if self.link.is_connected else f"offline, {activity}")
        due_s = time.monotonic() - self._written_at_s
        if due_s < MIN_INTERVAL_S and not is_last:
            return
        content = self._content(activity)
        text = _encode(content | self._describe_news())
        if text == self._written and due_s < HEARTBEAT_S:
            return
        try:
            self.store.write_report(_encode(content | {"written_ms": now_ms}))
        except StorageError as error:
            # The report is not worth stopping for; a promise that cannot be written is told anew.
            if not self._is_refused:
                tell(30, "report-not-written", detail=error)
            self._is_refused = True
        else:
            self._is_refused = False
        self._written, self._written_at_s = text, time.monotonic()

    def _content(self, activity: str) -> dict[str, object]:
        device, link = self.device, self.link
        return {
            "activity": activity,
            "pid": os.getpid(),
            "started_ms": self.started_ms,
            "round": device.announced_round,
            "model": None if device.base is None else device.base.hex(),
            "block_time_ms": device.block_time_ms,
            **self._describe_data(),
            "guest": self._describe_guest(),
            "clock_jumps": self.clock_jumps,
            "connection": {
                "broker": link.broker,
                "is_connected": link.is_connected,
                "since_ms": link.since_ms,
                "failures": link.failures,
                "problem": _bound(link.problem),
            },
            "errors": list(self.errors),
        }

    def _describe_data(self) -> dict[str, object]:
        if self.source is None:
            return {"num_examples": None, "num_seen": None, "bad_data": None}
        pool = self.source.pool
        latest = pool.problems.latest[-MAX_PROBLEMS:]
        return {
            "num_examples": pool.num_examples,
            "num_seen": pool.num_seen,
            "bad_data": {
                "count": pool.problems.total,
                "latest": [_bound(str(problem)) for problem in latest],
            },
        }

    def _describe_news(self) -> dict[str, object]:
        """What of the data is a reason to write; a stream has a few more of each every second."""
        if self.source is None:
            return {}
        has_examples = self.source.pool.num_examples > 0
        doublings = self.source.pool.problems.total.bit_length()
        return {"num_examples": has_examples, "num_seen": None, "bad_data": doublings}

    def _describe_guest(self) -> dict[str, object] | None:
        if self.host is None:
            return None
        report = self.host.report
        return {
            "may_train": None if report.last is None else report.last.may_train,
            "reason": None if report.last is None else report.last.reason.value,
            "detail": "" if report.last is None else _bound(report.last.detail),
            "refusals": {reason.value: count for reason, count in sorted(report.refusals.items())},
        }


def _encode(content: dict[str, object]) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False)


def _bound(text: str) -> str:
    """Short and printable: as JSON it is at most twice as long, so a report stays in its bounds."""
    return "".join(c if c.isprintable() else "?" for c in text[:MAX_TEXT_CHARACTERS])
