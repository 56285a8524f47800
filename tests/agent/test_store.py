"""The state file: what is applied comes back, all or nothing, and only to its owner."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import pytest

from headwater_agent.machine.effects import Persist
from headwater_agent.machine.limits import MAX_RECEIPTS
from headwater_agent.state import Changes, DeviceState, Residual
from headwater_agent.storage.loading import get_entry
from headwater_agent.store import StateStore
from headwater_protocol.errors import StorageError
from headwater_protocol.identifiers import DeviceId, Network, RoundNumber, TaskId
from headwater_protocol.messages.receipt import Stage, decode_receipt
from headwater_protocol.reasons import ReasonCode
from tests.support.agent_support import COLLECT_MS, START_MS, World

DEVICE = DeviceId(b"d" * 32)
NETWORK = Network(b"n" * 32)


def open_store(path: Path, *, creates: bool = True) -> StateStore:
    return StateStore(path, device=DEVICE, network=NETWORK, creates=creates)


def test_every_change_a_device_makes_comes_back_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    world = World()
    world.connect()
    for number in (1, 2, 3):
        world.now_ms = START_MS + (number - 1) * COLLECT_MS
        update = world.sign_round(number)
        if number == 2:
            world.tell(
                world.net.answered(update),
                world.net.answered(update, ReasonCode.LOW_SCORE, stage=Stage.VERDICT),
            )
    with open_store(path) as store:
        assert store.load() == DeviceState()
        for effect in world.trace:
            if isinstance(effect, Persist):
                store.apply(effect.changes)
        assert store.load() == world.disk
    with open_store(path, creates=False) as store:
        assert store.load() == world.disk


def test_receipts_stay_bounded_on_disk(tmp_path: Path) -> None:
    world = World()
    world.connect()
    receipt = decode_receipt(world.net.answered(world.sign_round()).payload)
    with open_store(tmp_path / "state.db") as store:
        for _ in range(MAX_RECEIPTS + 1):
            store.apply(Changes(receipt=receipt))
        assert len(store.load().receipts) == MAX_RECEIPTS


def test_changes_that_cannot_be_written_whole_are_not_written_at_all(tmp_path: Path) -> None:
    with open_store(tmp_path / "state.db") as store:
        store.apply(Changes(session=1))
        store._database.execute("DROP TABLE counter")
        with pytest.raises(StorageError):
            store.apply(
                Changes(
                    session=2,
                    last_signed_round=RoundNumber(9),
                    rejections=MappingProxyType({ReasonCode.BUSY: 1}),
                )
            )
        assert get_entry(store._database, "session") == b"1"
        assert get_entry(store._database, "last_signed_round") is None


def test_second_process_with_the_same_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with open_store(path), pytest.raises(StorageError, match="in use by another process"):
        open_store(path)


def test_state_of_another_device_or_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    open_store(path).close()
    for device, network in ((DeviceId(b"x" * 32), NETWORK), (DEVICE, Network(b"x" * 32))):
        with pytest.raises(StorageError, match="another device, network or format"):
            StateStore(path, device=device, network=network, creates=True)
    open_store(path).close()


def test_missing_or_damaged_file_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        open_store(tmp_path / "none.db", creates=False)
    with pytest.raises(StorageError):
        open_store(tmp_path / "no-folder" / "state.db")
    path = tmp_path / "state.db"
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(StorageError):
        open_store(path)


def test_damaged_record_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    for name, value in (("outbox", b"\x80"), ("residual", b"\xff"), ("session", b"many")):
        path.unlink(missing_ok=True)
        with open_store(path) as store:
            store._database.execute("INSERT INTO entry VALUES (?, ?)", (name, value))
            with pytest.raises(StorageError):
                store.load()


def test_largest_residual_comes_back(tmp_path: Path) -> None:
    residual = Residual(task=TaskId("t"), values=bytes(4 * 2**22))
    with open_store(tmp_path / "state.db") as store:
        store.apply(Changes(residual=residual))
        assert store.load().residual == residual


def test_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    open_store(path).close()
    assert path.stat().st_mode & 0o077 == 0


def test_what_was_applied_survives_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    script = (
        "import sys; from pathlib import Path\n"
        "from headwater_agent.store import StateStore; from headwater_agent.state import Changes\n"
        "store = StateStore(Path(sys.argv[1]), device=b'd'*32, network=b'n'*32, creates=True)\n"
        "store.apply(Changes(session=7)); print('applied', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"applied\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    if process.stdin is not None:
        process.stdin.close()
    with open_store(path, creates=False) as store:
        assert store.load().session == 7


def test_full_synchronisation_is_on(tmp_path: Path) -> None:
    with open_store(tmp_path / "state.db") as store:
        assert store._database.execute("PRAGMA synchronous").fetchone() == (2,)
        assert store._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_entries_are_blobs_of_a_plain_sqlite_file(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with open_store(path) as store:
        store.apply(Changes(session=3))
    database = sqlite3.connect(path)
    assert database.execute("SELECT value FROM entry WHERE name='session'").fetchone() == (b"3",)
    database.close()
