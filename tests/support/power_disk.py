"""A disk that loses power: SQLite runs on it through apsw's VFS, unchanged store code above it.

What was written and not synced may be there after a cut, or not, or in part, each write for itself
and in any combination; names made or removed and not synced are there up to a point in time. What
was synced is there. SQLite's own assumption holds, as its documentation states it: a write changes
no byte outside its range.
"""

import random
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

SECTOR_BYTES = 512


class PowerCut(BaseException):
    """The power is gone: no code that handles errors gets to run for it."""


@dataclass
class Inode:
    durable: bytearray = field(default_factory=bytearray)
    content: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes] | int] = field(default_factory=list)
    """Since the last sync: (offset, data) written, or a size truncated to."""


def patch(content: bytearray, change: tuple[int, bytes] | int) -> None:
    if isinstance(change, int):
        del content[change:]
        content.extend(bytes(change - len(content)))
        return
    offset, data = change
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


class PowerDisk:
    """Files by name, and a cut that is planned at the n-th operation from now.

    Implements `headwater_agent.storage.disk.Disk` and `headwater_agent.storage.files.FileCalls`.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.names: dict[str, Inode] = {}
        self.durable_names: dict[str, Inode] = {}
        self.pending_names: list[tuple[str, Inode | None]] = []
        self.operations = 0
        self.kinds: dict[str, int] = {}
        self._cut_at: int | None = None
        self._cut_kind = "before"
        self._databases: list[ApswDatabase] = []
        self.is_dead = False
        self.cut_kind = ""

    def plan_cut(self, operations: int, kind: str) -> None:
        """Cut at the n-th operation from now: `before` it, in the middle (`torn`), or `after`."""
        self._cut_at = self.operations + operations
        self._cut_kind = kind

    def restart(self) -> None:
        """The power is back: what is on disk is one of the things that may be."""
        self.is_dead = True
        for database in self._databases:
            database.discard()
        self._databases = []
        rng = self.rng
        for name, inode in self.pending_names[: rng.randint(0, len(self.pending_names))]:
            self._set_name(self.durable_names, name, inode)
        self.names = dict(self.durable_names)
        self.pending_names = []
        mood = rng.choice(("none", "all", "some", "torn"))
        for inode in set_of(self.names.values()):
            for change in inode.pending:
                if mood == "none" or (mood != "all" and rng.random() < 0.5):
                    continue
                patch(inode.durable, self._torn(change) if mood == "torn" else change)
            inode.pending = []
            inode.content = bytearray(inode.durable)
        self._cut_at = None
        self.is_dead = False

    # What a disk does

    def write_at(self, inode: Inode, offset: int, data: bytes) -> None:
        if self._begins("write"):
            change = self._torn((offset, data))
            inode.pending.append(change)
            self._die()
        patch(inode.content, (offset, data))
        inode.pending.append((offset, data))
        self._ends()

    def truncate(self, inode: Inode, size: int) -> None:
        if self._begins("truncate"):
            self._die()
        patch(inode.content, size)
        inode.pending.append(size)
        self._ends()

    def sync(self, inode: Inode, *, with_names: bool) -> None:
        if self._begins("sync"):
            left = []
            for change in inode.pending:
                if self.rng.random() < 0.5:
                    patch(inode.durable, change)
                else:
                    left.append(change)
            inode.pending = left
            self._die()
        for change in inode.pending:
            patch(inode.durable, change)
        inode.pending = []
        if with_names:
            self._sync_names()
        self._ends()

    def set_name(self, name: str, inode: Inode | None, *, kind: str, is_synced: bool) -> None:
        if self._begins(kind):
            if self.rng.random() < 0.5:
                self.pending_names.append((name, inode))
            self._die()
        self._set_name(self.names, name, inode)
        self.pending_names.append((name, inode))
        if is_synced:
            self._sync_names()
        self._ends()

    # `Disk`

    def exists(self, path: Path) -> bool:
        return str(path) in self.names

    def hold(self, path: Path) -> "PowerDisk":
        return self

    def open(self, path: Path) -> "ApswDatabase":
        database = ApswDatabase(self, str(path))
        self._databases.append(database)
        return database

    def close(self) -> None:
        """As a lock, which a power cut drops."""

    # `FileCalls`

    def write(self, path: Path, data: bytes, mode: int) -> None:
        inode = Inode()
        self.set_name(str(path), inode, kind="create", is_synced=False)
        self.write_at(inode, 0, data)
        self.sync(inode, with_names=False)

    def replace(self, source: Path, target: Path) -> None:
        inode = self.names[str(source)]
        if self._begins("rename"):
            if self.rng.random() < 0.5:
                self._rename(source, target, inode)
            self._die()
        self._rename(source, target, inode)
        self._ends()

    def link(self, source: Path, target: Path) -> None:
        if str(target) in self.names:
            raise FileExistsError(str(target))
        inode = self.names[str(source)]
        self.set_name(str(target), inode, kind="link", is_synced=False)

    def unlink(self, path: Path) -> None:
        self.set_name(str(path), None, kind="unlink", is_synced=False)

    def sync_folder(self, folder: Path) -> None:
        if self._begins("sync"):
            self._die()
        self._sync_names()
        self._ends()

    def read(self, path: Path) -> bytes | None:
        inode = self.names.get(str(path))
        return None if inode is None else bytes(inode.content)

    def _rename(self, source: Path, target: Path, inode: Inode) -> None:
        # One step of a journalling file system: both names change, or none.
        for name, value in ((str(target), inode), (str(source), None)):
            self._set_name(self.names, name, value)
        self.pending_names.append((str(target), inode))

    def _torn(self, change: tuple[int, bytes] | int) -> tuple[int, bytes] | int:
        if isinstance(change, int):
            return change
        offset, data = change
        return offset, data[: self.rng.randint(0, len(data))]

    def _sync_names(self) -> None:
        for name, inode in self.pending_names:
            self._set_name(self.durable_names, name, inode)
        self.pending_names = []

    @staticmethod
    def _set_name(names: dict[str, Inode], name: str, inode: Inode | None) -> None:
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode

    def _begins(self, kind: str) -> bool:
        """Count an operation; whether it is the one that is torn."""
        if self.is_dead:
            raise PowerCut
        self.operations += 1
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if self.operations != self._cut_at:
            return False
        self.cut_kind = kind
        if self._cut_kind == "before":
            self._die()
        return self._cut_kind == "torn"

    def _ends(self) -> None:
        if self.operations == self._cut_at:
            self._die()

    def _die(self) -> None:
        self.is_dead = True
        raise PowerCut


def set_of(inodes: Iterable[Inode]) -> list[Inode]:
    return list({id(inode): inode for inode in inodes}.values())


class PowerFile:
    """An open file of a `PowerDisk`, as SQLite uses it."""

    def __init__(self, disk: PowerDisk, inode: Inode, *, syncs_names: bool, dies: str) -> None:
        self._disk = disk
        self._inode = inode
        self._syncs_names = syncs_names
        self._dies = dies

    def xRead(self, amount: int, offset: int) -> bytes:
        if self._disk.is_dead:
            raise PowerCut
        return bytes(self._inode.content[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.write_at(self._inode, offset, bytes(data))

    def xTruncate(self, size: int) -> None:
        self._disk.truncate(self._inode, size)

    def xSync(self, flags: int) -> None:
        # Like SQLite's own: the first sync of a new journal makes its name durable, too.
        self._disk.sync(self._inode, with_names=self._syncs_names)
        self._syncs_names = False

    def xFileSize(self) -> int:
        return len(self._inode.content)

    def xLock(self, level: int) -> None:
        return

    def xUnlock(self, level: int) -> None:
        return

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, operation: int, pointer: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return SECTOR_BYTES

    def xDeviceCharacteristics(self) -> int:
        return int(apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE)

    def xClose(self) -> None:
        if self._dies and not self._disk.is_dead:
            self._disk.set_name(self._dies, None, kind="unlink", is_synced=False)


class PowerFiles(apsw.VFS):
    """The names of a `PowerDisk`, as SQLite uses them."""

    def __init__(self, disk: PowerDisk) -> None:
        self._disk = disk
        self.vfs_name = f"power-{id(disk)}"
        super().__init__(self.vfs_name, "")

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        text = f"temporary-{self._disk.operations}" if name is None else name_of(name)
        inode = self._disk.names.get(text)
        is_journal = bool(flags[0] & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL))
        if inode is None:
            if not flags[0] & apsw.SQLITE_OPEN_CREATE:
                raise apsw.CantOpenError(text)
            inode = Inode()
            self._disk.set_name(text, inode, kind="create", is_synced=False)
        flags[1] = flags[0]
        deletes = bool(flags[0] & apsw.SQLITE_OPEN_DELETEONCLOSE)
        return PowerFile(self._disk, inode, syncs_names=is_journal, dies=text if deletes else "")

    def xDelete(self, name: str, syncs: bool) -> None:
        if name_of(name) not in self._disk.names:
            return
        self._disk.set_name(name_of(name), None, kind="unlink", is_synced=bool(syncs))

    def xAccess(self, name: str, flags: int) -> bool:
        return name_of(name) in self._disk.names

    def xFullPathname(self, name: str) -> str:
        return name_of(name)


def name_of(name: Any) -> str:
    return str(name.filename()) if hasattr(name, "filename") else str(name)


class ApswDatabase:
    """As much of `sqlite3.Connection` as `headwater_agent.storage.disk.Database` asks for.

    Exclusive locking, because a log in shared memory is what a VFS in Python cannot offer; the
    bytes and syncs of log and file are the same.
    """

    def __init__(self, disk: PowerDisk, name: str) -> None:
        self._disk = disk
        self._files = PowerFiles(disk)
        self._connection: apsw.Connection | None = None
        self.execute_raw_open(name)

    def execute_raw_open(self, name: str) -> None:
        try:
            with expecting_cuts():
                self._connection = apsw.Connection(name, vfs=self._files.vfs_name)
        except (apsw.Error, PowerCut) as error:
            raise self._translate(error) from None
        self.execute("PRAGMA locking_mode=EXCLUSIVE")

    @property
    def in_transaction(self) -> bool:
        return self._connection is not None and self._connection.in_transaction

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> "ApswRows":
        assert self._connection is not None
        try:
            with expecting_cuts():
                return ApswRows(list(self._connection.execute(sql, tuple(parameters))))
        except (apsw.Error, PowerCut) as error:
            raise self._translate(error) from None

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> "ApswRows":
        for values in parameters:
            self.execute(sql, values)
        return ApswRows([])

    def close(self) -> None:
        self.discard()
        if self._disk.is_dead:
            raise PowerCut

    def discard(self) -> None:
        """Close without a word, as the end of a process does."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(apsw.Error, PowerCut), expecting_cuts():
                connection.close(True)
            self._files.unregister()

    def _translate(self, error: BaseException) -> BaseException:
        if self._disk.is_dead or isinstance(error, PowerCut):
            return PowerCut()
        translated = sqlite3.OperationalError(str(error))
        translated.sqlite_errorcode = getattr(error, "extendedresult", 1)
        return translated


@contextmanager
def expecting_cuts() -> Iterator[None]:
    """apsw reports what a VFS raises as unraisable, too; a cut is told by the disk itself."""
    before = sys.unraisablehook

    def report(problem: Any) -> None:
        if not isinstance(problem.exc_value, PowerCut):
            before(problem)

    sys.unraisablehook = report
    try:
        yield
    finally:
        sys.unraisablehook = before


class ApswRows:
    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self._rows = rows

    def fetchone(self) -> tuple[Any, ...] | None:
        return self._rows.pop(0) if self._rows else None

    def fetchall(self) -> list[tuple[Any, ...]]:
        rows, self._rows = self._rows, []
        return rows
