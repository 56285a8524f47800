"""`[data]`: what is accepted, and one line with the fix for what is not."""

from pathlib import Path

import pytest

from headwater_agent.data.config import (
    DEFAULT_MAX_EXAMPLES,
    MIN_PERSIST_INTERVAL_S,
    FileSource,
    TopicSource,
)
from headwater_agent.data.labels import Labels, UnknownLabel, name_classes
from headwater_protocol.errors import ConfigError
from tests.agent.data.support import parse

MQTT: dict[str, object] = {
    "source": "mqtt",
    "broker": "mqtt://a",
    "topic": "t",
    "label": {"topic": "l"},
}
SQLITE: dict[str, object] = {"source": "sqlite", "database": "a", "query": "q", "label": "l"}


def test_a_path_alone_is_enough() -> None:
    config = parse(Path("/etc/headwater"), path="data")
    assert config.source == FileSource(
        path=Path("/etc/headwater/data"), kind=None, features=None, label=-1
    )
    assert (config.memory.max_examples, config.memory.max_bytes) == (DEFAULT_MAX_EXAMPLES, 1 << 20)


def test_broker_may_be_another_one() -> None:
    config = parse(Path(), **MQTT | {"broker": "mqtts://sensors:99", "username": "u"})
    assert isinstance(config.source, TopicSource)
    broker = config.source.broker
    assert (broker.host, broker.port, broker.uses_tls) == ("sensors", 99, True)
    assert config.source.windowing.length == config.source.windowing.stride == 1


def test_interval_of_writes_has_a_least(tmp_path: Path) -> None:
    found = parse(tmp_path, **MQTT | {"persist_interval_s": MIN_PERSIST_INTERVAL_S})
    assert found.memory.persist_interval_s == MIN_PERSIST_INTERVAL_S
    with pytest.raises(ConfigError, match="persist_interval_s"):
        parse(tmp_path, **MQTT | {"persist_interval_s": MIN_PERSIST_INTERVAL_S - 1})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "data.path: is missing"),
        ({"source": "excel", "path": "a"}, "csv, npz, sqlite, mqtt, python"),
        ({"path": "a", "labels": "b"}, "data.labels: is no key"),
        ({"path": "a", "label": 1.5}, "data.label"),
        ({"path": "a", "features": ["x", "x"]}, "twice"),
        ({"path": "a", "features": ["x"], "label": "x"}, "holds the label"),
        ({"path": "a", "max_examples": 0}, "data.max_examples"),
        ({"path": "a", "max_bytes": 3}, "data.max_bytes"),
        ({"path": "a", "per_class": True}, "data.per_class: needs to know the classes"),
        ({"path": "a", "per_class": True, "classes": ["a", "b"], "max_examples": 1}, "2 classes"),
        ({"path": "a", "classes": {"a": -1}}, "data.classes.a"),
        ({"path": "a", "classes": {}}, "data.classes"),
        ({"path": "a", "classes": "a"}, "data.classes"),
        ({"source": "npz", "path": "a", "features": ["x"]}, "data.features: is no key"),
        (SQLITE | {"query": "q" * 20_000}, "data.query"),
        (SQLITE | {"label": 3}, "data.label"),
        ({"source": "python", "callable": "read"}, "module:function"),
        ({"source": "python", "callable": "a b:read"}, "module:function"),
        ({"source": "python", "callable": "../a:read"}, "module:function"),
        (MQTT | {"topic": "a/#"}, "name one topic in full"),
        (MQTT | {"topic": "a/+/b"}, "name one topic in full"),
        (MQTT | {"fields": ["a..b"]}, "no path"),
        (MQTT | {"fields": ["a"], "label": {"topic": "t", "field": "a"}}, "data.label"),
        (MQTT | {"inputs": [{"topic": "x"}]}, "stands beside topic"),
        (MQTT | {"label": {"field": 3}}, "data.label.field"),
        (MQTT | {"label": {"name": "l"}}, "data.label.name"),
        (MQTT | {"label": "l"}, "data.label"),
        ({k: v for k, v in MQTT.items() if k != "label"}, "data.label: is missing"),
        (MQTT | {"broker": "mqtt://user:secret@a"}, "data.broker: holds a login"),
        (MQTT | {"broker": "http://a"}, "mqtt://host:port"),
        (MQTT | {"password_file": "a"}, "without username"),
        (MQTT | {"window": 0}, "data.window"),
        (MQTT | {"max_gap_s": 0}, "data.max_gap_s"),
    ],
)
def test_wrong_value_names_the_key_and_the_fix(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Path(), **values)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert "secret" not in message


def test_fingerprint_tells_sources_apart_and_not_limits() -> None:
    plain = parse(Path(), **MQTT).fingerprint
    assert parse(Path(), **MQTT | {"max_examples": 5}).fingerprint == plain
    for changes in ({"topic": "u"}, {"window": 2}, {"classes": ["a"]}):
        assert parse(Path(), **MQTT | changes).fingerprint != plain


@pytest.mark.parametrize(
    ("label", "number"), [("3", 3), (" 3 ", 3), (3.0, 3), (True, 1), ("3.0", 3)]
)
def test_numbers_are_labels(label: object, number: int) -> None:
    assert Labels().number(label) == number


@pytest.mark.parametrize(
    "label", ["a", "-1", -1, 1.5, "1_0", "", None, float("nan"), 2**21, "9" * 30]
)
def test_what_is_no_label(label: object) -> None:
    with pytest.raises(UnknownLabel):
        Labels().number(label)


def test_names_are_labels() -> None:
    labels = name_classes(("false", "true", "7"))
    assert [labels.number(entry) for entry in (False, True, 7, 7.0, " true ")] == [0, 1, 2, 2, 1]
    with pytest.raises(UnknownLabel, match="'maybe' is no class"):
        labels.number("maybe")
