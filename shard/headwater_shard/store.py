"""One chain on disk: its blocks, its current state, and what its validators have signed.

SQLite in WAL mode with `synchronous=FULL`: when a call returns, what it wrote survives a power cut,
and whatever is cut short leaves the state of the last complete call. The current entries of the
ledger's state stand beside the blocks, so that a start reads a state instead of replaying a chain.

One process writes; it holds an exclusive lock on a file beside the database for as long as it
has the store open. The lock is the kernel's, so it is gone with the process however that ends; the
empty file stays. Auditors read without the lock.

Left out on purpose: pruning (blocks are the audit) and any rule of a ledger or of consensus, except
that heights are contiguous.

SQLite documentation, "Write-Ahead Logging", sections 2.2 (checkpoints) and 5 (read-only use).
"""

import fcntl
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

from headwater_protocol.chain.block import (
    MAX_BLOCK_BYTES,
    Block,
    Certificate,
    header_digest,
)
from headwater_protocol.encoding.record import decode_record, encode_record
from headwater_protocol.errors import InvalidMessage, StorageError
from headwater_protocol.identifiers import ChainId, Digest, Height, Network, ValidatorId
from headwater_shard.engine.bft.effects import DurableEffect, Finalized, Persist
from headwater_shard.engine.bft.history import FinalizedBlock, Tip
from headwater_shard.engine.bft.leader import Rotation
from headwater_shard.engine.bft.signer import SavedState, SignedState
from headwater_shard.engine.border import Changes

SCHEMA_VERSION: Final = 1
PAGE_BYTES: Final = 16 * 1024
BUSY_TIMEOUT_S: Final = 5.0
"""How long a statement waits for a reader's checkpoint lock."""

MAX_COPY_ATTEMPTS: Final = 5
"""Tries to copy a store that is in use, for an auditor who may not write beside it."""

_SCHEMA: Final = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE block (height INTEGER PRIMARY KEY, block BLOB NOT NULL,"
    " certificate BLOB NOT NULL)",
    "CREATE TABLE entry (namespace TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL,"
    " PRIMARY KEY (namespace, key)) WITHOUT ROWID",
    "CREATE TABLE vote (validator BLOB PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE proposal (digest BLOB PRIMARY KEY, height INTEGER NOT NULL, block BLOB NOT NULL)",
)

R = TypeVar("R")


