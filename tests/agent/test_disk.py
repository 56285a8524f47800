"""Full, read-only and damaged disks: one line with the fix, and no promise is lost."""

import os
import sqlite3
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headwater_agent.cli import main
from headwater_agent.config import AgentConfig, load_config
from headwater_agent.device import Device
from headwater_agent.errors import (
    DamagedState,
    DiskFailing,
    DiskFull,
    DiskReadOnly,
    StateInUse,
)
from headwater_agent.exit_codes import ExitCode
from headwater_agent.keyfile import create_key, load_key
from headwater_agent.shell.mqtt import MqttShell
from headwater_agent.state import Changes
from headwater_agent.storage.aside import set_aside
from headwater_agent.storage.disk import Database, RealDisk, explain_disk
from headwater_agent.storage.files import write_durably
from headwater_agent.storage.reading import is_in_use, read_stored
from headwater_agent.store import StateStore
from headwater_protocol.errors import StorageError
from tests.agent.shell.test_hostile_broker import Echo
from tests.support.agent_home import make_home
from tests.support.agent_support import DEVICE_KEY, ENTROPY, SHARD, Net
from tests.support.power_disk import PowerCut, PowerDisk

NET = Net(num_delegates=1)


def open_store(path: Path, disk: RealDisk | None = None) -> StateStore:
    return StateStore(path, device=DEVICE_KEY.device, network=NET.network, creates=True, disk=disk)


class SmallDisk(RealDisk):
    """Whose databases may grow by so many pages."""

    def open(self, path: Path) -> Database:
        database = super().open(path)
        self.database = database
        return database

    def limit(self, pages: int) -> None:
        row = self.database.execute("PRAGMA page_count").fetchone()
        assert row is not None
        self.database.execute(f"PRAGMA max_page_count={int(str(row[0])) + pages}")


def test_full_disk_is_told_and_the_state_is_the_one_before(tmp_path: Path) -> None:
    disk = SmallDisk()
    with open_store(tmp_path / "state.db", disk) as store:
        store.apply(Changes(session=1))
        disk.limit(2)
        with pytest.raises(DiskFull, match="free some space"):
            store.apply(Changes(session=2, program=bytes(1_000_000)))
        assert store.load().session == 1
        disk.limit(1_000)
        store.apply(Changes(session=2, program=bytes(1_000_000)))
        assert store.load().session == 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(28, "No space left on device"), DiskFull),
        (OSError(30, "Read-only file system"), DiskReadOnly),
        (OSError(13, "Permission denied"), DiskReadOnly),
        (OSError(5, "Input/output error"), DiskFailing),
    ],
)
def test_errors_of_the_system_have_one_line_with_the_fix(error: OSError, kind: type) -> None:
    found = explain_disk(Path("/a/b.db"), error)
    assert type(found) is kind
    assert "; " in str(found)
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, DiskFull),
        (sqlite3.SQLITE_READONLY | 8 << 8, DiskReadOnly),
        (sqlite3.SQLITE_IOERR | 3 << 8, DiskFailing),
        (sqlite3.SQLITE_CORRUPT, DamagedState),
        (sqlite3.SQLITE_NOTADB, DamagedState),
        (sqlite3.SQLITE_BUSY, StateInUse),
    ],
)
def test_errors_of_sqlite_have_their_kind(tmp_path: Path, code: int, kind: type) -> None:
    error = sqlite3.OperationalError("x")
    error.sqlite_errorcode = code
    assert type(explain_disk(tmp_path / "b.db", error)) is kind


def test_a_full_disk_is_waited_for_and_the_agent_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater_agent.shell.mqtt.FIRST_DISK_WAIT_S", 0.02)
    path = tmp_path / "state.db"
    with open_store(path) as store:
        device = Device(
            key=DEVICE_KEY,
            genesis=NET.genesis,
            network=NET.network,
            shard=SHARD,
            entropy=ENTROPY,
            state=store.load(),
        )
        config = make_config(tmp_path)
        shell = MqttShell(device=device, store=store, training=Echo(), config=config)
        refusals: list[Changes] = []
        is_full = threading.Event()
        is_full.set()
        apply = store.apply

        def refuse(changes: Changes) -> None:
            if is_full.is_set():
                refusals.append(changes)
                raise DiskFull(path)
            apply(changes)

        monkeypatch.setattr(store, "apply", refuse)
        thread = threading.Thread(target=shell.run)
        thread.start()
        end_s = time.monotonic() + 5
        while len(refusals) < 3:
            assert time.monotonic() < end_s
            time.sleep(0.01)
        # The connection's number is not on disk, so no connection was tried.
        assert shell.reporter.link.broker == ""
        assert "disk is full" in shell.reporter.describe()
        is_full.clear()
        while not shell.reporter.link.broker:
            assert time.monotonic() < end_s
            time.sleep(0.01)
        shell.stop()
        thread.join(5)
        assert store.load().session == device.state.session >= 1
        assert "disk is full" not in shell.reporter.describe()


def make_config(folder: Path) -> AgentConfig:
    return load_config(make_home(folder))


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:600] = os.urandom(500)
    path.write_bytes(content)


