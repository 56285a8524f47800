"""What a device says of its update, and its entry on the ledger; a device needs no more of one."""

from dataclasses import dataclass
from typing import ClassVar

from headwater_protocol.crypto.hashing import Domain
from headwater_protocol.crypto.signing import signing_bytes
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import (
    ChainId,
    DeviceId,
    Digest,
    Network,
    NumExamples,
    RoundNumber,
    Signature,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """An update's entry on the ledger; the round gives what else the device signed."""

    device: DeviceId
    payload: Digest
    """The blob that holds the encoded delta."""
    num_examples: NumExamples
    signature: Signature
    """The device's, over the `UpdateClaim`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateClaim:
    """What a device signs about its update; the commit and the round restore it."""

    KIND: ClassVar[str] = "update-claim/1"

    shard: ChainId
    round: RoundNumber
    base: Digest
    device: DeviceId
    payload: Digest
    num_examples: NumExamples


def update_message(network: Network, claim: UpdateClaim) -> bytes:
    """The bytes that a device signs for its update."""
    return signing_bytes(Domain.UPDATE, network, encode_record(claim))
