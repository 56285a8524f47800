"""docs/data-sources.md: every block of it works as it stands."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from headwater_agent.data.config import SOURCES, DataConfig, TopicSource, parse_data
from headwater_agent.data.problems import Problems
from headwater_agent.data.stream import SensorStream
from headwater_agent.guest.config import parse_guest
from headwater_gateway.task_file import parse_task_file
from headwater_gateway.toml_table import TomlTable
from tests.agent.data.support import make

TEXT = (Path(__file__).parents[3] / "docs/data-sources.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
TOML = [tomllib.loads(body) for language, body in BLOCKS if language == "toml"]


def test_the_page_shows_every_source() -> None:
    shown = {entry["data"].get("source") for entry in TOML if "data" in entry}
    assert shown == {None, *SOURCES}


@pytest.mark.parametrize("values", TOML, ids=str)
def test_every_toml_block_is_accepted(values: dict[str, dict[str, object]]) -> None:
    for table, content in values.items():
        match table:
            case "data":
                assert parse(content).memory.max_examples > 0
            case "guest":
                assert parse_guest(content, folder=Path()).hours
            case "normalisation":
                task = parse_task_file(TomlTable("", values, Path()))
                assert task.normalisation is not None
            case _:
                raise AssertionError(f"what is [{table}]?")


def parse(content: dict[str, object]) -> DataConfig:
    return parse_data(content, folder=Path(), max_bytes=1 << 26)


def make_stream(word: str) -> tuple[SensorStream, Problems, TopicSource]:
    (content,) = [
        entry["data"] for entry in TOML if "data" in entry and word in json.dumps(entry["data"])
    ]
    config, problems = parse(content), Problems()
    assert isinstance(config.source, TopicSource)
    return SensorStream(config.source, config.labels, problems), problems, config.source


def test_the_plugs_messages_become_windows() -> None:
    stream, problems, source = make_stream("zigbee2mqtt")
    (body,) = [json.loads(body) for language, body in BLOCKS if language == "json"]
    stream.receive(source.label.topic, b"washing", is_retained=True, now_ms=0)
    found = []
    for second in range(48):
        message = body | {"last_seen": f"2026-03-01T12:00:{second:02}+00:00", "power": second}
        found.append(
            stream.receive(
                "zigbee2mqtt/washing-machine",
                json.dumps(message).encode(),
                is_retained=False,
                now_ms=0,
            )
        )
    windows = [entry for entry in found if entry is not None]
    assert [window.shape for window, _ in windows] == [(32, 2), (32, 2)]
    assert windows[1][0][0, 0] == 16
    assert [label for _, label in windows] == [1, 1]
    assert problems.total == 0


def test_the_esp_boards_messages_become_windows() -> None:
    stream, problems, source = make_stream("spindle_current")
    current, heat = (reading.topic for reading in source.readings)
    stream.receive(source.label.topic, b"ON", is_retained=True, now_ms=0)
    stream.receive(current, b"0.40", is_retained=True, now_ms=0)
    found = []
    for second in range(33):
        if second % 10 == 0:
            stream.receive(heat, b"41.3", is_retained=False, now_ms=second * 1_000)
        found.append(stream.receive(current, b"0.52", is_retained=False, now_ms=second * 1_000 + 1))
    windows = [entry for entry in found if entry is not None]
    assert [(window.shape, label) for window, label in windows] == [((32, 2), 1)]
    assert problems.total == 0
    stream.receive(current, b"nan", is_retained=False, now_ms=34_000)
    assert problems.total == 1


@pytest.mark.parametrize("index", [0, 1])
def test_the_functions_work(tmp_path: Path, index: int) -> None:
    body = [body for language, body in BLOCKS if language == "python"][index]
    (tmp_path / f"shown_{index}.py").write_text(body)
    source, told = make(tmp_path, source="python", callable=f"shown_{index}:read")
    source.open()
    assert source.dataset().features.shape[1:] == (2,)
    source.close()
    assert told.lines == []
