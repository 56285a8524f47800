"""What the store promises: all or nothing, contiguous, one writer, alive after any kill."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.chain.block import header_digest, verify_certificate
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.errors import StorageError
from headwater_protocol.identifiers import ChainId, Height, Network
from headwater_shard.engine.bft.effects import DurableEffect, Finalized, Persist
from headwater_shard.engine.embedded import EmbeddedEngine, ReplicaSetup
from headwater_shard.store import PAGE_BYTES, LedgerStore
from tests.support.engine_support import (
    CHAIN,
    DRIFT_MS,
    NETWORK,
    KeyValueLedger,
    committee_of,
    key_of,
)

GENESIS = b"genesis"
NOW = 1_000_000


def open_store(path: Path) -> LedgerStore:
    return LedgerStore.open(path, network=NETWORK, chain=CHAIN, genesis=GENESIS)


def record_run(count: int) -> tuple[list[Finalized], list[Persist]]:
    finals: list[Finalized] = []
    persists: list[Persist] = []

    def write(effects: list[DurableEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Finalized):
                finals.append(effect)
            else:
                persists.append(effect)

    committee = committee_of([10] * 4)
    engine = EmbeddedEngine(
        replicas=[
            ReplicaSetup(key=key_of(index), application=KeyValueLedger(committee))
            for index in range(4)
        ],
        verifier=DirectVerifier(),
        write=write,  # type: ignore[arg-type]
        clock_drift_ms=DRIFT_MS,
    )
    for number in range(count):
        engine.submit(b"k%d=%d" % (number % 7, number), NOW + number)
    engine.submit(b"k3=", NOW + count)
    return finals, persists


FINALS, PERSISTS = record_run(12)


def append(store: LedgerStore, final: Finalized) -> None:
    store.append(final.block, final.certificate, final.execution.changes, final.rotation)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shard-1.db"


def test_a_new_store_is_empty_and_knows_its_chain(path: Path) -> None:
    with open_store(path) as store:
        assert (store.height, store.load_tip(), list(store.iter_blocks(Height(1)))) == (0, None, [])
        assert (store.network, store.chain, store.load_genesis()) == (NETWORK, CHAIN, GENESIS)
        assert list(store.load_entries()) == []
        assert store.load_votes() == {}
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA page_size").fetchone() == (PAGE_BYTES,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_what_was_appended_is_loaded_after_a_restart(path: Path) -> None:
    with open_store(path) as store:
        for final in FINALS:
            append(store, final)
    with open_store(path) as store:
        tip = store.load_tip()
        assert tip is not None
        last = FINALS[-1]
        assert (tip.block, tip.certificate, tip.rotation) == (
            last.block,
            last.certificate,
            last.rotation,
        )
        assert [final.block for final in store.iter_blocks(Height(4))] == [
            final.block for final in FINALS[3:]
        ]
        assert store.load_block(Height(99)) is None
        assert store.height == len(FINALS)


def test_entries_are_the_sum_of_all_changes(path: Path) -> None:
    expected: dict[tuple[str, bytes], bytes] = {}
    with open_store(path) as store:
        for final in FINALS:
            append(store, final)
            for namespace, changes in final.execution.changes.items():
                for key, value in changes.items():
                    if value is None:
                        expected.pop((namespace, key))
                    else:
                        expected[namespace, key] = value
        assert list(store.load_entries()) == [
            (namespace, key, expected[namespace, key]) for namespace, key in sorted(expected)
        ]
        assert ("entries", b"k3") not in expected


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(
        st.dictionaries(
            st.sampled_from(["a", "b"]),
            st.dictionaries(
                st.binary(max_size=3), st.one_of(st.none(), st.binary(max_size=5)), max_size=4
            ),
        ),
        max_size=len(FINALS),
    )
)
def test_any_changes_leave_what_a_dictionary_would_hold(
    tmp_path_factory: pytest.TempPathFactory, steps: list[dict[str, dict[bytes, bytes | None]]]
) -> None:
    expected: dict[tuple[str, bytes], bytes] = {}
    folder = tmp_path_factory.mktemp("store")
    with open_store(folder / "x.db") as store:
        for final, changes in zip(FINALS, steps, strict=False):
            store.append(final.block, final.certificate, changes, final.rotation)
            for namespace, entries in changes.items():
                for key, value in entries.items():
                    if value is None:
                        expected.pop((namespace, key), None)
                    else:
                        expected[namespace, key] = value
        assert {(n, k): v for n, k, v in store.load_entries()} == expected
    shutil.rmtree(folder)


def test_a_block_out_of_order_is_refused_and_leaves_nothing(path: Path) -> None:
    with open_store(path) as store:
        append(store, FINALS[0])
        for wrong in (FINALS[0], FINALS[2]):
            with pytest.raises(StorageError, match="does not follow block 1"):
                append(store, wrong)
        with pytest.raises(StorageError, match="does not follow block 2"):
            store.write([FINALS[1], FINALS[3]])
        assert store.height == 1
        assert [k for _, k, _ in store.load_entries()] == [b"k0"]
        append(store, FINALS[1])


def test_signed_states_come_back_with_the_blocks_that_they_name(path: Path) -> None:
    first = [persist for persist in PERSISTS if persist.state.height == 1]
    with open_store(path) as store:
        store.persist_votes(first)
    with open_store(path) as store:
        saved = store.load_votes()
        assert sorted(saved) == [key_of(i).validator for i in sorted_keys()]
        for validator, entry in saved.items():
            latest = [p.state for p in first if p.state.validator == validator][-1]
            assert entry.state == latest
            assert latest.lock.valid is not None
            assert [header_digest(block.header) for block in entry.blocks] == [
                latest.lock.valid.block
            ]


def sorted_keys() -> list[int]:
    return sorted(range(4), key=lambda index: key_of(index).validator)


def test_proposed_blocks_are_dropped_when_their_height_is_final(path: Path) -> None:
    with open_store(path) as store:
        store.persist_votes([p for p in PERSISTS if p.state.height == 1])
        append(store, FINALS[0])
        assert all(not saved.blocks for saved in store.load_votes().values())
        assert store._one("SELECT count(*) FROM proposal", ()) == (0,)


def test_a_step_is_written_in_one_transaction(path: Path) -> None:
    with open_store(path) as store:
        store.write([PERSISTS[0], FINALS[0], PERSISTS[-1]])
        assert store.height == 1
        broken = replace(PERSISTS[0], state=replace(PERSISTS[0].state, view=0.5))  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            store.write([FINALS[1], broken])
        assert store.height == 1
        assert store.load_block(Height(2)) is None


def test_closing_leaves_one_file_and_the_lock(path: Path) -> None:
    store = open_store(path)
    append(store, FINALS[0])
    assert path.with_name(path.name + "-wal").exists()
    store.close()
    store.close()
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, path.name + ".lock"]


def test_a_second_writer_is_told_that_the_ledger_is_open(path: Path) -> None:
    with open_store(path), pytest.raises(StorageError, match="another process has the ledger open"):
        open_store(path)
    open_store(path).close()


def test_another_chains_store_is_refused(path: Path) -> None:
    open_store(path).close()
    for network, chain, genesis, problem in (
        (Network(bytes(32)), CHAIN, GENESIS, "of network"),
        (NETWORK, ChainId("other"), GENESIS, "not other of"),
        (NETWORK, CHAIN, b"?", "another genesis"),
    ):
        with pytest.raises(StorageError, match=problem):
            LedgerStore.open(path, network=network, chain=chain, genesis=genesis)
    open_store(path).close()


def test_an_auditor_reads_a_closed_a_live_and_an_abandoned_store(path: Path) -> None:
    store = open_store(path)
    for final in FINALS[:3]:
        append(store, final)
    with LedgerStore.open_read_only(path) as auditor:
        assert auditor.height == 3
        assert len(list(auditor.iter_blocks(Height(1)))) == 3
    abandoned = path.parent / "abandoned"
    abandoned.mkdir()
    for suffix in ("", "-wal"):
        shutil.copyfile(str(path) + suffix, abandoned / (path.name + suffix))
    with LedgerStore.open_read_only(abandoned / path.name) as auditor:
        assert auditor.height == 3
    store.close()
    before = sorted((file.name, file.stat().st_mtime_ns) for file in path.parent.iterdir())
    with LedgerStore.open_read_only(path) as auditor:
        assert auditor.height == 3
        with pytest.raises(StorageError, match="opened for reading only"):
            append(auditor, FINALS[3])
        with pytest.raises(StorageError, match="opened for reading only"):
            auditor.persist_votes(PERSISTS[:1])
    assert sorted((f.name, f.stat().st_mtime_ns) for f in path.parent.iterdir()) == before


@pytest.mark.parametrize("has_log", [False, True])
def test_an_auditor_reads_a_folder_that_may_not_be_written(
    path: Path, has_log: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(path)
    for final in FINALS[:3]:
        append(store, final)
    folder = path.parent / "evidence"
    folder.mkdir()
    if not has_log:
        store.close()
    for suffix in ("", "-wal"):
        if Path(str(path) + suffix).exists():
            shutil.copyfile(str(path) + suffix, folder / (path.name + suffix))
            os.chmod(folder / (path.name + suffix), 0o444)
    store.close()
    os.chmod(folder, 0o555)
    # Root may write anywhere; what it would be told elsewhere decides.
    monkeypatch.setattr(os, "access", lambda *_: False)
    before = sorted(file.name for file in folder.iterdir())
    with LedgerStore.open_read_only(folder / path.name) as auditor:
        assert [final.block for final in auditor.iter_blocks(Height(1))] == [
            final.block for final in FINALS[:3]
        ]
    assert sorted(file.name for file in folder.iterdir()) == before
    os.chmod(folder, 0o755)


def test_a_missing_or_foreign_or_damaged_file_is_named_with_a_fix(path: Path) -> None:
    with pytest.raises(StorageError, match="there is no ledger"):
        LedgerStore.open_read_only(path)
    with pytest.raises(StorageError, match="check that the folder exists"):
        open_store(path.parent / "missing" / "x.db")
    path.write_bytes(b"not a database at all" * 1000)
    for attempt in (LedgerStore.open_read_only, open_store):
        with pytest.raises(StorageError, match=r"shard-1\.db: file is not a database; restore"):
            attempt(path)
    path.unlink()
    with open_store(path) as store:
        for final in FINALS:
            append(store, final)
    data = bytearray(path.read_bytes())
    for offset in range(PAGE_BYTES, len(data)):
        data[offset] = 0xA5
    path.write_bytes(data)
    for attempt in (LedgerStore.open_read_only, open_store):
        with pytest.raises(StorageError, match=r"malformed.*restore the file from a copy"):
            attempt(path)


def test_a_schema_of_another_version_is_refused(path: Path) -> None:
    open_store(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    for attempt in (LedgerStore.open_read_only, open_store):
        with pytest.raises(StorageError, match=r"schema version 2.*use the version"):
            attempt(path)


def test_a_flipped_bit_in_a_block_is_a_storage_error_not_a_crash(path: Path) -> None:
    with open_store(path) as store:
        append(store, FINALS[0])
        store._connection.execute("UPDATE block SET block = substr(block, 2)")
        with pytest.raises(StorageError, match="block 1 does not decode"):
            store.load_block(Height(1))
    with open_store(path) as store:
        append(store, FINALS[1])
        store._connection.execute("DELETE FROM block WHERE height = 1")
    with pytest.raises(StorageError, match="1 blocks up to height 2"):
        open_store(path)


def test_a_full_disk_is_a_storage_error_and_loses_nothing(path: Path) -> None:
    with open_store(path) as store:
        append(store, FINALS[0])
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        big = {"entries": {b"big": bytes(PAGE_BYTES * 4)}}
        final = FINALS[1]
        with pytest.raises(StorageError, match="full; free disk space"):
            store.append(final.block, final.certificate, big, final.rotation)
        assert store.height == 1
        store._connection.execute("PRAGMA max_page_count = 1000000")
        append(store, final)


@pytest.mark.small_disk
def test_a_disk_without_room_for_the_logs_index_is_called_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    subprocess.run(mount, check=True)
    try:
        path = disk / "ledger.sqlite"
        with open_store(path) as store:
            append(store, FINALS[0])
        with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while filler.write(bytes(4_096)):
                pass
        with (
            pytest.raises(StorageError, match="full; free disk space"),
            open_store(path) as store,
        ):
            append(store, FINALS[1])
        (disk / "filler").unlink()
        with open_store(path) as store:
            append(store, FINALS[1])
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


CHILD = """
import sys
from pathlib import Path
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_shard.engine.embedded import EmbeddedEngine, ReplicaSetup
from headwater_shard.store import LedgerStore
from tests.support.engine_support import (
    CHAIN, DRIFT_MS, FAST, NETWORK, KeyValueLedger, committee_of, key_of)

