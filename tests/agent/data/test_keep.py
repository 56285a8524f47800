"""A stream's examples on disk: what a power cut costs, and how often anything is written."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from headwater_agent.data.config import DataConfig
from headwater_agent.data.keep import ExampleTable, Keeper
from headwater_agent.data.pool import Pool
from headwater_agent.data.problems import Problems
from headwater_agent.errors import DiskFull, DiskReadOnly
from headwater_agent.state import Changes
from headwater_agent.store import StateStore
from headwater_models.dataset import Dataset
from headwater_protocol.identifiers import Network
from tests.agent.data.support import parse
from tests.support.agent_support import DEVICE_KEY

INTERVAL_MS = 60_000


class Stream:
    """A source that is told what to hold."""

    is_stream = True

    def __init__(self, config: DataConfig) -> None:
        self.pool = Pool(config, entropy=b"e" * 32, problems=Problems())

    def open(self) -> None:
        """Nothing to do."""

    def dataset(self) -> Dataset:
        return self.pool.dataset(why_empty=lambda: "", copies=True)

    def close(self) -> None:
        """Nothing to do."""

    def take(self, *values: float) -> None:
        for value in values:
            self.pool.offer(np.array([value, -value], np.float32), int(value) % 2)

    def values(self) -> list[float]:
        return self.dataset().features[:, 0].tolist()


def make_stream(folder: Path, **changes: object) -> Stream:
    options: dict[str, object] = {
        "source": "mqtt",
        "broker": "mqtt://a",
        "topic": "t",
        "label": {"topic": "l"},
        "max_examples": 8,
    }
    return Stream(parse(folder, **(options | changes)))


def open_store(folder: Path) -> StateStore:
    return StateStore(
        folder / "device.db", device=DEVICE_KEY.device, network=Network(b"n" * 32), creates=True
    )


def test_restart_goes_on_with_what_was_written(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    with open_store(tmp_path) as store:
        keeper = Keeper(stream, store.examples, interval_ms=INTERVAL_MS)
        keeper.restore()
        keeper.tick(0)
        stream.take(1, 2, 3)
        keeper.tick(INTERVAL_MS - 1)
        assert keeper.num_writes == 0
        keeper.tick(INTERVAL_MS)
        assert keeper.num_writes == 1
        stream.take(4)  # and the power goes
        keeper.tick(2 * INTERVAL_MS - 1)
    again = make_stream(tmp_path)
    with open_store(tmp_path) as store:
        Keeper(again, store.examples, interval_ms=INTERVAL_MS).restore()
        assert store.load().session == 0
    assert again.values() == [1, 2, 3]
    stream.take(*range(5, 200))
    again.take(4, *range(5, 200))
    assert sorted(again.values()) == sorted(stream.values())


def test_only_what_changed_is_written_and_nothing_without_news(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    with open_store(tmp_path) as store:
        table = Recorded(store.examples)
        keeper = Keeper(stream, table, interval_ms=INTERVAL_MS)  # type: ignore[arg-type]
        for minute in range(50):
            keeper.tick(minute * INTERVAL_MS)
            if minute < 5:
                stream.take(minute)
    assert table.sizes == [1] * 5


class Recorded:
    """A table that remembers how much was written."""

    def __init__(self, table: ExampleTable) -> None:
        self.table = table
        self.sizes: list[int] = []

    def save(self, fingerprint: bytes, kept: "object") -> None:
        self.sizes.append(len(kept.examples))  # type: ignore[attr-defined]
        self.table.save(fingerprint, kept)  # type: ignore[arg-type]


def test_clock_that_was_set_back_puts_no_write_off(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    with open_store(tmp_path) as store:
        keeper = Keeper(stream, store.examples, interval_ms=INTERVAL_MS)
        keeper.tick(10**13)
        stream.take(1)
        keeper.tick(1_000)
        keeper.tick(1_000 + INTERVAL_MS)
        assert keeper.num_writes == 1


def test_another_source_starts_anew_and_drops_the_old(tmp_path: Path) -> None:
    stream, other = make_stream(tmp_path), make_stream(tmp_path, topic="other")
    with open_store(tmp_path) as store:
        stream.take(1, 2, 3)
        Keeper(stream, store.examples, interval_ms=INTERVAL_MS).flush()
        keeper = Keeper(other, store.examples, interval_ms=INTERVAL_MS)
        keeper.restore()
        assert other.pool.num_examples == 0
        other.take(9)
        keeper.flush()
        kept = store.examples.load(other.pool.fingerprint)
        assert kept is not None
        assert [entry.features.tolist() for entry in kept.examples] == [[9, -9]]
        assert store.examples.load(stream.pool.fingerprint) is None


def test_smaller_limit_leaves_nothing_stale_behind(tmp_path: Path) -> None:
    options = {"per_class": True, "classes": ["0", "1"]}
    stream = make_stream(tmp_path, **options)
    stream.take(*range(8))
    with open_store(tmp_path) as store:
        Keeper(stream, store.examples, interval_ms=INTERVAL_MS).flush()
        for _ in range(2):
            small = make_stream(tmp_path, max_examples=4, **options)
            keeper = Keeper(small, store.examples, interval_ms=INTERVAL_MS)
            keeper.restore()
            assert sorted(small.values()) == [0, 1, 2, 3]
            keeper.flush()


def test_what_could_not_be_written_is_written_next_time(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    stream.take(1)
    database = sqlite3.connect(tmp_path / "broken.db", isolation_level=None)
    table = ExampleTable(database, tmp_path / "broken.db")
    keeper = Keeper(stream, table, interval_ms=INTERVAL_MS)
    database.execute("PRAGMA query_only=ON")
    with pytest.raises(DiskReadOnly, match="dmesg"):
        keeper.flush()
    assert not database.in_transaction
    database.execute("PRAGMA query_only=OFF")
    keeper.flush()
    database.close()
    assert keeper.num_writes == 1


def test_a_full_disk_costs_neither_the_state_nor_the_examples(tmp_path: Path) -> None:
    stream = make_stream(tmp_path, max_examples=1_000)
    with open_store(tmp_path) as store:
        keeper = Keeper(stream, store.examples, interval_ms=INTERVAL_MS)
        keeper.restore()
        pages = store._database.execute("PRAGMA page_count").fetchone()
        assert pages is not None
        store._database.execute(f"PRAGMA max_page_count={pages[0]}")
        stream.take(*range(1_000))
        keeper.tick(0)
        with pytest.raises(DiskFull, match="free some space"):
            keeper.tick(INTERVAL_MS)
        store.apply(Changes(session=1))
        store._database.execute("PRAGMA max_page_count=100000")
        keeper.tick(INTERVAL_MS + 1)
        assert keeper.num_writes == 0
        keeper.tick(2 * INTERVAL_MS)
        kept = store.examples.load(stream.pool.fingerprint)
        assert kept is not None
        assert (kept.count, store.load().session) == (1_000, 1)


def test_writes_of_the_state_and_of_examples_do_not_mix(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    with open_store(tmp_path) as store:
        keeper = Keeper(stream, store.examples, interval_ms=INTERVAL_MS)
        keeper.restore()
        for number in range(3):
            store.apply(Changes(session=number))
            stream.take(number)
            keeper.flush()
        assert store.load().session == 2
    with open_store(tmp_path) as store:
        kept = store.examples.load(stream.pool.fingerprint)
        assert kept is not None
        assert kept.count == 3
