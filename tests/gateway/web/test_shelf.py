"""The quota: what is settled goes, what is needed or young stays, and "all" keeps all."""

from pathlib import Path

from headwater_gateway.web.config import Keep, StorageConfig
from headwater_gateway.web.shelf import GRACE_MS, LOW_WATER_PERCENT, Shelf
from headwater_protocol.identifiers import Digest
from headwater_shard.blobs import BlobStore

QUOTA = 10_000


class Clock:
    now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


def make_shelf(folder: Path, clock: Clock, keep: Keep = Keep.NEEDED) -> Shelf:
    store = BlobStore(folder)
    return Shelf(store, StorageConfig(keep=keep, quota_bytes=QUOTA), now_ms=clock)


def fill(shelf: Shelf, first: int, count: int) -> list[Digest]:
    return [shelf.put(bytes([number]) * 1_000) for number in range(first, first + count)]


def test_past_the_quota_what_is_settled_goes_and_what_is_needed_stays(tmp_path: Path) -> None:
    clock = Clock()
    shelf = make_shelf(tmp_path, clock)
    old = fill(shelf, 0, 9)
    needed = frozenset(old[:2])
    assert not shelf.has_room(1_001)
    assert shelf.tidy(needed) == 0, "too young"
    clock.now_ms += GRACE_MS
    young = fill(shelf, 100, 2)
    assert shelf.tidy(needed) == 0, "stored before a mark that is only now old enough"
    clock.now_ms += GRACE_MS
    young += fill(shelf, 200, 1)
    assert shelf.tidy(needed) >= QUOTA * (100 - LOW_WATER_PERCENT) // 100
    assert all(digest in shelf for digest in (*needed, young[-1]))
    assert shelf.store.total_bytes <= QUOTA * LOW_WATER_PERCENT // 100
    assert shelf.has_room(1_000)
    shelf.store.close()


def test_all_keeps_all_and_takes_no_more_for_others(tmp_path: Path) -> None:
    clock = Clock()
    shelf = make_shelf(tmp_path, clock, Keep.ALL)
    blobs = fill(shelf, 0, 12)
    clock.now_ms += 3 * GRACE_MS
    assert shelf.tidy(frozenset()) == 0
    clock.now_ms += 3 * GRACE_MS
    assert shelf.tidy(frozenset()) == 0
    assert all(digest in shelf for digest in blobs)
    assert not shelf.has_room(1)
    # What was promised is stored in any case.
    assert shelf.put(b"own") in shelf
    shelf.store.close()


def test_below_the_quota_nothing_goes(tmp_path: Path) -> None:
    clock = Clock()
    shelf = make_shelf(tmp_path, clock)
    fill(shelf, 0, 8)
    clock.now_ms += 2 * GRACE_MS
    shelf.tidy(frozenset())
    clock.now_ms += 2 * GRACE_MS
    assert shelf.tidy(frozenset()) == 0
    assert len(shelf.store) == 8
    shelf.store.close()


def test_without_a_quota_there_is_always_room(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    assert Shelf(store, StorageConfig(), now_ms=Clock()).has_room(10**15)
    store.close()
