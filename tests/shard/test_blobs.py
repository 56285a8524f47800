import resource
import threading
from contextlib import closing, contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.errors import StorageError, TooLarge
from headwater_protocol.messages.chunk import MAX_BLOB_BYTES
from headwater_shard import blobs as blobs_module
from headwater_shard.blobs import HEADER_BYTES, BlobStore, MissingBlob

FIRST = [b"one", b"two" * 20, b""]
SECOND = [b"three", b"four" * 10]


def segments(folder):
    return sorted(folder.glob("segment-*.blobs"))


def write(folder, *batches):
    with closing(BlobStore(folder)) as store:
        for batch in batches:
            store.put_all(batch)


def damage_of(folder):
    with closing(BlobStore(folder, read_only=True)) as store:
        return [entry for entry in store.verify() if entry is not None]


@contextmanager
def file_limit(size):
    """A disk that takes no more than `size` bytes a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@settings(max_examples=25, deadline=None)
@given(batches=st.lists(st.lists(st.binary(max_size=50), max_size=4), max_size=4))
def test_blobs_come_back_now_and_after_reopening(tmp_path_factory, batches):
    folder = tmp_path_factory.mktemp("blobs")
    expected = {blob_digest(blob): blob for batch in batches for blob in batch}
    with closing(BlobStore(folder)) as store:
        for batch in batches:
            assert store.put_all(batch) == tuple(blob_digest(blob) for blob in batch)
        assert {digest: store.get(digest) for digest in store.digests()} == expected
    for read_only in (False, True):
        with closing(BlobStore(folder, read_only=read_only)) as store:
            assert {digest: store.get(digest) for digest in store.digests()} == expected
            assert len(store) == len(expected)
            assert store.total_bytes == sum(map(len, expected.values()))
            assert list(store.verify()) == [None] * len(expected)
            assert store.damage == ()


def test_a_known_blob_is_not_written_again(tmp_path):
    with closing(BlobStore(tmp_path)) as store:
        digest = store.put(b"x")
        size = segments(tmp_path)[0].stat().st_size
        assert store.put(b"x") == digest
        assert store.put_all([b"x", b"x"]) == (digest, digest)
        assert segments(tmp_path)[0].stat().st_size == size
        assert digest in store
        assert blob_digest(b"y") not in store
        assert list(store.digests()) == [digest]


def test_a_blob_that_is_not_here_is_missing(tmp_path):
    with closing(BlobStore(tmp_path)) as store, pytest.raises(MissingBlob, match="no blob"):
        store.get(blob_digest(b"x"))


def test_a_batch_torn_at_any_byte_leaves_the_batches_before_it(tmp_path):
    whole = tmp_path / "whole"
    write(whole, FIRST)
    (path,) = segments(whole)
    first_end = path.stat().st_size
    write(whole, SECOND)
    data = path.read_bytes()
    for end in range(first_end, len(data)):
        folder = tmp_path / f"{end}"
        folder.mkdir()
        (folder / path.name).write_bytes(data[:end])
        damage = damage_of(folder)
        assert [entry.offset for entry in damage] == ([] if end == first_end else [first_end])
        with closing(BlobStore(folder)) as store:
            assert list(store.digests()) == [blob_digest(blob) for blob in FIRST]
            assert [store.get(blob_digest(blob)) for blob in FIRST] == FIRST
            store.put_all([*SECOND, b"more"])
            assert store.get(blob_digest(b"three")) == b"three"
        with closing(BlobStore(folder, read_only=True)) as store:
            assert list(store.verify()) == [None] * 6


@pytest.mark.parametrize("zeros", [1, 4, HEADER_BYTES, HEADER_BYTES + 1, 4_096])
def test_a_file_that_grew_before_its_bytes_came_is_a_torn_batch(tmp_path, zeros):
    write(tmp_path, FIRST)
    (path,) = segments(tmp_path)
    with path.open("ab") as file:
        file.write(bytes(zeros))
    assert len(damage_of(tmp_path)) == 1
    write(tmp_path, SECOND)
    with closing(BlobStore(tmp_path, read_only=True)) as store:
        assert list(store.verify()) == [None] * 5


def test_a_last_batch_with_another_digest_is_cut_off(tmp_path):
    write(tmp_path, FIRST, SECOND)
    (path,) = segments(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with closing(BlobStore(tmp_path)) as store:
        assert list(store.digests()) == [blob_digest(blob) for blob in FIRST]


def test_a_reader_finds_every_flipped_byte_and_repairs_nothing(tmp_path):
    write(tmp_path, FIRST, SECOND)
    (path,) = segments(tmp_path)
    data = path.read_bytes()
    for index in range(len(data)):
        spoiled = bytearray(data)
        spoiled[index] ^= 0x10
        path.write_bytes(spoiled)
        assert damage_of(tmp_path), index
        assert path.read_bytes() == bytes(spoiled)
    path.write_bytes(data)
    assert damage_of(tmp_path) == []


def test_bytes_that_changed_are_never_handed_out(tmp_path):
    write(tmp_path, FIRST, SECOND)
    (path,) = segments(tmp_path)
    data = bytearray(path.read_bytes())
    data[2 * HEADER_BYTES] ^= 1
    path.write_bytes(data)
    with closing(BlobStore(tmp_path)) as store:
        with pytest.raises(StorageError, match="are not blob"):
            store.get(blob_digest(b"one"))
        assert store.get(blob_digest(b"three")) == b"three"
        assert [entry is None for entry in store.verify()].count(False) == 1


def test_a_frame_that_leaves_its_batch_is_damage(tmp_path):
    write(tmp_path, [b"abc"])
    (path,) = segments(tmp_path)
    body = (99).to_bytes(4, "big") + bytes(32)
    path.write_bytes(path.read_bytes() + blobs_module._frame(body))
    (entry,) = damage_of(tmp_path)
    assert (entry.segment, entry.problem) == (path.name, "a blob's frame leaves its batch")


def test_a_blob_at_its_limit_is_stored_and_one_past_it_is_not(tmp_path, monkeypatch):
    assert blobs_module.MAX_BLOB_BYTES == MAX_BLOB_BYTES
    monkeypatch.setattr(blobs_module, "MAX_BLOB_BYTES", 100)
    with closing(BlobStore(tmp_path)) as store:
        assert store.get(store.put(bytes(100))) == bytes(100)
        with pytest.raises(TooLarge):
            store.put_all([b"fits", bytes(101)])
        assert len(store) == 1


def test_a_full_segment_gets_no_more_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(blobs_module, "SEGMENT_BYTES", 200)
    everything = [bytes([index]) * 70 for index in range(6)]
    for blob in everything[:4]:
        write(tmp_path, [blob])
    with closing(BlobStore(tmp_path)) as store:
        for blob in everything[4:]:
            store.put(blob)
    assert [path.name for path in segments(tmp_path)] == [
        "segment-000001.blobs",
        "segment-000002.blobs",
        "segment-000003.blobs",
    ]
    with closing(BlobStore(tmp_path, read_only=True)) as store:
        assert [store.get(digest) for digest in store.digests()] == everything


def test_a_reader_writes_nothing(tmp_path):
    write(tmp_path, FIRST)
    with closing(BlobStore(tmp_path, read_only=True)) as store:
        with pytest.raises(StorageError, match="reading only"):
            store.put(b"new")
        assert store.put(b"one") == blob_digest(b"one")
    with closing(BlobStore(tmp_path / "missing", read_only=True)) as store:
        assert len(store) == 0
    assert not (tmp_path / "missing").exists()


def test_a_write_that_the_disk_refuses_promises_nothing_and_leaves_no_trace(tmp_path):
    with closing(BlobStore(tmp_path)) as store:
        store.put_all(FIRST)
        (path,) = segments(tmp_path)
        size = path.stat().st_size
        with file_limit(size + 200), pytest.raises(StorageError, match="free space"):
            store.put(b"x" * 1_000)
        assert blob_digest(b"x" * 1_000) not in store
        assert [store.get(blob_digest(blob)) for blob in FIRST] == FIRST
        store.put(b"small")
        assert path.stat().st_size == size + 2 * HEADER_BYTES + 5
    with closing(BlobStore(tmp_path, read_only=True)) as store:
        assert list(store.verify()) == [None] * 4


def test_a_folder_that_cannot_be_used_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="check the disk"):
        BlobStore(tmp_path / "file")
    (tmp_path / "segment-x.blobs").write_text("")
    with pytest.raises(StorageError):
        BlobStore(tmp_path)


def test_a_segment_that_disappeared_is_a_storage_error(tmp_path):
    write(tmp_path, FIRST)
    with closing(BlobStore(tmp_path)) as store:
        segments(tmp_path)[0].unlink()
        with pytest.raises(StorageError, match="No such file"):
            store.get(blob_digest(b"one"))


def test_a_flipped_length_loses_no_byte(tmp_path):
    store = BlobStore(tmp_path)
    for index in range(3):
        store.put(bytes([index]) * 50)
    store.close()
    path = next(tmp_path.glob("segment-*.blobs"))
    written = path.read_bytes()
    damaged = bytearray(written)
    damaged[0] ^= 1
    path.write_bytes(damaged)
    BlobStore(tmp_path).close()
    aside = next(tmp_path.glob("segment-*.torn-*"))
    assert path.read_bytes() + aside.read_bytes() == bytes(damaged)


def evict(store, *, keep=frozenset(), target=0):
    return store.evict(lambda digest: digest in keep, before=store.mark, target_bytes=target)


def test_eviction_drops_what_is_not_needed_and_keeps_the_rest_over_a_restart(tmp_path):
    store = BlobStore(tmp_path)
    blobs = [bytes([n]) * 1_000 for n in range(10)]
    digests = [store.put(blob) for blob in blobs]
    assert evict(store, keep=set(digests[::2])) == 5_000
    for reopened in (store, BlobStore(tmp_path)):
        assert reopened.total_bytes == 5_000
        for index, digest in enumerate(digests):
            if index % 2:
                with pytest.raises(MissingBlob):
                    reopened.get(digest)
            else:
                assert reopened.get(digest) == blobs[index]
        reopened.close()
    assert len(list(tmp_path.glob("segment-*"))) == 1


def test_eviction_ends_where_enough_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(blobs_module, "SEGMENT_BYTES", 2_500)
    store = BlobStore(tmp_path)
    for number in range(8):
        store.put(bytes([number]) * 1_000)
    before = len(list(tmp_path.glob("segment-*")))
    assert evict(store, target=8_000) == 0
    assert evict(store, target=5_000) >= 3_000
    assert 0 < store.total_bytes <= 5_000
    assert len(list(tmp_path.glob("segment-*"))) < before
    store.close()


def test_what_was_stored_or_given_again_after_the_mark_is_spared(tmp_path):
    store = BlobStore(tmp_path)
    old, again = store.put(b"old"), store.put(b"again")
    mark = store.mark
    new = store.put(b"new")
    assert store.put(b"again") == again
    assert store.evict(lambda digest: False, before=mark, target_bytes=0) == 3
    assert old not in store
    assert store.get(again) == b"again"
    assert store.get(new) == b"new"
    # With a later mark nothing speaks for them any more.
    assert evict(store) == 8
    assert len(store) == 0
    assert store.total_bytes == 0
    store.put(b"old")
    assert store.get(old) == b"old"
    store.close()


def test_a_move_that_was_cut_short_loses_nothing(tmp_path, monkeypatch):
    store = BlobStore(tmp_path)
    kept, dropped = store.put(b"kept" * 100), store.put(b"dropped" * 100)

    def die(self, missing_ok=False):
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "unlink", die)
        with pytest.raises(StorageError):
            evict(store, keep={kept})
    store.close()
    reopened = BlobStore(tmp_path)
    assert reopened.get(kept) == b"kept" * 100
    assert reopened.total_bytes == sum(len(reopened.get(d)) for d in reopened.digests())
    assert evict(reopened, keep={kept}) == len(b"dropped" * 100)
    assert dropped not in reopened
    assert reopened.get(kept) == b"kept" * 100
    reopened.close()


def test_readers_find_what_moves_while_it_moves(tmp_path, monkeypatch):
    monkeypatch.setattr(blobs_module, "SEGMENT_BYTES", 10_000)
    monkeypatch.setattr(blobs_module, "MOVE_BYTES", 2_000)
    store = BlobStore(tmp_path)
    blobs = {store.put(bytes([n]) * 1_000): bytes([n]) * 1_000 for n in range(60)}
    keep = set(list(blobs)[::3])
    failed = []
    stop = threading.Event()

    def read():
        while not stop.is_set():
            for digest in keep:
                try:
                    assert store.get(digest) == blobs[digest]
                except Exception as error:
                    failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    assert evict(store, keep=keep) == 40_000
    stop.set()
    thread.join()
    assert failed == []
    store.close()
