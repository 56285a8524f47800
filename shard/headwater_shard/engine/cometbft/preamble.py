"""How one of our blocks travels in one of CometBFT's: a preamble, then our transactions.

The preamble is the first entry of every block. It carries what our header commits to and CometBFT
has no place for: the certificate of the block before, and the proposer's own time. CometBFT's time
is that of the votes for the block before; on a chain that was idle for an hour it is an hour old,
and a round that opens by it would be over at once.

An entry of the mempool is a transaction, or a note that never stands in a block. A tick wishes for
a block, from whoever finds that the ledger's timer is due. A late vote is a validator's signature
over our header of the last block, for when the votes that CometBFT counted made no certificate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from headwater_protocol.chain.block import Certificate
from headwater_protocol.encoding.record import decode_record, encode_record
from headwater_protocol.errors import InvalidBlock, InvalidMessage
from headwater_protocol.identifiers import TimeMs

MAX_PREAMBLE_BYTES: Final = 32 * 1024
"""A certificate of `MAX_DELEGATES` signatures is about 13 kB."""

ENTRY_OVERHEAD_BYTES: Final = 8
"""What CometBFT counts for an entry besides its bytes, at the most."""

NOTE_PREFIX: Final = b"headwater/"
VOTE_PREFIX: Final = b"headwater/vote/"
TICK_PREFIX: Final = b"headwater/tick/"
TICK_BYTES: Final = len(TICK_PREFIX) + 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Preamble:
    """The first entry of a block of CometBFT."""

    KIND: ClassVar[str] = "comet-preamble/1"

    time_ms: TimeMs
    """The proposer's clock, later than the predecessor's."""
    last_certificate: Certificate | None
    """Of the block before; None at height 1."""


def pack_block(preamble: Preamble, transactions: Sequence[bytes]) -> list[bytes]:
    """The entries of a block."""
    return [encode_record(preamble), *transactions]


def unpack_block(entries: Sequence[bytes]) -> tuple[Preamble, tuple[bytes, ...]]:
    """The preamble and the transactions of a block.

    Raises:
        InvalidBlock: If the first entry is no preamble.
    """
    if not entries:
        raise InvalidBlock("a block without a preamble")
    try:
        preamble = decode_record(Preamble, entries[0], max_bytes=MAX_PREAMBLE_BYTES)
    except InvalidMessage as error:
        raise InvalidBlock(f"the first entry is no preamble: {error}") from error
    return preamble, tuple(entries[1:])


def encode_tick(*, height: int, timer_ms: int) -> bytes:
    """The wish for block `height`, because the timer of `timer_ms` is due; equal for everybody."""
    return TICK_PREFIX + height.to_bytes(8, "big") + timer_ms.to_bytes(8, "big")


def is_note(entry: bytes) -> bool:
    """Whether an entry of the mempool is none for a block."""
    return entry.startswith(NOTE_PREFIX)


def encode_late_vote(extension: bytes) -> bytes:
    """The note that carries a vote, encoded as an extension."""
    return VOTE_PREFIX + extension


def decode_late_vote(entry: bytes) -> bytes | None:
    """The extension in a late vote; None where the entry is none."""
    return entry[len(VOTE_PREFIX) :] if entry.startswith(VOTE_PREFIX) else None


def is_tick(entry: bytes) -> bool:
    """Whether an entry of the mempool is a tick."""
    return entry.startswith(TICK_PREFIX)


def decode_tick(entry: bytes) -> tuple[int, int] | None:
    """Height and timer of a tick; None where the entry is none."""
    if not is_tick(entry) or len(entry) != TICK_BYTES:
        return None
    numbers = entry[len(TICK_PREFIX) :]
    return int.from_bytes(numbers[:8], "big"), int.from_bytes(numbers[8:], "big")
