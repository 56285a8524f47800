"""An epoch: a term of elected delegates, and the merged model that it starts from."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from headwater_protocol.chain.checkpoint import MAX_SHARDS, Merge
from headwater_protocol.chain.committee import Committee
from headwater_protocol.crypto.hashing import Domain, hash_record
from headwater_protocol.encoding.record import Count
from headwater_protocol.errors import OutOfBounds
from headwater_protocol.identifiers import ChainId, Digest, EpochNumber, Height, TimeMs


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCommittee:
    """Who serves one shard in an epoch."""

    shard: ChainId
    committee: Committee


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One epoch of the whole network, written by the block that ends the one before."""

    KIND: ClassVar[str] = "epoch/1"

    epoch: EpochNumber
    """From 0; epoch n starts with merge n."""
    merge: Merge | None
    """The merge that ended the epoch before, with its model; None for epoch 0."""
    committee: Committee
    """Of the main chain: everybody who was elected."""
    shards: Annotated[tuple[ShardCommittee, ...], Count(1, MAX_SHARDS)]
    """In order of the shards' names."""
    seed: Digest
    """Dealt the delegates to the shards; zeros for epoch 0, which the genesis deals."""
    start_height: Height
    """The main chain's block that puts the committee in office: the one after the block that wrote
    this record, and the last one that the committee before certifies."""
    start_ms: TimeMs
    """The time of the block that wrote this record."""

    def __post_init__(self) -> None:
        names = [entry.shard for entry in self.shards]
        if names != sorted(set(names)):
            raise OutOfBounds("an epoch lists each shard once, in order of the names")

    def committee_of(self, shard: ChainId) -> Committee | None:
        """Who serves `shard`; None where it is not registered."""
        for entry in self.shards:
            if entry.shard == shard:
                return entry.committee
        return None


def epoch_digest(epoch: Epoch) -> Digest:
    """What an operator pins to vouch for an epoch."""
    return hash_record(Domain.EPOCH, epoch)


def epoch_key(epoch: EpochNumber) -> bytes:
    """The key of an epoch on every chain that holds it."""
    return epoch.to_bytes(8, "big")
