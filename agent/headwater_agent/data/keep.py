"""A stream's examples on disk, in the tables of a device's state.

Only places of the reservoir that changed are written, in one transaction, and no more often than
the configured interval: an SD card wears out by writes. As the reservoir fills, fewer examples
enter it, and the writes become fewer too. A power cut loses what came since the last one.
"""

import sqlite3
from pathlib import Path
from typing import Final, cast

import numpy as np

from headwater_agent.data.pool import ExampleSource
from headwater_agent.data.reservoir import Kept, KeptExample
from headwater_agent.storage.disk import Database, explain_disk
from headwater_protocol.encoding.cbor import decode_canonical, encode_canonical
from headwater_protocol.errors import InvalidMessage, StorageError

MAX_META_BYTES: Final = 16 * 1024 * 1024
"""Of counts, one a class."""

_SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS example (
        slot INTEGER PRIMARY KEY, label INTEGER NOT NULL, features BLOB NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS example_source (
        id INTEGER PRIMARY KEY CHECK (id = 1), fingerprint BLOB NOT NULL, meta BLOB NOT NULL
    )""",
)


class ExampleTable:
    """Reads and writes one reservoir through a state's open connection.

    Args:
        database: Open.
        path: Of its file, for what is told of errors.
    """

    def __init__(self, database: Database, path: Path) -> None:
        self._database = database
        self._path = path

    def load(self, fingerprint: bytes) -> Kept | None:
        """The reservoir; None if there is none, or it is of another source.

        Raises:
            StorageError: If the file cannot be read.
        """
        try:
            self._make_tables()
            found = self._database.execute(
                "SELECT meta FROM example_source WHERE fingerprint = ?", (fingerprint,)
            ).fetchone()
            if found is None:
                return None
            shape, seen = _decode_meta(cast(bytes, found[0]))
            rows = cast(
                list[tuple[int, int, bytes]],
                self._database.execute(
                    "SELECT slot, label, features FROM example ORDER BY slot"
                ).fetchall(),
            )
            examples = tuple(
                KeptExample(
                    slot=slot,
                    label=label,
                    features=np.frombuffer(features, "<f4").astype(np.float32, copy=False),
                )
                for slot, label, features in rows
            )
            return Kept(shape=shape, seen=seen, count=len(examples), examples=examples)
        except (InvalidMessage, ValueError, TypeError):
            # The sample is worth little beside what else the file holds: begin a new one.
            return None
        except (sqlite3.Error, OSError) as error:
            raise explain_disk(self._path, error) from error

    def _make_tables(self) -> None:
        for statement in _SCHEMA:
            self._database.execute(statement)

    def save(self, fingerprint: bytes, kept: Kept) -> None:
        """Write what changed, all or none; another source's examples are dropped.

        Raises:
            DiskUnavailable: If the disk takes no writes; what it holds is what it held before.
            StorageError: If it cannot be written for another reason.
        """
        meta = encode_canonical([list(kept.shape), list(kept.seen)])
        try:
            self._make_tables()
            self._database.execute("BEGIN IMMEDIATE")
            try:
                owner = self._database.execute(
                    "SELECT 1 FROM example_source WHERE fingerprint = ?", (fingerprint,)
                ).fetchone()
                if owner is None:
                    self._database.execute("DELETE FROM example")
                self._database.execute(
                    "INSERT INTO example_source VALUES (1, ?, ?) ON CONFLICT (id) DO UPDATE "
                    "SET fingerprint = excluded.fingerprint, meta = excluded.meta",
                    (fingerprint, meta),
                )
                self._database.executemany(
                    "INSERT INTO example VALUES (?, ?, ?) ON CONFLICT (slot) DO UPDATE "
                    "SET label = excluded.label, features = excluded.features",
                    (
                        (row.slot, row.label, row.features.astype("<f4", copy=False).tobytes())
                        for row in kept.examples
                    ),
                )
                self._database.execute("DELETE FROM example WHERE slot >= ?", (kept.count,))
                self._database.execute("COMMIT")
            finally:
                # A full disk fails in COMMIT and may leave the transaction open, or end it itself.
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
        except (sqlite3.Error, OSError) as error:
            raise explain_disk(self._path, error) from error


class Keeper:
    """Writes a stream's reservoir when it is time to.

    Args:
        source: Whose examples.
        table: Where.
        interval_ms: From one write to the next, at least.
    """

    def __init__(self, source: ExampleSource, table: ExampleTable, *, interval_ms: int) -> None:
        self._source = source
        self._table = table
        self._interval_ms = interval_ms
        self._due_ms: int | None = None
        self.num_writes = 0

    def restore(self) -> None:
        """Give the source what was kept, before it is opened.

        Raises:
            StorageError: If the file cannot be read.
        """
        kept = self._table.load(self._source.pool.fingerprint)
        if kept is not None:
            self._source.pool.restore(kept)

    def tick(self, now_ms: int) -> None:
        """Write if it is time; called often.

        Raises:
            StorageError: If it cannot be written.
        """
        if not self._source.is_stream:
            return
        # A clock that was set back must not put the next write off for years.
        if self._due_ms is None or self._due_ms > now_ms + self._interval_ms:
            self._due_ms = now_ms + self._interval_ms
        if now_ms >= self._due_ms:
            self._due_ms = now_ms + self._interval_ms
            self.flush()

    def flush(self) -> None:
        """Write what changed.

        Raises:
            StorageError: If it cannot be written.
        """
        if not self._source.is_stream:
            return
        changes = self._source.pool.take_changes()
        if changes is None:
            return
        try:
            self._table.save(self._source.pool.fingerprint, changes)
        except StorageError:
            self._source.pool.give_back(changes)
            raise
        self.num_writes += 1


def _decode_meta(data: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    decoded = decode_canonical(data, max_bytes=MAX_META_BYTES)
    if not isinstance(decoded, list) or len(decoded) != 2:
        raise ValueError("no shape and counts")
    shape, seen = ([int(entry) for entry in part] for part in decoded)
    return tuple(shape), tuple(seen)
