"""Signed receipts kept as proof of what a device is owed, and totals of what it did.

A proof is kept once for each round, stage and gateway, so that a delegate who changes its story
pushes no other's promise out. Past `MAX_PROOFS` the oldest go first, and the total of what went is
kept. A reward counts once a round, by the first verdict that says it.
"""

from typing import Final

from headwater_agent.state import Changes, OutboxEntry
from headwater_agent.storage.disk import Database
from headwater_protocol.encoding.record import decode_record, encode_record
from headwater_protocol.messages.receipt import SignedReceipt, Stage
from headwater_protocol.messages.update import decode_update
from headwater_protocol.reasons import ReasonCode

MAX_PROOFS: Final = 4_096
"""About 300 bytes each, so at most about 1.5 MB; the oldest go first."""

SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS proof (id INTEGER PRIMARY KEY AUTOINCREMENT, "
    "round INTEGER NOT NULL, stage TEXT NOT NULL, gateway BLOB NOT NULL, value BLOB NOT NULL, "
    "UNIQUE (round, stage, gateway))",
    "CREATE TABLE IF NOT EXISTS total (name TEXT PRIMARY KEY, count INTEGER NOT NULL) "
    "WITHOUT ROWID",
)

TOTALS: Final = (
    "rounds_signed",
    "examples_signed",
    "bytes_signed",
    "rounds_accepted",
    "rounds_refused",
    "reward_units",
    "updates_dropped",
    "proofs_dropped",
)
"""`updates_dropped`: signed, and never taken by a gateway before their round was over."""


def keep_books(database: Database, changes: Changes) -> None:
    """Note what `changes`, which are about to be written, add to the totals and proofs."""
    entry = changes.outbox
    if entry is not None and changes.last_signed_round is not None:
        _note_replaced(database)
        _add(database, "rounds_signed", 1)
        _add(database, "examples_signed", decode_update(entry.update).num_examples)
        _add(database, "bytes_signed", len(entry.update))
    elif changes.clears_outbox and changes.receipt is None:
        _note_replaced(database)
    if changes.receipt is not None:
        _keep_proof(database, changes.receipt)


def load_totals(database: Database) -> dict[str, int]:
    """All of `TOTALS`, 0 where nothing was counted."""
    found = {str(name): _integer(count) for name, count in _pairs(database)}
    return {name: found.get(name, 0) for name in TOTALS}


def load_proofs(database: Database, *, since_round: int) -> list[SignedReceipt]:
    """The kept receipts of rounds from `since_round` on, oldest first.

    Raises:
        InvalidMessage: If one does not decode.
    """
    rows = database.execute(
        "SELECT value FROM proof WHERE round >= ? ORDER BY id", (since_round,)
    ).fetchall()
    return [decode_record(SignedReceipt, value) for (value,) in rows if isinstance(value, bytes)]


def _keep_proof(database: Database, signed: SignedReceipt) -> None:
    receipt = signed.receipt
    if receipt.stage is Stage.VERDICT:
        known = database.execute(
            "SELECT 1 FROM proof WHERE round = ? AND stage = ? LIMIT 1",
            (receipt.round, receipt.stage.value),
        ).fetchone()
        if known is None:
            is_accepted = receipt.reason is ReasonCode.OK
            _add(database, "rounds_accepted" if is_accepted else "rounds_refused", 1)
            _add(database, "reward_units", receipt.reward)
    database.execute(
        "INSERT OR IGNORE INTO proof (round, stage, gateway, value) VALUES (?, ?, ?, ?)",
        (receipt.round, receipt.stage.value, receipt.gateway, encode_record(signed)),
    )
    row = database.execute("SELECT count(*), min(id) FROM proof").fetchone()
    surplus = 0 if row is None else max(0, _integer(row[0]) - MAX_PROOFS)
    if surplus:
        database.execute(
            "DELETE FROM proof WHERE id IN (SELECT id FROM proof ORDER BY id LIMIT ?)", (surplus,)
        )
        _add(database, "proofs_dropped", surplus)


def _note_replaced(database: Database) -> None:
    row = database.execute("SELECT value FROM entry WHERE name = 'outbox'").fetchone()
    if row is None or not isinstance(row[0], bytes):
        return
    if not decode_record(OutboxEntry, row[0]).is_held:
        _add(database, "updates_dropped", 1)


def _add(database: Database, name: str, count: int) -> None:
    database.execute(
        "INSERT INTO total VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET count = count + excluded.count",
        (name, count),
    )


def _pairs(database: Database) -> list[tuple[object, ...]]:
    return database.execute("SELECT name, count FROM total").fetchall()


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise ValueError(f"{value!r} is no integer")
    return value
