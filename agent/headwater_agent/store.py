"""A device's state in one SQLite file.

Write-ahead log with `synchronous=FULL`: when `apply` returns, the changes survive a power cut, and
a cut during it leaves the state before or after, nothing between. The file belongs to one key on
one network and is locked for as long as it is open, because two processes with one key could sign
two updates for a round.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self, TypeVar

from headwater_agent.data.keep import ExampleTable
from headwater_agent.machine.limits import MAX_RECEIPTS
from headwater_agent.state import Changes, DeviceState, OutboxEntry, Residual
from headwater_protocol.encoding.record import decode_record, encode_record
from headwater_protocol.errors import InvalidMessage, StorageError
from headwater_protocol.identifiers import DeviceId, Network, RoundNumber
from headwater_protocol.light.shard import ShardTrust
from headwater_protocol.messages.receipt import SignedReceipt
from headwater_protocol.reasons import ReasonCode

FORMAT: Final = 1
"""Of the tables; a file of another format is refused."""

MAX_RESIDUAL_RECORD_BYTES: Final = 65 * 1024 * 1024
"""A residual is the one record that may exceed the limit of messages."""

BUSY_TIMEOUT_S: Final = 0.5
"""How long to wait for another process that is just ending."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS entry (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS receipt (id INTEGER PRIMARY KEY AUTOINCREMENT, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS counter (
    kind TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (kind, reason)
) WITHOUT ROWID;
"""

R = TypeVar("R")


class StateStore:
    """The open file.

    Args:
        path: Of the file.
        device: Whose state it is.
        network: On which network; None leaves a new file to the network of its first use.
        creates: Start with an empty state if there is no file.

    Raises:
        StorageError: If the file is missing, locked, damaged, or another device's or network's.
    """

    def __init__(
        self, path: Path, *, device: DeviceId, network: Network | None, creates: bool
    ) -> None:
        self._path = path
        if not creates and not path.exists():
            raise StorageError(f"{path} does not exist")
        try:
            # The residual and the update say something about the owner's data.
            path.touch(mode=0o600, exist_ok=True)
            self._database = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._database.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript("BEGIN IMMEDIATE;" + _SCHEMA + "COMMIT;")
            is_owner = self._claim("format", b"%d" % FORMAT) and self._claim("device", device)
            if network is not None:
                is_owner = is_owner and self._claim("network", network)
        except (sqlite3.Error, OSError, ValueError) as error:
            raise StorageError(self._explain(error)) from error
        if not is_owner:
            self._database.close()
            raise StorageError(f"{path} is the state of another device, network or format")

    def load(self) -> DeviceState:
        """The state that was applied last.

        Raises:
            StorageError: If it cannot be read.
        """
        try:
            receipts = self._database.execute("SELECT value FROM receipt ORDER BY id").fetchall()
            return DeviceState(
                session=self._get_integer("session"),
                sequence=self._get_integer("sequence"),
                last_signed_round=RoundNumber(self._get_integer("last_signed_round")),
                outbox=self._get_record(OutboxEntry, "outbox"),
                residual=self._get_residual(),
                program=self._get("program"),
                trust=self._get_record(ShardTrust, "trust"),
                receipts=tuple(decode_record(SignedReceipt, value) for (value,) in receipts),
                rejections=self._get_counts("rejection"),
                answers=self._get_counts("answer"),
            )
        except (sqlite3.Error, InvalidMessage, ValueError) as error:
            raise StorageError(self._explain(error)) from error

    def apply(self, changes: Changes) -> None:
        """Make `changes` durable, all or none.

        Raises:
            StorageError: If they could not be written; the state on disk is the one before.
        """
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._write(_entries(changes))
                if changes.clears_outbox:
                    self._database.execute("DELETE FROM entry WHERE name = 'outbox'")
                if changes.receipt is not None:
                    self._append_receipt(changes.receipt)
                self._write_counts("rejection", changes.rejections)
                self._write_counts("answer", changes.answers)
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise StorageError(self._explain(error)) from error

    @property
    def examples(self) -> ExampleTable:
        """Where a stream's examples are kept; used in the thread that calls `apply`."""
        return ExampleTable(self._database)

    def close(self) -> None:
        """Fold the log into the file and release the lock."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _explain(self, error: Exception) -> str:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            return f"{self._path} is in use by another process; only one may sign with a key"
        return f"{self._path}: {error}"

    def _claim(self, name: str, value: bytes) -> bool:
        found = self._get(name)
        if found is None:
            self._write([(name, value)])
        return found is None or found == value

    def _get(self, name: str) -> bytes | None:
        row = self._database.execute("SELECT value FROM entry WHERE name = ?", (name,)).fetchone()
        if row is None:
            return None
        if not isinstance(row[0], bytes):
            raise ValueError(f"{name} is no byte string")
        return row[0]

    def _get_integer(self, name: str) -> int:
        value = self._get(name)
        return 0 if value is None else int(value)

    def _get_record(self, kind: type[R], name: str) -> R | None:
        value = self._get(name)
        return None if value is None else decode_record(kind, value)

    def _get_residual(self) -> Residual | None:
        value = self._get("residual")
        if value is None:
            return None
        return decode_record(Residual, value, max_bytes=MAX_RESIDUAL_RECORD_BYTES)

    def _get_counts(self, kind: str) -> Mapping[ReasonCode, int]:
        rows = self._database.execute(
            "SELECT reason, count FROM counter WHERE kind = ? ORDER BY reason", (kind,)
        )
        return MappingProxyType({ReasonCode(reason): int(count) for reason, count in rows})

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
