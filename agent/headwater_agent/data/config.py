"""`[data]` of `agent.toml`: which source, where it is, and how much of it is kept in memory."""

import importlib.util
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from headwater_agent.data.labels import Labels, name_classes
from headwater_agent.data.windows import Windowing
from headwater_agent.toml_keys import TomlKeys
from headwater_models.dataset import MAX_LABEL
from headwater_protocol.errors import ConfigError

SOURCES: Final = ("csv", "npz", "sqlite", "mqtt", "python")

MAX_KEPT_EXAMPLES: Final = 10_000_000
DEFAULT_MAX_EXAMPLES: Final = 100_000
MIN_DATA_BYTES: Final = 1_024
MAX_DATA_BYTES: Final = 2**40

MIN_PERSIST_INTERVAL_S: Final = 60
"""A stream's examples are written no more often, so that they do not wear an SD card out."""
DEFAULT_PERSIST_INTERVAL_S: Final = 600
MAX_PERSIST_INTERVAL_S: Final = 24 * 3_600

MAX_QUERY_CHARACTERS: Final = 16_384
MAX_TOPIC_CHARACTERS: Final = 1_024
MAX_PATH_STEPS: Final = 16
"""Of a JSON path such as `power.phase.0`."""
MAX_WINDOW: Final = 65_536
DEFAULT_MAX_GAP_S: Final = 60.0
"""Two readings further apart are never in one window."""
MAX_GAP_S: Final = 30 * 24 * 3_600.0

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_MEMORY_KEYS: Final = ("source", "classes", "max_examples", "max_bytes", "per_class")
_STREAM_KEYS: Final = ("persist_interval_s",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """How much of a source is kept."""

    max_examples: int
    max_bytes: int
    """Of features and labels; while it trains a device holds them once more at the most."""
    per_class: bool
    """A reservoir for each class, so that rare ones keep their share."""
    persist_interval_s: int
    """Of sources that cannot be read again: a power cut loses no more than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """A folder of `*.csv` or `*.npz`, or one such file."""

    path: Path
    kind: str | None
    """`csv` or `npz`; None to go by what is there."""
    features: tuple[str, ...] | None
    """Columns by name; None for all but the label's."""
    label: str | int
    """A column by name, or by place from 0; -1 is the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuerySource:
    """A query of a SQLite database, which is opened read-only."""

    database: Path
    query: str
    features: tuple[str, ...] | None
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorBroker:
    """Where a sensor publishes; it may be another broker than the network's."""

    host: str
    port: int
    uses_tls: bool
    username: str | None
    password_file: Path | None
    ca_file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One value: a topic, and where in its payload; without a path all of it."""

    topic: str
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSource:
    """Readings from MQTT, cut into windows."""

    broker: SensorBroker
    readings: tuple[Reading, ...]
    """A row of a window, in order; a row is taken when the first one's topic speaks."""
    label: Reading
    time: tuple[str, ...] | None
    """Path of a timestamp in the first reading's payload; None for the time of arrival."""
    windowing: Windowing


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonSource:
    """A function of the user's."""

    module: str
    function: str
    folder: Path
    """Where the module is looked for first."""


Source = FileSource | QuerySource | TopicSource | PythonSource


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """A checked `[data]`."""

    source: Source
    labels: Labels
    memory: Memory

    @property
    def path(self) -> Path | None:
        """The files that are read; None where readings come over the network."""
        match self.source:
            case FileSource():
                return self.source.path
            case QuerySource():
                return self.source.database
            case PythonSource():
                return self.source.folder
            case _:
                return None

    @property
    def fingerprint(self) -> bytes:
        """What kept examples mean: they are not mixed with those of another source."""
        numbers = self.labels.numbers
        described = {
            "source": asdict(self.source),
            "classes": None if numbers is None else dict(numbers),
            "per_class": self.memory.per_class,
        }
        return json.dumps(described, sort_keys=True, default=str).encode()


def parse_data(values: dict[str, object], *, folder: Path, max_bytes: int) -> DataConfig:
    """The `[data]` table of a configuration.

    Args:
        values: The table.
        folder: What its paths are relative to.
        max_bytes: Of the examples in memory, where the table does not say.

    Raises:
        ConfigError: Names the key and the fix.
    """
    keys = TomlKeys("data", values, folder)
    name = keys.choice("source", SOURCES, SOURCES[0]) if keys.has("source") else None
    labels = _parse_classes(keys)
    memory = _parse_memory(keys, labels, max_bytes)
    source: Source
    match name:
        case "sqlite":
            source = _parse_query(keys)
        case "mqtt":
            source = _parse_topics(keys)
        case "python":
            source = _parse_callable(keys)
        case _:
            source = _parse_files(keys, name)
    return DataConfig(source=source, labels=labels, memory=memory)


def parse_path(text: str) -> tuple[str, ...] | None:
    """The steps of a JSON path such as `power.phase.0`; None if it is none."""
    steps = tuple(text.split("."))
    return steps if all(steps) and len(steps) <= MAX_PATH_STEPS else None


def _parse_classes(keys: TomlKeys) -> Labels:
    value = keys.raw("classes")
    if value is None:
        return Labels()
    if not isinstance(value, dict):
        names = TomlKeys("data", {"classes": value}, keys.folder).texts("classes")
        return name_classes(names or ())
    numbers: dict[str, int] = {}
    for name, number in value.items():
        if type(number) is not int or not 0 <= number <= MAX_LABEL:
            raise keys.refuse(
                f"classes.{name}", f"is {number!r}", fix=f"give a class number, 0 to {MAX_LABEL}"
            )
        numbers[str(name)] = number
    if not numbers:
        raise keys.refuse("classes", "is empty", fix='write classes = ["idle", "running"]')
    return Labels(numbers=MappingProxyType(numbers))


def _parse_memory(keys: TomlKeys, labels: Labels, max_bytes: int) -> Memory:
    memory = Memory(
        max_examples=keys.integer(
            "max_examples", DEFAULT_MAX_EXAMPLES, low=1, high=MAX_KEPT_EXAMPLES
        ),
        max_bytes=keys.integer("max_bytes", max_bytes, low=MIN_DATA_BYTES, high=MAX_DATA_BYTES),
        per_class=keys.flag("per_class", default=False),
        persist_interval_s=keys.integer(
            "persist_interval_s",
            DEFAULT_PERSIST_INTERVAL_S,
            low=MIN_PERSIST_INTERVAL_S,
            high=MAX_PERSIST_INTERVAL_S,
        ),
    )
    num_classes = labels.num_classes
    if memory.per_class and num_classes is None:
        raise keys.refuse(
            "per_class",
            "needs to know the classes",
            fix='name them with classes = ["idle", "running"]',
        )
    if memory.per_class and num_classes is not None and memory.max_examples < num_classes:
        raise keys.refuse(
            "max_examples",
            f"is {memory.max_examples} for {num_classes} classes",
            fix="allow at least one example a class",
        )
    return memory


def _parse_files(keys: TomlKeys, kind: str | None) -> FileSource:
    path = keys.path("path")
    own: tuple[str, ...] = ("path",) if kind == "npz" else ("path", "features", "label")
    features = None if kind == "npz" else keys.texts("features")
    label: str | int = -1 if kind == "npz" else _parse_column(keys)
    keys.require_empty((*own, *_MEMORY_KEYS, *_STREAM_KEYS))
    if features is not None and label in features:
        raise keys.refuse("features", f"holds the label {label!r}", fix="leave it out there")
    return FileSource(path=path, kind=kind, features=features, label=label)


def _parse_column(keys: TomlKeys) -> str | int:
    value = keys.raw("label")
    if value is None:
        return -1
    if isinstance(value, str) and value:
        return value
    if type(value) is int and -MAX_WINDOW <= value <= MAX_WINDOW:
        return value
    raise keys.refuse(
        "label", f"is {value!r}", fix="give the column's name, or its place from 0 (-1 is the last)"
    )


def _parse_query(keys: TomlKeys) -> QuerySource:
    database, query = keys.path("database"), keys.text("query")
    if len(query) > MAX_QUERY_CHARACTERS:
        raise keys.refuse(
            "query", f"has {len(query)} characters", fix=f"stay under {MAX_QUERY_CHARACTERS}"
        )
    features, label = keys.texts("features"), keys.text("label")
    known = ("database", "query", "features", "label", *_MEMORY_KEYS, *_STREAM_KEYS)
    keys.require_empty(known)
    if features is not None and label in features:
        raise keys.refuse("features", f"holds the label {label!r}", fix="leave it out there")
    return QuerySource(database=database, query=query, features=features, label=label)


def _parse_callable(keys: TomlKeys) -> PythonSource:
    text = keys.text("callable")
    keys.require_empty(("callable", *_MEMORY_KEYS, *_STREAM_KEYS))
    module, colon, function = text.partition(":")
    if not colon or not re.fullmatch(r"\w+(\.\w+)*", module) or not function.isidentifier():
        raise keys.refuse("callable", f"is {text!r}", fix='write it as "module:function"')
    return PythonSource(module=module, function=function, folder=keys.folder)


def _parse_topics(keys: TomlKeys) -> TopicSource:
    broker = _parse_broker(keys)
    inputs = keys.tables("inputs")
    if inputs:
        if keys.has("topic") or keys.has("fields"):
            raise keys.refuse("inputs", "stands beside topic", fix="keep one of the two")
        readings = tuple(_parse_reading(entry) for entry in inputs)
    else:
        topic = _parse_topic(keys, "topic")
        fields = keys.texts("fields")
        paths = ((),) if fields is None else tuple(_parse_field(keys, f) for f in fields)
        readings = tuple(Reading(topic=topic, path=path) for path in paths)
    entry = keys.table("label")
    if entry is None:
        raise keys.refuse(
            "label",
            "is missing",
            fix='write label = { field = "state" }, or { topic = "…" } for the last value there',
        )
    label = _parse_reading(entry, default_topic=readings[0].topic)
    if label in readings:
        raise keys.refuse("label", "is one of the readings", fix="give it a field of its own")
    time = keys.optional_text("time")
    window = keys.integer("window", 1, low=1, high=MAX_WINDOW)
    windowing = Windowing(
        length=window,
        stride=keys.integer("stride", window, low=1, high=MAX_WINDOW),
        max_gap_ms=round(
            1_000 * keys.number("max_gap_s", DEFAULT_MAX_GAP_S, low=0.001, high=MAX_GAP_S)
        ),
    )
    known = ("broker", "username", "password_file", "ca_file", "topic", "fields", "inputs")
    own = ("label", "time", "window", "stride", "max_gap_s")
    keys.require_empty((*known, *own, *_MEMORY_KEYS, *_STREAM_KEYS))
    return TopicSource(
        broker=broker,
        readings=readings,
        label=label,
        time=None if time is None else _parse_field(keys, time, key="time"),
        windowing=windowing,
    )


def _parse_reading(entry: TomlKeys, default_topic: str | None = None) -> Reading:
    topic = (
        default_topic
        if default_topic is not None and not entry.has("topic")
        else _parse_topic(entry, "topic")
    )
    field = entry.optional_text("field")
    entry.require_empty(("topic", "field"))
    return Reading(topic=topic, path=() if field is None else _parse_field(entry, field))


def _parse_topic(keys: TomlKeys, key: str) -> str:
    topic = keys.text(key)
    if "+" in topic or "#" in topic or "\0" in topic or len(topic) > MAX_TOPIC_CHARACTERS:
        raise keys.refuse(
            key, f"is {topic[:80]!r}", fix="name one topic in full; a sensor's windows are its own"
        )
    return topic


def _parse_field(keys: TomlKeys, text: str, *, key: str = "fields") -> tuple[str, ...]:
    path = parse_path(text)
    if path is None:
        raise keys.refuse(
            key, f"{text[:80]!r} is no path", fix='write it as "power" or "power.phase.0"'
        )
    return path


def _parse_broker(keys: TomlKeys) -> SensorBroker:
    text = keys.text("broker")
    fix = "write it as mqtt://host:port, or mqtts://host:port for TLS"
    if "@" in text:
        raise keys.refuse("broker", "holds a login", fix="use username and password_file")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise keys.refuse("broker", f"is {text!r}: {error}", fix=fix) from None
    if parts.scheme not in _PORTS or not parts.hostname or port == 0 or parts.path.strip("/"):
        raise keys.refuse("broker", f"is {text!r}", fix=fix)
    broker = SensorBroker(
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        uses_tls=parts.scheme == "mqtts",
        username=keys.optional_text("username"),
        password_file=keys.optional_path("password_file"),
        ca_file=keys.optional_path("ca_file"),
    )
    if broker.password_file is not None and broker.username is None:
        raise keys.refuse("password_file", "stands without username", fix="add username")
    return broker


def find_module(source: PythonSource) -> None:
    """Check that the module of a Python source can be found, without running it.

    Raises:
        ConfigError: If it cannot.
    """
    top = source.module.partition(".")[0]
    beside = source.folder / f"{top}.py"
    try:
        found = (
            beside.exists()
            or (source.folder / top).is_dir()
            or (importlib.util.find_spec(top) is not None)
        )
    except (ImportError, ValueError):
        found = False
    if not found:
        raise ConfigError(
            "data.callable", f"there is no module {top}", fix=f"put {top}.py beside agent.toml"
        )