store = LedgerStore.open(Path(sys.argv[1]), network=NETWORK, chain=CHAIN, genesis=b"genesis")
from headwater_shard.engine.bft.validation import make_context
votes = store.load_votes()
def replica():
    ledger = KeyValueLedger(committee_of([10] * 4))
    for final in store.iter_blocks(1):
        ledger.commit(make_context(final.block))
    return ledger
engine = EmbeddedEngine(
    replicas=[
        ReplicaSetup(key=key_of(i), application=replica(), saved=votes.get(key_of(i).validator))
        for i in range(4)
    ],
    verifier=DirectVerifier(), write=store.write, clock_drift_ms=DRIFT_MS, timeouts=FAST,
    history=store, tip=store.load_tip(),
)
now = int(sys.argv[2])
engine.on_timer(now)
number = 0
while True:
    now += 200
    number += 1
    engine.submit(b"k%d=%d" % (number % 50, now), now)
    for _ in range(50):
        at = engine.next_timer()
        if at is None:
            break
        now = max(now, at)
        engine.on_timer(now)
    for final in engine.effects():
        print(final.block.header.height, now, flush=True)
"""


@pytest.mark.crash
def test_kills_at_random_moments_leave_a_contiguous_valid_chain(path: Path, tmp_path: Path) -> None:
    rng = random.Random(1)
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    now_ms, reached = NOW, 0
    for _ in range(10):
        child = subprocess.Popen(
            [sys.executable, str(script), str(path), str(now_ms)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert child.stdout is not None
        for _ in range(rng.randint(1, 12)):
            line = child.stdout.readline()
            assert line, "the child stopped by itself"
            height, now_ms = (int(word) for word in line.split())
            assert height > reached
            reached = height
        child.kill()
        child.wait()
        child.stdout.close()
        with LedgerStore.open_read_only(path) as store:
            assert store.height >= reached
            require_valid_chain(store)
            reached = store.height
            tip = store.load_tip()
            assert tip is not None
            now_ms = max(now_ms, tip.block.header.time_ms)
    assert reached >= 20


def require_valid_chain(store: LedgerStore) -> None:
    ledger = KeyValueLedger(committee_of([10] * 4))
    from headwater_shard.engine.bft.validation import make_context

    previous = bytes(32)
    for height, final in enumerate(store.iter_blocks(Height(1)), start=1):
        header = final.block.header
        assert (header.height, header.previous) == (height, previous)
        verify_certificate(
            final.certificate,
            header=header,
            committee=ledger.committee,
            verifier=DirectVerifier(),
        )
        ledger.commit(make_context(final.block))
        assert ledger.state_root == header.state_root
        previous = header_digest(header)
    assert {key: value for _, key, value in store.load_entries()} == dict(ledger._entries)
