"""How a device reads what its whole fleet has: genesis, announcements, pieces of blobs, the base.

Reading is a pure function of the bytes, so thousands of devices in one process may share a reader
that remembers. On a device of its own, `DirectReader` reads everything as it comes.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.genesis import Genesis, genesis_network
from headwater_protocol.chain.task import Task
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.errors import OutOfBounds
from headwater_protocol.identifiers import ChainId, Digest, Network
from headwater_protocol.light.client import Pin
from headwater_protocol.light.shard import (
    ShardTrust,
    Term,
    advance_shard,
    make_shard_trust,
    note_in_office,
)
from headwater_protocol.light.update import EpochUpdate, decode_epoch_update
from headwater_protocol.messages.announcement import (
    Announcement,
    decode_announcement,
    verify_announcement,
)
from headwater_protocol.messages.chunk import Chunk, decode_chunk
from headwater_protocol.model.fixed_point import decode_model, to_float32


class Reader(Protocol):
    """Decodes and checks; raises `InvalidMessage` for what does not hold."""

    def network(self, genesis: Genesis) -> Network:
        """The digest of the genesis."""
        ...

    def trust(self, genesis: Genesis, shard: ChainId, pin: Pin | None) -> ShardTrust:
        """What a pinned genesis says about a shard."""
        ...

    def epoch(self, payload: bytes) -> EpochUpdate:
        """The step to an epoch that `payload` encodes; nothing of it is verified."""
        ...

    def advance(
        self,
        trust: ShardTrust,
        update: EpochUpdate,
        *,
        now_ms: int,
        verifier: Verifier,
        pin: Pin | None,
    ) -> ShardTrust:
        """What is known after a step, which is checked."""
        ...

    def note_in_office(self, trust: ShardTrust, term: Term) -> ShardTrust:
        """What is known once a verified block shows a term in office."""
        ...

    def name(self, payload: bytes) -> Digest:
        """SHA-256 of a message."""
        ...

    def announcement(self, payload: bytes) -> Announcement:
        """The announcement that `payload` encodes; nothing of it is verified."""
        ...

    def verify(
        self,
        announcement: Announcement,
        *,
        network: Network,
        shard: ChainId,
        committee: Committee,
        verifier: Verifier,
    ) -> None:
        """Check what `announcement` says."""
        ...

    def chunk(self, payload: bytes) -> Chunk:
        """The piece that `payload` encodes."""
        ...

    def base(self, data: bytes, task: Task) -> NDArray[np.float32]:
        """The base of `task`, shape (num_parameters,); read-only where it is shared."""
        ...


class DirectReader:
    """Reads everything as it comes."""

    def network(self, genesis: Genesis) -> Network:
        """The digest of the genesis."""
        return genesis_network(genesis)

    def trust(self, genesis: Genesis, shard: ChainId, pin: Pin | None) -> ShardTrust:
        """What a pinned genesis says about a shard.

        Raises:
            WrongEpoch: If it is not the pinned one.
        """
        return make_shard_trust(genesis, shard, pin)

    def epoch(self, payload: bytes) -> EpochUpdate:
        """The step to an epoch that `payload` encodes; nothing of it is verified.

        Raises:
            InvalidMessage: If it does not decode.
        """
        return decode_epoch_update(payload)

    def advance(
        self,
        trust: ShardTrust,
        update: EpochUpdate,
        *,
        now_ms: int,
        verifier: Verifier,
        pin: Pin | None,
    ) -> ShardTrust:
        """What is known after a step, which is checked.

        Raises:
            InvalidMessage: The subclass says what does not hold.
        """
        return advance_shard(trust, update, now_ms, verifier, pin=pin)

    def note_in_office(self, trust: ShardTrust, term: Term) -> ShardTrust:
        """What is known once a verified block shows a term in office."""
        return note_in_office(trust, term)

    def name(self, payload: bytes) -> Digest:
        """SHA-256 of a message."""
        return blob_digest(payload)

    def announcement(self, payload: bytes) -> Announcement:
        """The announcement that `payload` encodes; nothing of it is verified.

        Raises:
            InvalidMessage: If it does not decode.
        """
        return decode_announcement(payload)

    def verify(
        self,
        announcement: Announcement,
        *,
        network: Network,
        shard: ChainId,
        committee: Committee,
        verifier: Verifier,
    ) -> None:
        """Check what `announcement` says.

        Raises:
            InvalidMessage: The subclass says what does not hold.
        """
        verify_announcement(
            announcement, network=network, shard=shard, committee=committee, verifier=verifier
        )

    def chunk(self, payload: bytes) -> Chunk:
        """The piece that `payload` encodes.

        Raises:
            InvalidMessage: If it does not decode.
        """
        return decode_chunk(payload)

    def base(self, data: bytes, task: Task) -> NDArray[np.float32]:
        """The base of `task`, shape (num_parameters,).

        Raises:
            InvalidMessage: If it does not decode or is not the task's.
        """
        model = decode_model(data, max_parameters=task.num_parameters)
        if len(model.parameters) != task.num_parameters:
            raise OutOfBounds(
                f"the base has {len(model.parameters)} parameters, not {task.num_parameters}"
            )
        if model.fraction_bits != task.fraction_bits:
            raise OutOfBounds(
                f"the base has {model.fraction_bits} fraction bits, not {task.fraction_bits}"
            )
        return to_float32(model)
