"""The disk under the store: a file, a lock on it, and what its errors mean.

The store talks to a `Disk`, so that its whole code runs unchanged on one that loses power. The lock
is a file of its own beside the database: SQLite's own exclusive mode would also lock out those who
only look, such as `headwater-agent status`.
"""

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol, Self

from headwater_agent.errors import (
    DamagedState,
    DiskFailing,
    DiskFull,
    DiskReadOnly,
    StateInUse,
)
from headwater_protocol.errors import StorageError

BUSY_TIMEOUT_S: Final = 5.0
"""How long a write waits for somebody who looks; they hold the file for milliseconds."""
MAX_LOG_PAGES: Final = 256
"""Pages in the write-ahead log before it is folded into the file: 1 MiB."""
CACHE_KIB: Final = 256
"""Of pages that SQLite keeps in memory; it reads its file once and writes little."""

Value = bytes | str | int | None


class Rows(Protocol):
    """What a statement gave."""

    def fetchone(self) -> tuple[object, ...] | None:
        """The next row."""
        ...

    def fetchall(self) -> list[tuple[object, ...]]:
        """All that are left."""
        ...


class Database(Protocol):
    """As much of a `sqlite3.Connection` in autocommit mode as the store uses."""

    @property
    def in_transaction(self) -> bool:
        """Whether one is open."""
        ...

    def execute(self, sql: str, parameters: Sequence[Value] = ..., /) -> Rows:
        """Run one statement."""
        ...

    def executemany(self, sql: str, parameters: Iterable[Sequence[Value]], /) -> Rows:
        """Run one statement for each of `parameters`."""
        ...

    def close(self) -> None:
        """End; the last one to end folds the log into the file."""
        ...


class Lock(Protocol):
    """Held until closed, or until the process is gone."""

    def close(self) -> None:
        """Let go."""
        ...


class Disk(Protocol):
    """Where a state lives."""

    def exists(self, path: Path) -> bool:
        """Whether there is such a file."""
        ...

    def hold(self, path: Path) -> Lock:
        """Keep others from signing with the state at `path`.

        Raises:
            StateInUse: If another process does.
        """
        ...

    def open(self, path: Path) -> Database:
        """The database at `path`, made if there is none; readable by its owner alone."""
        ...


class FileLock:
    """An flock on a file that holds nothing; a kernel drops it with the process."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise

    def close(self) -> None:
        """Let go; the file stays, because removing it would let two hold it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RealDisk:
    """The machine's file systems."""

    def exists(self, path: Path) -> bool:
        """Whether there is such a file."""
        return path.exists()

    def hold(self, path: Path) -> Lock:
        """Keep others from signing with the state at `path`.

        Raises:
            StateInUse: If another process does.
            StorageError: If the lock's file cannot be made.
        """
        try:
            return FileLock(lock_path(path))
        except BlockingIOError:
            raise StateInUse(path) from None
        except OSError as error:
            raise explain_disk(path, error) from error

    def open(self, path: Path) -> Database:
        """The database at `path`, made if there is none; readable by its owner alone."""
        # The residual and the update say something about the owner's data.
        path.touch(mode=0o600, exist_ok=True)
        return sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )


def lock_path(path: Path) -> Path:
    """Of the file whose lock says that the state at `path` is in use."""
    return path.with_name(path.name + ".lock")


def companions(path: Path) -> tuple[Path, ...]:
    """The files that belong to the database at `path` and may hold part of it."""
    return tuple(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal"))


def explain_disk(path: Path, error: Exception) -> StorageError:
    """What an error of SQLite or the system means for the state at `path`."""
    if isinstance(error, OSError):
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return DiskFull(path)
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
            return DiskReadOnly(path)
        if error.errno == errno.EIO:
            return DiskFailing(path, str(error))
        return StorageError(f"{path}: {error.strerror or error}; check the path")
    code = getattr(error, "sqlite_errorcode", None)
    primary = 0 if code is None else int(code) & 0xFF
    if primary in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return DamagedState(path, str(error))
    if primary == sqlite3.SQLITE_FULL:
        return DiskFull(path)
    if primary in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
        return DiskReadOnly(path)
    if primary == sqlite3.SQLITE_IOERR:
        if is_read_only(path):
            return DiskReadOnly(path)
        # Where there is no room for the log's index, SQLite says this and no more.
        return DiskFull(path) if is_full(path) else DiskFailing(path, str(error))
    if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StateInUse(path)
    return StorageError(f"{path}: {error}")


def is_full(path: Path) -> bool:
    """Whether the file system under `path` has not a block left."""
    try:
        return os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return False


def is_read_only(path: Path) -> bool:
    """Whether the file system under `path` takes no writes; after errors, Linux makes it so."""
    try:
        return bool(os.statvfs(path.parent).f_flag & os.ST_RDONLY)
    except OSError:
        return False
