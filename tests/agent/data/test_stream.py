"""Sensors' messages as windows: payloads, gaps, labels, and what is retained."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_agent.data.config import TopicSource
from headwater_agent.data.payload import (
    MAX_SENSOR_PAYLOAD_BYTES,
    BadPayload,
    decode_payload,
    find_value,
    read_number,
    read_time_ms,
)
from headwater_agent.data.stream import SensorStream
from headwater_agent.data.windows import Windowing, Windows
from headwater_protocol.errors import InvalidMessage
from tests.agent.data.support import Told, parse

START_MS = 1_700_000_000_000
TOPIC = "zigbee2mqtt/plug"
BASE: dict[str, object] = {
    "source": "mqtt",
    "broker": "mqtt://127.0.0.1",
    "topic": TOPIC,
    "fields": ["power", "voltage"],
    "label": {"field": "state"},
    "classes": ["OFF", "ON"],
    "window": 3,
    "stride": 2,
    "max_gap_s": 10,
}
Example = tuple[np.ndarray, int]  # type: ignore[type-arg]


class Sensor:
    """Drives a stream with a clock of its own."""

    def __init__(self, **options: object) -> None:
        config = parse(Path(), **{k: v for k, v in (BASE | options).items() if v is not None})
        assert isinstance(config.source, TopicSource)
        self.told = Told()
        self.stream = SensorStream(config.source, config.labels, self.told.problems)
        self.now_ms = START_MS
        self.examples: list[Example] = []

    def send(
        self, payload: object, *, topic: str = TOPIC, after_ms: int = 1_000, retained: bool = False
    ) -> None:
        self.now_ms += after_ms
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        found = self.stream.receive(topic, data, is_retained=retained, now_ms=self.now_ms)
        if found is not None:
            self.examples.append(found)


def plug(power: object, state: object = "ON", voltage: object = 230) -> dict[str, object]:
    return {"power": power, "voltage": voltage, "state": state, "linkquality": 80}


def test_windows_overlap_by_the_stride_and_carry_the_last_label() -> None:
    sensor = Sensor()
    for number in range(7):
        sensor.send(plug(number, "ON" if number < 5 else "OFF"))
    powers = [window[:, 0].tolist() for window, _ in sensor.examples]
    assert powers == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    assert [label for _, label in sensor.examples] == [1, 1, 0]
    assert sensor.examples[0][0].shape == (3, 2)
    assert sensor.examples[0][0].dtype == np.float32


def test_no_window_runs_through_a_gap() -> None:
    sensor = Sensor()
    sensor.send(plug(0))
    sensor.send(plug(1))
    sensor.send(plug(2), after_ms=10_001)
    assert sensor.examples == []
    sensor.send(plug(3))
    sensor.send(plug(4), after_ms=10_000)
    assert [window[:, 0].tolist() for window, _ in sensor.examples] == [[2, 3, 4]]
    assert sensor.stream.num_gaps == 1


def test_a_reading_that_is_lost_breaks_the_window() -> None:
    sensor = Sensor()
    sensor.send(plug(0))
    sensor.send(plug(1))
    sensor.send(plug("nan"))
    for number in (3, 4):
        sensor.send(plug(number))
    assert sensor.examples == []
    sensor.send(plug(5))
    assert len(sensor.examples) == 1
    assert "nan is not finite" in sensor.told.lines[0]


def test_time_of_the_sensor_decides_where_there_is_one() -> None:
    sensor = Sensor(time="last_seen", window=2, stride=1)
    for second, after_ms in ((0, 1), (1, 60_000), (60, 1)):
        sensor.send(
            plug(second) | {"last_seen": f"2026-01-01T00:{second // 60:02}:{second % 60:02}+00:00"},
            after_ms=after_ms if after_ms < 10_000 else 1_000,
        )
    assert [window[:, 0].tolist() for window, _ in sensor.examples] == [[0, 1]]
    sensor.send(plug(1))
    assert "no 'last_seen'" in sensor.told.lines[0]


def test_label_of_a_second_topic_is_its_last_value_even_retained() -> None:
    sensor = Sensor(label={"topic": "home/label"}, window=1, stride=1)
    sensor.send(plug(1))
    assert sensor.examples == []
    assert sensor.stream.num_unlabelled == 1
    sensor.send(b"ON", topic="home/label", retained=True)
    sensor.send(plug(2))
    sensor.send(b"OFF", topic="home/label")
    sensor.send(plug(3))
    sensor.send(b"purple", topic="home/label")
    sensor.send(plug(4))
    assert [label for _, label in sensor.examples] == [1, 0]
    assert "home/label: the label 'purple' is no class; name it in data.classes" in (
        sensor.told.lines
    )


def test_retained_reading_is_no_reading() -> None:
    sensor = Sensor(window=1, stride=1)
    sensor.send(plug(1), retained=True)
    assert sensor.examples == []
    sensor.send(plug(2))
    assert len(sensor.examples) == 1


def test_plain_numbers_of_several_topics_join_at_the_first() -> None:
    sensor = Sensor(
        topic=None,
        fields=None,
        inputs=[{"topic": "shop/sensor/current/state"}, {"topic": "shop/sensor/heat/state"}],
        label={"topic": "shop/binary_sensor/door/state"},
        window=2,
        stride=2,
    )
    sensor.send(b"OFF", topic="shop/binary_sensor/door/state")
    sensor.send(b"0.10", topic="shop/sensor/current/state")
    sensor.send(b"21.5", topic="shop/sensor/heat/state")
    sensor.send(b"0.20", topic="shop/sensor/current/state")
    sensor.send(b"0.30", topic="shop/sensor/current/state")
    ((window, label),) = sensor.examples
    assert window.tolist() == np.array([[0.2, 21.5], [0.3, 21.5]], np.float32).tolist()
    assert label == 0
    # A value older than the longest gap is none.
    sensor.send(b"0.40", topic="shop/sensor/current/state", after_ms=9_000)
    sensor.send(b"0.50", topic="shop/sensor/current/state", after_ms=9_000)
    assert len(sensor.examples) == 1


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff",
        b"{",
        b"[]",
        b"null",
        b"[" * 20_000,
        b"1" * 5_000,
        b'{"power": null, "voltage": 1, "state": "ON"}',
        b'{"power": {}, "voltage": 1, "state": "ON"}',
        b'{"power": NaN, "voltage": 1, "state": "ON"}',
        b'{"power": 1e39, "voltage": 1, "state": "ON"}',
        b'{"power": 1' + b"0" * 400 + b', "voltage": 1, "state": "ON"}',
        b'{"power": 1, "voltage": 1, "state": ["ON"]}',
        b" " * (MAX_SENSOR_PAYLOAD_BYTES + 1),
        b"",
    ],
)
def test_bad_payloads_are_counted_and_never_raised(payload: bytes) -> None:
    sensor = Sensor(window=1, stride=1)
    sensor.send(payload)
    assert sensor.examples == []
    assert sensor.told.problems.total >= 1
    assert all("\n" not in line and line.startswith(TOPIC) for line in sensor.told.lines)


@given(payload=st.binary(max_size=64), retained=st.booleans())
def test_any_bytes_are_survived(payload: bytes, retained: bool) -> None:
    sensor = Sensor(window=1, stride=1, time="power")
    sensor.send(payload, retained=retained)


@given(
    steps=st.lists(st.integers(-5, 30), min_size=1, max_size=60),
    length=st.integers(1, 5),
    stride=st.integers(1, 7),
)
def test_windows_are_runs_of_neighbours(steps: list[int], length: int, stride: int) -> None:
    windows = Windows(Windowing(length=length, stride=stride, max_gap_ms=10))
    time_ms, times, found = 0, [], []
    for number, step in enumerate(steps):
        time_ms += step
        times.append(time_ms)
        window = windows.add((float(number),), time_ms)
        if window is not None:
            found.append(window[:, 0].astype(int).tolist())
    for window in found:
        assert window == list(range(window[0], window[0] + length))
        gaps = [times[after] - times[before] for before, after in itertools.pairwise(window)]
        assert all(0 <= gap <= 10 for gap in gaps)
    for before, after in itertools.pairwise(found):
        assert after[0] - before[0] >= min(stride, 1)
        # A break begins anew; else the stride is exact.
        is_unbroken = all(0 <= times[n + 1] - times[n] <= 10 for n in range(before[0], after[-1]))
        assert not is_unbroken or after[0] - before[0] == stride


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3.0), (" 2.5 ", 2.5), (True, 1.0), ("OFF", 0.0), ("on", 1.0), ("-1e3", -1000.0)],
)
def test_numbers(value: object, expected: float) -> None:
    assert read_number(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_700_000_000, START_MS),
        (START_MS, START_MS),
        (1_700_000_000.5, START_MS + 500),
        ("2023-11-14T22:13:20Z", START_MS),
        ("2023-11-14T23:13:20.000+01:00", START_MS),
        ("2023-11-14T22:13:20", START_MS),
        ("1700000000", START_MS),
    ],
)
def test_times(value: object, expected: int) -> None:
    assert read_time_ms(value) == expected


@pytest.mark.parametrize(
    "call",
    [
        lambda: read_time_ms("yesterday"),
        lambda: read_time_ms(True),
        lambda: read_time_ms(float("inf")),
        lambda: read_time_ms(-1),
        lambda: read_number([1]),
        lambda: read_number("inf"),
        lambda: find_value({"a": [1]}, ("a", "1")),
        lambda: find_value({"a": None}, ("a",)),
        lambda: decode_payload(b"\xff", is_json=False),
    ],
)
def test_values_that_are_none(call: Callable[[], object]) -> None:
    with pytest.raises(InvalidMessage):
        call()


def test_paths_lead_into_objects_and_lists() -> None:
    assert find_value({"a": [{"b": 2}]}, ("a", "0", "b")) == 2
    with pytest.raises(BadPayload, match=r"a\.0\.c"):
        find_value({"a": [{"b": 2}]}, ("a", "0", "c"))
