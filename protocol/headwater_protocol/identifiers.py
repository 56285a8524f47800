"""Identifiers and quantities, each a type of its own, with the bounds that its encoding enforces.

A key names its holder: an account, a device and a validator are their Ed25519 public keys.
"""

from typing import Annotated, Final, NewType

from headwater_protocol.encoding.record import Length, Pattern, Range

MAX_UNSIGNED: Final = 2**63 - 1
"""Counters and amounts fit a signed 64-bit integer, so that every store and language holds them."""

Digest = NewType("Digest", Annotated[bytes, Length(32)])
"""SHA-256 of a blob, or a domain-separated hash of a record."""

Signature = NewType("Signature", Annotated[bytes, Length(64)])
"""Ed25519."""

AccountId = NewType("AccountId", Annotated[bytes, Length(32)])
"""An Ed25519 public key that holds a balance or sends transactions."""

DeviceId = NewType("DeviceId", Annotated[bytes, Length(32)])
"""The Ed25519 public key of a device."""

ValidatorId = NewType("ValidatorId", Annotated[bytes, Length(32)])
"""The Ed25519 public key with which a delegate proposes, votes, scores and attests."""

Network = NewType("Network", Annotated[bytes, Length(32)])
"""The digest of the genesis: what a device pins, and part of everything signed."""

ChainId = NewType("ChainId", Annotated[str, Pattern("[a-z0-9][a-z0-9-]{0,31}")])
"""`main`, or the name of a shard."""

TaskId = NewType("TaskId", Annotated[str, Pattern("[a-z0-9][a-z0-9-]{0,31}")])

Height = NewType("Height", Annotated[int, Range(0, MAX_UNSIGNED)])
"""A block's place in its chain; the genesis state is at 0, the first block at 1."""

RoundNumber = NewType("RoundNumber", Annotated[int, Range(0, MAX_UNSIGNED)])
"""Federated rounds of a shard, from 1."""

EpochNumber = NewType("EpochNumber", Annotated[int, Range(0, MAX_UNSIGNED)])
"""Terms of an elected set of delegates, from 0; one merge of the shards' models each."""

View = NewType("View", Annotated[int, Range(0, 2**31 - 1)])
"""An attempt to finalize a block of one height, from 0."""

TimeMs = NewType("TimeMs", Annotated[int, Range(0, MAX_UNSIGNED)])
"""Milliseconds since 1970-01-01 UTC, as agreed in a block or read from a clock by a shell."""

Units = NewType("Units", Annotated[int, Range(0, MAX_UNSIGNED)])
"""The smallest unit of the network's token."""

NOTHING: Final = Units(0)
"""Where a record leaves an amount out."""

VotingPower = NewType("VotingPower", Annotated[int, Range(0, 2**53)])
"""Stake that counts in a vote."""

Nonce = NewType("Nonce", Annotated[int, Range(0, MAX_UNSIGNED)])
"""Transactions that a sender has had executed on a chain."""

NumExamples = NewType("NumExamples", Annotated[int, Range(1, 2**24)])
"""A device's weight in the mean, before the task's cap."""

Score = NewType("Score", Annotated[int, Range(-10_000, 10_000)])
"""Cosine between an update and a delegate's reference, in ten-thousandths."""

MAIN_CHAIN: Final = ChainId("main")
