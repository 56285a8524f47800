"""A sensor's messages as labelled windows: no I/O, time as an argument.

A row is taken when the topic of the first reading speaks, with the last value of every other one;
a value that is older than the longest gap is no value. What a broker retained was measured before
anybody listened, so it never makes a row; as a label, the last value is what counts, and there a
retained one is welcome.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headwater_agent.data.config import Reading, TopicSource
from headwater_agent.data.labels import Labels, UnknownLabel
from headwater_agent.data.payload import (
    decode_payload,
    find_value,
    read_label,
    read_number,
    read_time_ms,
)
from headwater_agent.data.problems import Problems
from headwater_agent.data.windows import Windows
from headwater_protocol.errors import InvalidMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class _Value:
    """The last one of a reading."""

    number: float
    arrived_ms: int


class SensorStream:
    """Turns messages of one `TopicSource` into examples."""

    def __init__(self, source: TopicSource, labels: Labels, problems: Problems) -> None:
        self._source = source
        self._labels = labels
        self._problems = problems
        self._windows = Windows(source.windowing)
        self._values: dict[Reading, _Value] = {}
        self._label: int | None = None
        self.num_rows = 0
        self.num_unlabelled = 0
        """Windows that were complete before any label was known."""

    @property
    def topics(self) -> tuple[str, ...]:
        """What to subscribe to."""
        readings = (*self._source.readings, self._source.label)
        return tuple(sorted({reading.topic for reading in readings}))

    @property
    def num_gaps(self) -> int:
        """How often a window was broken off."""
        return self._windows.num_gaps

    def describe(self) -> str:
        """How far it is, for people."""
        waiting, length = self._windows.num_waiting, self._source.windowing.length
        label = "" if self._label is not None else ", and no label has come"
        return f"{waiting} of {length} rows of a window have come{label}"

    def receive(
        self, topic: str, payload: bytes, *, is_retained: bool, now_ms: int
    ) -> tuple[NDArray[np.float32], int] | None:
        """Take a message; the example that it completes, if any. Nothing is raised.

        Args:
            topic: One of `topics`; another is ignored.
            payload: Whatever came.
            is_retained: Whether the broker had kept it from before.
            now_ms: When it arrived.
        """
        source = self._source
        try:
            self._take_label(topic, payload)
        except InvalidMessage as error:
            fix = "name it in data.classes" if isinstance(error, UnknownLabel) else "see data.label"
            self._problems.add(topic, str(error), fix=fix)
            # The window's end would have another label than the one that is known.
            self._label = None
        if is_retained:
            return None
        clock = source.readings[0].topic
        try:
            self._take_values(topic, payload, now_ms)
            if topic != clock:
                return None
            row = tuple(self._fresh(reading, now_ms) for reading in source.readings)
            time_ms = now_ms
            if source.time is not None:
                body = decode_payload(payload, is_json=True)
                time_ms = read_time_ms(find_value(body, source.time))
        except _Waiting:
            self._windows.break_off()
            return None
        except InvalidMessage as error:
            self._problems.add(topic, str(error), fix="correct the sensor, or data.fields")
            if topic == clock:
                self._windows.break_off()
            return None
        self.num_rows += 1
        window = self._windows.add(row, time_ms)
        if window is None:
            return None
        if self._label is None:
            self.num_unlabelled += 1
            return None
        return window, self._label

    def _take_label(self, topic: str, payload: bytes) -> None:
        label = self._source.label
        if topic == label.topic:
            body = decode_payload(payload, is_json=bool(label.path))
            self._label = self._labels.number(read_label(find_value(body, label.path)))

    def _take_values(self, topic: str, payload: bytes, now_ms: int) -> None:
        bodies: dict[bool, object] = {}
        for reading in self._readings_of(topic):
            is_json = bool(reading.path)
            if is_json not in bodies:
                # Once for all fields of a message: they are many, and so are the messages.
                bodies[is_json] = decode_payload(payload, is_json=is_json)
            body = bodies[is_json]
            self._values[reading] = _Value(
                number=read_number(find_value(body, reading.path)), arrived_ms=now_ms
            )

    def _readings_of(self, topic: str) -> Iterator[Reading]:
        return (reading for reading in self._source.readings if reading.topic == topic)

    def _fresh(self, reading: Reading, now_ms: int) -> float:
        value = self._values.get(reading)
        if value is None or now_ms - value.arrived_ms > self._source.windowing.max_gap_ms:
            raise _Waiting
        return value.number


class _Waiting(Exception):
    """Not all readings have a value yet."""
