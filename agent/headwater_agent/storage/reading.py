"""Looking at the state of a running or stopped agent: read-only, and nothing that holds it up.

A reader of SQLite's write-ahead log sees the last committed state and blocks no writer. Whether an
agent runs is read from the kernel's list of locks, so that the question itself takes none.
"""

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from headwater_agent.errors import DamagedState
from headwater_agent.state import DeviceState
from headwater_agent.storage.aside import tell_missing
from headwater_agent.storage.disk import BUSY_TIMEOUT_S, explain_disk, lock_path
from headwater_agent.storage.loading import get_entry, load_state
from headwater_agent.storage.proofs import load_proofs, load_totals
from headwater_protocol.errors import ConfigError, InvalidMessage
from headwater_protocol.messages.receipt import SignedReceipt

LOCKS: Final = Path("/proc/locks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What is on disk, all of one moment."""

    device: bytes
    network: bytes | None
    state: DeviceState
    totals: dict[str, int]
    report: dict[str, object]
    """What the agent said about itself last; empty if it never ran."""


def read_stored(path: Path) -> Stored:
    """The state at `path`.

    Raises:
        ConfigError: If there is none, or it may not be read.
        DamagedState: If it is none.
    """
    database = _open(path)
    try:
        database.execute("BEGIN")
        device = get_entry(database, "device")
        if device is None:
            raise DamagedState(path, "it names no device")
        row = database.execute("SELECT value FROM report").fetchone()
        report = json.loads(str(row[0])) if row is not None else {}
        return Stored(
            device=device,
            network=get_entry(database, "network"),
            state=load_state(database),
            totals=load_totals(database),
            report=report if isinstance(report, dict) else {},
        )
    except (InvalidMessage, ValueError) as error:
        raise DamagedState(path, str(error)) from error
    except sqlite3.Error as error:
        raise explain_disk(path, error) from error
    finally:
        database.close()


def read_proofs(path: Path, *, since_round: int) -> list[SignedReceipt]:
    """The kept receipts of rounds from `since_round` on, oldest first.

    Raises:
        ConfigError: If there is no state, or it may not be read.
        DamagedState: If it is none.
    """
    database = _open(path)
    try:
        return load_proofs(database, since_round=since_round)
    except (InvalidMessage, ValueError) as error:
        raise DamagedState(path, str(error)) from error
    except sqlite3.Error as error:
        raise explain_disk(path, error) from error
    finally:
        database.close()


def is_in_use(path: Path) -> bool:
    """Whether a process holds the state at `path`."""
    try:
        inode = lock_path(path).stat().st_ino
        lines = LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    # "1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"
    fields = [line.split() for line in lines]
    return any(
        len(field) >= 6 and field[1] == "FLOCK" and field[5].rpartition(":")[2] == str(inode)
        for field in fields
    )


def _open(path: Path) -> sqlite3.Connection:
    try:
        path.stat()
    except FileNotFoundError:
        raise ConfigError("state", f"{path} does not exist", fix=tell_missing(path)) from None
    except OSError as error:
        raise ConfigError("state", f"{path}: {error.strerror}", fix="ask with sudo") from None
    try:
        database = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode=ro",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
        )
        database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error as error:
        primary = int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
        if primary in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}:
            raise ConfigError("state", f"{path} may not be read", fix="ask with sudo") from None
        raise explain_disk(path, error) from error
    return database
