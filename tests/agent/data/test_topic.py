"""A sensor's topic over a real, embedded broker: it may come late, go away and come back."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from headwater_agent.data.pool import ExampleSource, NoExamples
from headwater_agent.data.topic import SensorTopic
from headwater_protocol.errors import ConfigError
from tests.agent.data.support import Told, make
from tests.support.sensor_broker import connected_sensor, free_port, running_broker

TOPIC = "zigbee2mqtt/plug"


def options(port: int, **changes: object) -> dict[str, object]:
    values: dict[str, object] = {
        "source": "mqtt",
        "broker": f"mqtt://127.0.0.1:{port}",
        "topic": TOPIC,
        "fields": ["power"],
        "label": {"topic": "home/label"},
        "classes": ["idle", "busy"],
        "window": 2,
        "stride": 1,
    }
    return values | changes


class Watch:
    """Waits for what a source's thread does, by being told of each step."""

    def __init__(self, source: ExampleSource) -> None:
        assert isinstance(source, SensorTopic)
        self._condition = threading.Condition()
        self._client = source._client
        assert self._client is not None
        for name in ("on_message", "on_subscribe", "on_connect_fail", "on_disconnect"):
            setattr(self._client, name, self._after(getattr(self._client, name)))
        self.num_subscribed = 0

    def _after(self, call: Callable[..., object] | None) -> Callable[..., None]:
        def told(*arguments: object) -> None:
            if call is not None:
                call(*arguments)
            with self._condition:
                self.num_subscribed += call is None
                self._condition.notify_all()

        return told

    def until(self, is_done: Callable[[], bool]) -> None:
        with self._condition:
            assert self._condition.wait_for(is_done, 10), "it did not happen in time"


def test_broker_that_comes_late_is_found_and_windows_become_examples(tmp_path: Path) -> None:
    port = free_port()
    source, told = make(tmp_path, **options(port))
    source.open()
    watch = Watch(source)
    try:
        with pytest.raises(NoExamples, match="0 of 2 rows"):
            source.dataset()
        with running_broker(port), connected_sensor(port) as sensor:
            sensor.publish("home/label", "busy", qos=1, retain=True)
            watch.until(lambda: watch.num_subscribed == 1)
            for power in range(3):
                sensor.publish(TOPIC, f'{{"power": {power}}}', qos=1)
            sensor.publish(TOPIC, "garbage", qos=1)
            watch.until(lambda: source.pool.num_examples == 2 and any_garbage(told))
            found = source.dataset()
            assert found.features.tolist() == [[[0], [1]], [[1], [2]]]
            assert found.labels.tolist() == [1, 1]
    finally:
        source.close()
    assert any("there is no broker" in line for line in told.lines)


def any_garbage(told: Told) -> bool:
    return any("is no JSON" in line for line in told.lines)


def test_connection_that_ends_is_made_again(tmp_path: Path) -> None:
    port = free_port()
    source, _ = make(tmp_path, **options(port, window=1))
    source.open()
    # Before there is a broker, so that no subscription goes unseen.
    watch = Watch(source)
    try:
        with running_broker(port):
            watch.until(lambda: watch.num_subscribed == 1)
        with running_broker(port), connected_sensor(port) as sensor:
            watch.until(lambda: watch.num_subscribed == 2)
            sensor.publish("home/label", "idle", qos=1)
            sensor.publish(TOPIC, '{"power": 5}', qos=1)
            watch.until(lambda: source.pool.num_examples == 1)
    finally:
        source.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"username": "a", "password_file": "none.txt"}, "data.password_file"),
        ({"broker": "mqtts://127.0.0.1:1", "ca_file": "none.pem"}, "data.ca_file"),
    ],
)
def test_files_that_are_missing_end_the_start(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    source, _ = make(tmp_path, **options(1, **changes))
    with pytest.raises(ConfigError, match=words):
        source.open()
