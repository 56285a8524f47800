"""A device's update as it travels: the claim it signed, with the payload in place of its digest."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from headwater_protocol.chain.claim import Commit, UpdateClaim
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.encoding.record import Length, decode_record
from headwater_protocol.identifiers import (
    ChainId,
    DeviceId,
    Digest,
    NumExamples,
    RoundNumber,
    Signature,
)

MAX_PAYLOAD_BYTES: Final = 4 * 1024 * 1024
MAX_UPDATE_BYTES: Final = MAX_PAYLOAD_BYTES + 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One device's contribution to one round."""

    KIND: ClassVar[str] = "update/1"

    round: RoundNumber
    base: Digest
    device: DeviceId
    num_examples: NumExamples
    signature: Signature
    """Over the `UpdateClaim`, which names the payload by digest."""
    payload: Annotated[bytes, Length(1, MAX_PAYLOAD_BYTES)]
    """The encoded delta."""


def decode_update(data: bytes, *, max_bytes: int = MAX_UPDATE_BYTES) -> Update:
    """The update that `data` encodes; its signature is not checked.

    Raises:
        InvalidMessage: If it does not decode or exceeds `max_bytes`.
    """
    return decode_record(Update, data, max_bytes=max_bytes)


def update_claim(update: Update, shard: ChainId) -> UpdateClaim:
    """What the device signed."""
    return UpdateClaim(
        shard=shard,
        round=update.round,
        base=update.base,
        device=update.device,
        payload=blob_digest(update.payload),
        num_examples=update.num_examples,
    )


def update_commit(update: Update) -> Commit:
    """The update's entry on the ledger."""
    return Commit(
        device=update.device,
        payload=blob_digest(update.payload),
        num_examples=update.num_examples,
        signature=update.signature,
    )