class LedgerStore:
    """The database of one chain."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        path: Path,
        lock_file: int | None,
        copy_folder: "tempfile.TemporaryDirectory[str] | None" = None,
    ) -> None:
        self._connection = connection
        self._path = path
        self._lock_file = lock_file
        self._copy_folder = copy_folder
        self._is_closed = False
        self._network = Network(self._load_meta("network"))
        self._chain = ChainId(self._load_meta("chain").decode())
        self._height = self._load_height()

    @classmethod
    def open(cls, path: Path, *, network: Network, chain: ChainId, genesis: bytes) -> "LedgerStore":
        """Open a store for writing; make it where there is none.

        Args:
            path: The database file; its folder must exist.
            network: What the store has to belong to.
            chain: Of the network.
            genesis: The encoded genesis, kept for auditors.

        Raises:
            StorageError: If it is another chain's, in use, or unusable.
        """
        lock_file = _lock(path)
        try:
            with _translated(path):
                connection = sqlite3.connect(
                    path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
                )
            try:
                with _translated(path):
                    _configure(connection)
                    _create_schema(connection, network=network, chain=chain, genesis=genesis)
                store = cls(connection, path=path, lock_file=lock_file)
                store._require(network=network, chain=chain, genesis=genesis)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            os.close(lock_file)
            raise
        return store

    @classmethod
    def open_read_only(cls, path: Path) -> "LedgerStore":
        """Open a store for an audit; neither blocks nor state are ever changed.

        A store with a write-ahead log beside it is in use or was cut off, so it is read through the
        log. Where SQLite may not keep the log's index in the folder, a copy is read instead.

        Raises:
            StorageError: If there is no store, or it is unusable.
        """
        if not path.is_file():
            raise StorageError(f"{path}: there is no ledger; check the folder's name")
        log = path.with_name(path.name + "-wal")
        folder: tempfile.TemporaryDirectory[str] | None = None
        if not log.exists():
            connection = _open_for_reading(path, "mode=ro&immutable=1")
        elif os.access(path.parent, os.W_OK):
            connection = _open_for_reading(path, "mode=ro")
        else:
            folder, connection = _open_copy(path)
        try:
            return cls(connection, path=path, lock_file=None, copy_folder=folder)
        except BaseException:
            connection.close()
            if folder is not None:
                folder.cleanup()
            raise

    def __enter__(self) -> "LedgerStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """The database file."""
        return self._path

    @property
    def network(self) -> Network:
        """The network that the store belongs to."""
        return self._network

    @property
    def chain(self) -> ChainId:
        """The chain that it holds."""
        return self._chain

    @property
    def height(self) -> Height:
        """The last block stored; 0 before the first."""
        return self._height

    def load_genesis(self) -> bytes:
        """The encoded genesis.

        Raises:
            StorageError: If the store is unusable.
        """
        return self._load_meta("genesis")

    def write(self, effects: Sequence[DurableEffect]) -> None:
        """Put a step's effects on disk, in their order, all or none.

        Raises:
            StorageError: If a block does not follow the last one, or the store is unusable.
        """
        height = self._height
        with self._transaction():
            for effect in effects:
                if isinstance(effect, Finalized):
                    height = self._insert_block(
                        effect.block,
                        effect.certificate,
                        effect.execution.changes,
                        effect.rotation,
                        last=height,
                    )
            # Of one validator's states in a step only the last has to survive, and block contents
            # are kept only for heights that are still open.
            persists = [effect for effect in effects if isinstance(effect, Persist)]
            self._insert_votes(persists, last=height)
        self._height = height

    def append(
        self, block: Block, certificate: Certificate, changes: Changes, rotation: Rotation
    ) -> None:
        """Store the next block with what it does to the state, all or nothing.

        Args:
            block: Of height `height + 1`.
            certificate: Under which it stands.
            changes: The entries that differ from the state before.
            rotation: What the next height starts from.

        Raises:
            StorageError: If the block does not follow the last one, or the store is unusable.
        """
        with self._transaction():
            height = self._insert_block(block, certificate, changes, rotation, last=self._height)
        self._height = height

    def install(
        self,
        blocks: Iterable[FinalizedBlock],
        entries: Iterable[tuple[str, bytes, bytes]],
        rotation: Rotation,
    ) -> None:
        """Fill an empty store with a ledger that was checked, all or nothing.

        Args:
            blocks: All from the first, with the certificates under which they stand.
            entries: The state after the last one: namespace, key and value.
            rotation: What the next height starts from.

        Raises:
            StorageError: If the store holds blocks, one is missing, or the store is unusable.
        """
        if self._height:
            raise StorageError(f"{self._path}: holds {self._height} blocks; give an empty folder")
        height = Height(0)
        with self._transaction():
            for final in blocks:
                height = self._insert_block(
                    final.block, final.certificate, {}, rotation, last=height
                )
            self._connection.executemany("INSERT INTO entry VALUES (?, ?, ?)", entries)
        self._height = height

    def persist_votes(self, effects: Iterable[Persist]) -> None:
        """Store what validators have signed; the last state of each counts.

        Raises:
            StorageError: If the store is unusable.
        """
        with self._transaction():
            self._insert_votes(list(effects), last=self._height)

    def load_tip(self) -> Tip | None:
        """The last block and what the next one starts from; None before the first.

        Raises:
            StorageError: If the store is unusable, or what it holds does not decode.
        """
        if self._height == 0:
            return None
        final = self._require_block(self._height)
        rotation = self._decode(Rotation, self._load_meta("rotation"), "the rotation")
        return Tip(block=final.block, certificate=final.certificate, rotation=rotation)

    def load_block(self, height: Height) -> FinalizedBlock | None:
        """The block at `height`, None where there is none.

        Raises:
            StorageError: If the store is unusable, or what it holds does not decode.
        """
        row = self._one("SELECT block, certificate FROM block WHERE height = ?", (height,))
        return None if row is None else self._decode_block(height, *row)

    def iter_blocks(self, from_height: Height) -> Iterator[FinalizedBlock]:
        """The blocks from `from_height` to the last one stored when the iteration began.

        Raises:
            StorageError: If the store is unusable, what it holds does not decode, or a block is
                missing.
        """
        for height in range(max(1, from_height), self._height + 1):
            yield self._require_block(Height(height))

    def load_entries(self) -> Iterator[tuple[str, bytes, bytes]]:
        """The current state: namespace, key and value, in order of namespaces and keys.

        Raises:
            StorageError: If the store is unusable.
        """
        with _translated(self._path):
            rows = self._connection.execute(
                "SELECT namespace, key, value FROM entry ORDER BY namespace, key"
            )
            for namespace, key, value in rows:
                yield str(namespace), bytes(key), bytes(value)

    def load_votes(self) -> dict[ValidatorId, SavedState]:
        """What each validator has signed last, in order of their keys.

        Raises:
            StorageError: If the store is unusable, or what it holds does not decode.
        """
        saved: dict[ValidatorId, SavedState] = {}
        with _translated(self._path):
            rows = self._connection.execute(
                "SELECT validator, state FROM vote ORDER BY validator"
            ).fetchall()
        for validator, data in rows:
            state = self._decode(SignedState, bytes(data), "a signed state")
            blocks = tuple(
                self._decode(Block, data, "a proposed block")
                for digest in _named_blocks(state)
                if (data := self._load_proposal(digest)) is not None
            )
            saved[ValidatorId(bytes(validator))] = SavedState(state=state, blocks=blocks)
        return saved

    def close(self) -> None:
        """Write the log back into the database and let go of the lock; harmless when repeated.

        Raises:
            StorageError: If the log could not be written back; nothing is lost, it stays.
        """
        if self._is_closed:
            return
        self._is_closed = True
        try:
            with _translated(self._path):
                if self._lock_file is not None:
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._connection.close()
        finally:
            if self._lock_file is not None:
                os.close(self._lock_file)
            if self._copy_folder is not None:
                self._copy_folder.cleanup()

    def _insert_block(
        self,
        block: Block,
        certificate: Certificate,
        changes: Changes,
        rotation: Rotation,
        *,
        last: Height,
    ) -> Height:
        height = block.header.height
        if height != last + 1:
            raise StorageError(
                f"{self._path}: block {height} does not follow block {last};"
                " start again from the stored state"
            )
        connection = self._connection
        connection.execute(
            "INSERT INTO block VALUES (?, ?, ?)",
            (height, encode_record(block), encode_record(certificate)),
        )
        for namespace in sorted(changes):
            entries = sorted(changes[namespace].items())
            connection.executemany(
                "DELETE FROM entry WHERE namespace = ? AND key = ?",
                [(namespace, key) for key, value in entries if value is None],
            )
            connection.executemany(
                "INSERT INTO entry VALUES (?, ?, ?)"
                " ON CONFLICT (namespace, key) DO UPDATE SET value = excluded.value",
                [(namespace, key, value) for key, value in entries if value is not None],
            )
        self._save_meta("rotation", encode_record(rotation))
        connection.execute("DELETE FROM proposal WHERE height <= ?", (height,))
        return height

    def _insert_votes(self, effects: Sequence[Persist], *, last: Height) -> None:
        latest = {effect.state.validator: effect.state for effect in effects}
        self._connection.executemany(
            "INSERT INTO vote VALUES (?, ?)"
            " ON CONFLICT (validator) DO UPDATE SET state = excluded.state",
            [(validator, encode_record(state)) for validator, state in sorted(latest.items())],
        )
        blocks: dict[Digest, Block] = {}
        for effect in effects:
            for block in effect.blocks:
                if block.header.height > last:
                    blocks[header_digest(block.header)] = block
        for digest in sorted(blocks):
            # The replicas of one process name the same blocks; encode each once.
            if self._one("SELECT 1 FROM proposal WHERE digest = ?", (digest,)) is None:
                block = blocks[digest]
                self._connection.execute(
                    "INSERT INTO proposal VALUES (?, ?, ?)",
                    (digest, block.header.height, encode_record(block)),
                )

    def _load_proposal(self, digest: Digest) -> bytes | None:
        row = self._one("SELECT block FROM proposal WHERE digest = ?", (digest,))
        return row[0] if row is not None and isinstance(row[0], bytes) else None

    def _save_meta(self, name: str, value: bytes) -> None:
        _save_meta(self._connection, name, value)

    def _load_meta(self, name: str) -> bytes:
        row = self._one("SELECT value FROM meta WHERE name = ?", (name,))
        if row is None or not isinstance(row[0], bytes):
            raise StorageError(f"{self._path}: no {name} is stored; restore the file from a copy")
        return row[0]

    def _load_height(self) -> Height:
        row = self._one("SELECT max(height), count(*) FROM block", ())
        highest, count = (0, 0) if row is None else row
        if (highest or 0) != count:
            raise StorageError(
                f"{self._path}: {count} blocks up to height {highest}; restore the file from a copy"
            )
        return Height(count if isinstance(count, int) else 0)

    def _require(self, *, network: Network, chain: ChainId, genesis: bytes) -> None:
        if (self._network, self._chain) != (network, chain):
            raise StorageError(
                f"{self._path}: holds chain {self._chain} of network {self._network.hex()[:16]},"
                f" not {chain} of {network.hex()[:16]}; give another folder"
            )
        if self.load_genesis() != genesis:
            raise StorageError(f"{self._path}: starts from another genesis; give another folder")

    def _require_block(self, height: Height) -> FinalizedBlock:
        final = self.load_block(height)
        if final is None:
            raise StorageError(
                f"{self._path}: block {height} is missing; restore the file from a copy"
            )
        return final

    def _decode_block(self, height: int, block: object, certificate: object) -> FinalizedBlock:
        if not isinstance(block, bytes) or not isinstance(certificate, bytes):
            raise StorageError(f"{self._path}: block {height} is no bytes; restore from a copy")
        return FinalizedBlock(
            block=self._decode(Block, block, f"block {height}"),
            certificate=self._decode(Certificate, certificate, f"the certificate of {height}"),
        )

    def _decode(self, kind: type[R], data: bytes, what: str) -> R:
        try:
            return decode_record(kind, data, max_bytes=MAX_BLOCK_BYTES)
        except InvalidMessage as error:
            raise StorageError(
                f"{self._path}: {what} does not decode ({error}); restore the file from a copy"
            ) from error

    def _one(self, statement: str, parameters: tuple[object, ...]) -> tuple[object, ...] | None:
        with _translated(self._path):
            row: tuple[object, ...] | None = self._connection.execute(
                statement, parameters
            ).fetchone()
        return row

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._lock_file is None:
            raise StorageError(f"{self._path}: opened for reading only; open it for writing")
        with _translated(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # A failed COMMIT may have ended the transaction already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def _named_blocks(state: SignedState) -> list[Digest]:
    named: list[Digest] = []
    if state.proposal is not None:
        named.append(state.proposal.claim.block)
    if state.lock.valid is not None and state.lock.valid.block not in named:
        named.append(state.lock.valid.block)
    return named


def _save_meta(connection: sqlite3.Connection, name: str, value: bytes) -> None:
    connection.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


def _lock(path: Path) -> int:
    # A file of its own: closing any descriptor of the database would drop SQLite's locks on it.
    lock_path = path.with_name(path.name + ".lock")
    with _translated(path):
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StorageError(
            f"{path}: another process has the ledger open; stop it or give another folder"
        ) from error
    return descriptor


def _open_copy(path: Path) -> "tuple[tempfile.TemporaryDirectory[str], sqlite3.Connection]":
    with _translated(path):
        folder = tempfile.TemporaryDirectory(prefix="headwater-audit-")
        try:
            copy = Path(folder.name) / path.name
            _copy_at_rest(path, copy)
            return folder, _open_for_reading(copy, "mode=rw")
        except BaseException:
            folder.cleanup()
            raise


def _copy_at_rest(path: Path, copy: Path) -> None:
    """Copy a database and its log as they were at one moment, which writes nearby would spoil."""
    log, log_copy = (file.with_name(file.name + "-wal") for file in (path, copy))
    for _ in range(MAX_COPY_ATTEMPTS):
        before = _stamps(path, log)
        shutil.copyfile(path, copy)
        if log.exists():
            shutil.copyfile(log, log_copy)
        if _stamps(path, log) == before:
            return
    raise StorageError(f"{path}: it changes while it is copied; audit it when it is at rest")


def _stamps(*paths: Path) -> list[tuple[int, int] | None]:
    return [
        (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None for path in paths
    ]


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES:d}")
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != ("wal",):
        raise sqlite3.OperationalError(f"no write-ahead log here, journal mode {mode}")
    connection.execute("PRAGMA synchronous = FULL")


def _create_schema(
    connection: sqlite3.Connection, *, network: Network, chain: ChainId, genesis: bytes
) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return
    if version != 0:
        raise sqlite3.DatabaseError(f"schema version {version}, this program knows 1")
    connection.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        connection.execute(statement)
    _save_meta(connection, "network", network)
    _save_meta(connection, "chain", chain.encode())
    _save_meta(connection, "genesis", genesis)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION:d}")
    connection.execute("COMMIT")


def _open_for_reading(path: Path, options: str) -> sqlite3.Connection:
    with _translated(path):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?{options}",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA query_only = ON")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version != SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"schema version {version}, this program knows 1")
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into ours, with the file and what to do."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        cause: Exception = error
        if "disk I/O error" in str(error) and _is_full(path):
            # Where there is no room for the log's index, SQLite says this and no more.
            cause = OSError("the disk is full")
        raise StorageError(f"{path}: {cause}; {_fix(cause)}") from error


def _is_full(path: Path) -> bool:
    """Whether the file system under `path` has not a block left."""
    try:
        return os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return False


def _fix(error: Exception) -> str:
    text = str(error)
    if "full" in text or "No space" in text:
        return "free disk space and start again, nothing is lost"
    if "malformed" in text or "not a database" in text or "corrupt" in text:
        return "restore the file from a copy, or let the validator fetch the chain from its peers"
    if (
        "No such file" in text
        or "readonly" in text
        or "Permission" in text
        or "unable to open" in text
    ):
        return "check that the folder exists and may be written"
    if "schema version" in text:
        return "use the version of this program that made it"
    if "locked" in text:
        return "stop the other program that uses it"
    return "check the disk"