def test_damaged_state_is_set_aside_and_the_way_back_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_home(tmp_path)
    path = tmp_path / "device.db"
    damage(path)
    capsys.readouterr()
    assert main(["run", "--config", str(config), "--log-level", "error"]) == ExitCode.DAMAGED
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "--new-state" in lines[0]
    assert not path.exists()
    kept = [entry for entry in tmp_path.iterdir() if ".damaged-" in entry.name]
    assert kept
    assert kept[0].name in lines[0]
    # It is not begun anew by itself: the key may have signed in this round.
    assert main(["run", "--config", str(config), "--log-level", "error"]) == ExitCode.CONFIG
    assert "--new-state" in capsys.readouterr().err


def test_what_is_set_aside_keeps_its_log_and_overwrites_nothing(tmp_path: Path) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    names = []
    for _ in range(2):
        path = tmp_path / "device.db"
        path.write_bytes(b"x")
        (tmp_path / "device.db-wal").write_bytes(b"y")
        kept = set_aside(path, now)
        assert Path(f"{kept}-wal").read_bytes() == b"y"
        names.append(kept.name)
    assert names == ["device.db.damaged-20260102T030405Z", "device.db.damaged-20260102T030405Z-2"]
    assert not (tmp_path / "device.db-wal").exists()


def test_looking_takes_no_lock_and_sees_what_was_written_last(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    assert not is_in_use(path)
    with open_store(path) as store:
        assert is_in_use(path)
        for session in range(1, 50):
            store.apply(Changes(session=session))
            store.write_report(f'{{"activity": "{session}"}}')
            stored = read_stored(path)
            assert stored.state.session == session
            assert stored.report == {"activity": str(session)}
    assert not is_in_use(path)
    assert read_stored(path).state.session == 49


def test_a_second_process_gets_its_own_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_home(tmp_path)
    device = load_key(tmp_path / "device.key").device
    with StateStore(tmp_path / "device.db", device=device, network=None, creates=False):
        assert main(["run", "--config", str(config), "--log-level", "error"]) == ExitCode.IN_USE
    assert "in use by another process" in capsys.readouterr().err


@pytest.mark.parametrize("is_new", [True, False])
def test_a_file_is_old_or_new_after_a_cut_at_any_step(is_new: bool) -> None:
    path = Path("/key")
    outcomes = set()
    for seed in range(60):
        for operations in range(1, 9):
            for kind in ("before", "torn", "after"):
                disk = PowerDisk(seed)
                if not is_new:
                    write_durably(path, b"old", mode=0o600, calls=disk)
                disk.plan_cut(operations, kind)
                try:
                    write_durably(path, b"new content", mode=0o600, is_new=is_new, calls=disk)
                except PowerCut:
                    is_promised = False
                else:
                    is_promised = True
                disk.restart()
                found = disk.read(path)
                assert found in {None if is_new else b"old", b"new content"}
                assert found == b"new content" or not is_promised
                outcomes.add(found)
                # What a cut left behind is in nobody's way.
                if found is None:
                    write_durably(path, b"again", mode=0o600, is_new=True, calls=disk)
    assert len(outcomes) == 2


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_key(path, b"a" * 32)
    (tmp_path / "key.part").write_bytes(b"left by a cut")
    with pytest.raises(Exception, match="exists already"):
        create_key(path, b"b" * 32)
    assert load_key(path).seed == b"a" * 32
    assert path.stat().st_mode & 0o777 == 0o600


def test_bit_rot_in_the_tables_is_found_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with open_store(path) as store:
        for session in range(50):
            store.apply(Changes(session=session, program=bytes(60_000)))
    content = bytearray(path.read_bytes())
    content[4_096:4_200] = b"\xff" * 104
    path.write_bytes(content)
    with pytest.raises((DamagedState, StorageError)) as caught:
        open_store(path)
    assert isinstance(caught.value, DamagedState)


def test_a_damaged_page_is_told_in_one_line(tmp_path: Path) -> None:
    error = DamagedState(tmp_path / "device.db", "*** in database main ***\nPage 2: corruption\n")
    assert "\n" not in str(error)
    assert error.problem == "*** in database main *** Page 2: corruption"


def test_status_tells_the_way_back_after_a_state_was_set_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_home(tmp_path)
    (tmp_path / "device.db").write_bytes(b"no database" * 1_000)
    assert main(["run", "--config", str(config)]) == ExitCode.DAMAGED
    capsys.readouterr()
    for command in ("status", "run"):
        assert main([command, "--config", str(config)]) == ExitCode.CONFIG
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert "kept as device.db.damaged-" in told
        assert "run --new-state" in told


def test_a_disk_without_room_for_the_logs_index_is_full_and_not_failing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    path = tmp_path / "device.db"
    assert isinstance(explain_disk(path, error), DiskFailing)
    found = list(os.statvfs(tmp_path))
    found[4] = 0
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(found))
    assert isinstance(explain_disk(path, error), DiskFull)


def test_a_wrong_pin_begins_no_state(tmp_path: Path) -> None:
    config = make_home(tmp_path)
    (tmp_path / "device.db").unlink()
    options = ["--new-state", "--set", "network=" + "0" * 64]
    assert main(["run", "--config", str(config), *options]) == ExitCode.CONFIG
    assert not (tmp_path / "device.db").exists()


def test_the_state_of_another_device_is_to_be_corrected_and_not_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_home(tmp_path)
    (tmp_path / "device.key").unlink()
    create_key(tmp_path / "device.key", b"x" * 32)
    assert main(["run", "--config", str(config)]) == ExitCode.CONFIG
    assert capsys.readouterr().err.count("\n") == 1
