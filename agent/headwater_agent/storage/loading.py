"""The state in a database's tables, read by the agent that starts and by those who only look."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeVar

from headwater_agent.machine.limits import MAX_RECEIPTS
from headwater_agent.state import DeviceState, OutboxEntry, Residual
from headwater_agent.storage.disk import Database
from headwater_protocol.encoding.record import decode_record
from headwater_protocol.identifiers import RoundNumber
from headwater_protocol.light.shard import ShardTrust
from headwater_protocol.messages.receipt import SignedReceipt
from headwater_protocol.reasons import ReasonCode

MAX_RESIDUAL_RECORD_BYTES: Final = 65 * 1024 * 1024
"""A residual is the one record that may exceed the limit of messages."""

R = TypeVar("R")


def load_state(database: Database) -> DeviceState:
    """The state that was applied last.

    Raises:
        InvalidMessage: If a record does not decode.
        ValueError: If a value has another type than the store writes.
        sqlite3.Error: If it cannot be read.
    """
    receipts = database.execute(
        "SELECT value FROM receipt ORDER BY id DESC LIMIT ?", (MAX_RECEIPTS,)
    ).fetchall()
    state = DeviceState(
        session=_get_integer(database, "session"),
        sequence=_get_integer(database, "sequence"),
        last_signed_round=RoundNumber(_get_integer(database, "last_signed_round")),
        outbox=_get_record(database, OutboxEntry, "outbox"),
        residual=_get_residual(database),
        program=get_entry(database, "program"),
        trust=_get_record(database, ShardTrust, "trust"),
        receipts=tuple(
            decode_record(SignedReceipt, _bytes("a receipt", value)) for (value,) in receipts[::-1]
        ),
        rejections=_get_counts(database, "rejection"),
        answers=_get_counts(database, "answer"),
    )
    if state.outbox is not None and state.outbox.round > state.last_signed_round:
        raise ValueError("the update is of a later round than the last one signed")
    return state


def get_entry(database: Database, name: str) -> bytes | None:
    """One named value.

    Raises:
        ValueError: If it is no byte string.
    """
    row = database.execute("SELECT value FROM entry WHERE name = ?", (name,)).fetchone()
    return None if row is None else _bytes(name, row[0])


def _bytes(name: str, value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"{name} is no byte string")
    return value


def _get_integer(database: Database, name: str) -> int:
    value = get_entry(database, name)
    return 0 if value is None else int(value)


def _get_record(database: Database, kind: type[R], name: str) -> R | None:
    value = get_entry(database, name)
    return None if value is None else decode_record(kind, value)


def _get_residual(database: Database) -> Residual | None:
    value = get_entry(database, "residual")
    if value is None:
        return None
    return decode_record(Residual, value, max_bytes=MAX_RESIDUAL_RECORD_BYTES)


def _get_counts(database: Database, kind: str) -> Mapping[ReasonCode, int]:
    rows = database.execute(
        "SELECT reason, count FROM counter WHERE kind = ? ORDER BY reason", (kind,)
    ).fetchall()
    return MappingProxyType({ReasonCode(str(reason)): int(str(count)) for reason, count in rows})
