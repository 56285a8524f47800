"""A device's state in one SQLite file.

Write-ahead log with `synchronous=FULL`: when `apply` returns, the changes survive a power cut, and
a cut during it leaves the state before or after, nothing between. The file belongs to one key on
one network and is held for as long as it is open, because two processes with one key could sign two
updates for a round. Others may look at it meanwhile; see `storage/reading.py`.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from headwater_agent.data.keep import ExampleTable
from headwater_agent.errors import DamagedState, WrongState
from headwater_agent.machine.limits import MAX_RECEIPTS
from headwater_agent.state import Changes, DeviceState
from headwater_agent.storage.disk import (
    CACHE_KIB,
    MAX_LOG_PAGES,
    Database,
    Disk,
    RealDisk,
    explain_disk,
)
from headwater_agent.storage.loading import get_entry, load_state
from headwater_agent.storage.proofs import SCHEMA as PROOF_SCHEMA
from headwater_agent.storage.proofs import keep_books
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import InvalidMessage, StorageError
from headwater_protocol.identifiers import DeviceId, Network
from headwater_protocol.messages.receipt import SignedReceipt
from headwater_protocol.reasons import ReasonCode

FORMAT: Final = 1
"""Of the tables; a file of another format is refused."""

MAX_REPORT_CHARACTERS: Final = 16 * 1024
"""Of what the running agent says about itself."""

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS entry (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS receipt (id INTEGER PRIMARY KEY AUTOINCREMENT, "
    "value BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS counter (kind TEXT NOT NULL, reason TEXT NOT NULL, "
    "count INTEGER NOT NULL, PRIMARY KEY (kind, reason)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS report (id INTEGER PRIMARY KEY CHECK (id = 1), "
    "value TEXT NOT NULL)",
    *PROOF_SCHEMA,
)


class StateStore:
    """The open file.

    Args:
        path: Of the file.
        device: Whose state it is.
        network: On which network; None leaves a new file to the network of its first use.
        creates: Start with an empty state if there is no file.
        disk: Where the file lives; the machine's own if not given.

    Raises:
        StateInUse: If another process has it.
        DamagedState: If what is there is no database, or not whole.
        DiskUnavailable: If it cannot be written.
        WrongState: If it is another device's or network's.
        StorageError: If it is missing.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: DeviceId,
        network: Network | None,
        creates: bool,
        disk: Disk | None = None,
    ) -> None:
        self._path = path
        disk = disk or RealDisk()
        if not creates and not disk.exists(path):
            raise StorageError(f"{path} does not exist")
        self._lock = disk.hold(path)
        try:
            self._database: Database = disk.open(path)
        except (sqlite3.Error, OSError) as error:
            self._lock.close()
            raise explain_disk(path, error) from error
        try:
            is_owner = self._prepare(device, network)
        except (sqlite3.Error, OSError, ValueError) as error:
            self._abandon()
            raise self._explain(error) from error
        except BaseException:
            self._abandon()
            raise
        if not is_owner:
            self._abandon()
            raise WrongState(path)

    def _prepare(self, device: DeviceId, network: Network | None) -> bool:
        """Make it durable, check it, and tell whether it is this device's."""
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute(f"PRAGMA wal_autocheckpoint={MAX_LOG_PAGES}")
        self._database.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        row = self._database.execute("PRAGMA quick_check(1)").fetchone()
        if row != ("ok",):
            raise DamagedState(self._path, "no answer" if row is None else str(row[0]))
        with self._transaction():
            for statement in _SCHEMA:
                self._database.execute(statement)
            is_owner = self._claim("format", b"%d" % FORMAT) and self._claim("device", device)
            if network is not None:
                is_owner = is_owner and self._claim("network", network)
            return is_owner

    def _abandon(self) -> None:
        try:
            self._database.close()
        except (sqlite3.Error, OSError):
            # What brought us here is told; the file stays as it is.
            pass
        finally:
            self._lock.close()

    def load(self) -> DeviceState:
        """The state that was applied last.

        Raises:
            DamagedState: If a record in it does not decode.
            StorageError: If it cannot be read.
        """
        try:
            return load_state(self._database)
        except (sqlite3.Error, InvalidMessage, ValueError) as error:
            raise self._explain(error) from error

    def apply(self, changes: Changes) -> None:
        """Make `changes` durable, all or none.

        Raises:
            DiskUnavailable: If the disk takes no writes; the state on it is the one before.
            StorageError: If they could not be written for another reason.
        """
        try:
            with self._transaction():
                keep_books(self._database, changes)
                self._write(_entries(changes))
                if changes.clears_outbox:
                    self._database.execute("DELETE FROM entry WHERE name = 'outbox'")
                if changes.receipt is not None:
                    self._append_receipt(changes.receipt)
                self._write_counts("rejection", changes.rejections)
                self._write_counts("answer", changes.answers)
        except (sqlite3.Error, OSError, InvalidMessage) as error:
            raise self._explain(error) from error

    def write_report(self, text: str) -> None:
        """Replace what the running agent says about itself; not synced, so it wears no card.

        The next `apply` syncs it along. A cut may lose the report and nothing else.

        Raises:
            StorageError: If it could not be written.
        """
        if len(text) > MAX_REPORT_CHARACTERS:
            raise ValueError(f"a report has at most {MAX_REPORT_CHARACTERS} characters")
        try:
            self._database.execute("PRAGMA synchronous=NORMAL")
            try:
                with self._transaction():
                    self._database.execute("INSERT OR REPLACE INTO report VALUES (1, ?)", (text,))
            finally:
                self._database.execute("PRAGMA synchronous=FULL")
        except (sqlite3.Error, OSError) as error:
            raise self._explain(error) from error

    @property
    def examples(self) -> ExampleTable:
        """Where a stream's examples are kept; used in the thread that calls `apply`."""
        return ExampleTable(self._database, self._path)

    def close(self) -> None:
        """Fold the log into the file and let go of it."""
        self._abandon()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or none; after an error, none is open."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        finally:
            # A full disk fails in COMMIT and may leave the transaction open.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _explain(self, error: Exception) -> StorageError:
        if isinstance(error, InvalidMessage | ValueError):
            return DamagedState(self._path, str(error))
        return explain_disk(self._path, error)

    def _claim(self, name: str, value: bytes) -> bool:
        found = get_entry(self._database, name)
        if found is None:
            self._write([(name, value)])
        return found is None or found == value

    def _write(self, entries: Iterable[tuple[str, bytes]]) -> None:
        self._database.executemany(
            "INSERT INTO entry VALUES (?, ?) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            entries,
        )

    def _append_receipt(self, receipt: SignedReceipt) -> None:
        self._database.execute("INSERT INTO receipt (value) VALUES (?)", (encode_record(receipt),))
        self._database.execute(
            "DELETE FROM receipt WHERE id <= (SELECT max(id) FROM receipt) - ?", (MAX_RECEIPTS,)
        )

    def _write_counts(self, kind: str, counts: Mapping[ReasonCode, int] | None) -> None:
        self._database.executemany(
            "INSERT INTO counter VALUES (?, ?, ?) "
            "ON CONFLICT (kind, reason) DO UPDATE SET count = excluded.count",
            [(kind, reason.value, count) for reason, count in sorted((counts or {}).items())],
        )


def _entries(changes: Changes) -> list[tuple[str, bytes]]:
    integers = {
        "session": changes.session,
        "sequence": changes.sequence,
        "last_signed_round": changes.last_signed_round,
    }
    entries = [(name, b"%d" % value) for name, value in integers.items() if value is not None]
    if changes.outbox is not None:
        entries.append(("outbox", encode_record(changes.outbox)))
    if changes.residual is not None:
        entries.append(("residual", encode_record(changes.residual)))
    if changes.program is not None:
        entries.append(("program", changes.program))
    if changes.trust is not None:
        entries.append(("trust", encode_record(changes.trust)))
    return entries
