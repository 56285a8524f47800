"""From a checked `[data]` to the source that reads it; code is loaded for that one only."""

from collections.abc import Callable
from typing import assert_never

from headwater_agent.data.config import (
    DataConfig,
    FileSource,
    PythonSource,
    QuerySource,
    TopicSource,
)
from headwater_agent.data.pool import ExampleSource, Pool
from headwater_agent.data.problems import Problems


def make_source(
    config: DataConfig, *, entropy: bytes, problems: Problems, clock: Callable[[], int]
) -> ExampleSource:
    """The source that `config` describes, not opened yet.

    Args:
        config: Checked.
        entropy: Decides which examples are kept where not all of them are.
        problems: Counts what is wrong with the data.
        clock: UTC in milliseconds.
    """
    source, labels = config.source, config.labels
    pool = Pool(config, entropy=entropy, problems=problems)
    match source:
        case FileSource():
            if (source.kind or _guess_kind(source)) == "npz":
                from headwater_agent.data.npz_files import NpzFiles  # noqa: PLC0415

                return NpzFiles(source, config, pool)
            from headwater_agent.data.csv_files import CsvFiles  # noqa: PLC0415

            return CsvFiles(source, labels, pool, clock=clock)
        case QuerySource():
            from headwater_agent.data.query import SqliteQuery  # noqa: PLC0415

            return SqliteQuery(source, labels, pool)
        case PythonSource():
            from headwater_agent.data.function import PythonFunction  # noqa: PLC0415

            return PythonFunction(source, labels, pool)
        case TopicSource():
            from headwater_agent.data.stream import SensorStream  # noqa: PLC0415
            from headwater_agent.data.topic import SensorTopic  # noqa: PLC0415

            return SensorTopic(source, SensorStream(source, labels, problems), pool, clock=clock)
        case _:
            assert_never(source)


def _guess_kind(source: FileSource) -> str:
    if source.path.suffix == ".npz":
        return "npz"
    return "npz" if source.path.is_dir() and any(source.path.glob("*.npz")) else "csv"
