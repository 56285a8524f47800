"""Checkpoints of shards and merges of their models: what the ledgers say to each other."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from headwater_protocol.chain.committee import MAX_DELEGATES, Committee
from headwater_protocol.chain.contribution import NO_CONTRIBUTIONS, Contributions
from headwater_protocol.chain.round import MergeCorrection
from headwater_protocol.crypto.hashing import Domain, hash_record
from headwater_protocol.crypto.signing import Verifier, signing_bytes
from headwater_protocol.encoding.record import Count, Range, encode_record
from headwater_protocol.errors import BadEncoding, BadSignature, OutOfBounds
from headwater_protocol.identifiers import (
    MAX_UNSIGNED,
    ChainId,
    Digest,
    EpochNumber,
    Height,
    Network,
    RoundNumber,
    Signature,
    ValidatorId,
)

MAX_SHARDS: Final = 1_024

MAX_EPOCH_EXAMPLES: Final = 2**36
"""A shard's weight in a merge at the most: `MAX_SHARDS` of them keep the mean inside int64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A shard's state, ready to be settled on the main chain."""

    KIND: ClassVar[str] = "checkpoint/1"

    shard: ChainId
    number: Annotated[int, Range(1, MAX_UNSIGNED)]
    """Place in the shard's row of checkpoints, from 1."""
    epoch: EpochNumber
    """The term whose committee of the shard signs it."""
    merged: EpochNumber
    """Merges that the model contains."""
    round: RoundNumber
    """The last closed round."""
    height: Height
    """The block whose state this is."""
    state_root: Digest
    model: Digest
    num_examples: Annotated[int, Range(0, MAX_UNSIGNED)]
    """Accepted since the previous checkpoint: the model's weight in the merge."""
    is_final: bool
    """Whether the shard's task is finished."""
    previous: Digest
    """The digest of the checkpoint before; zeros for the first."""
    contributions: Contributions = NO_CONTRIBUTIONS
    """Who was paid how much on the shard so far: the owners of its model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSignature:
    """One delegate's signature over a checkpoint."""

    validator: ValidatorId
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCheckpoint:
    """A checkpoint with signatures, in order of the validators' keys."""

    KIND: ClassVar[str] = "signed-checkpoint/1"

    checkpoint: Checkpoint
    signatures: Annotated[tuple[CheckpointSignature, ...], Count(0, MAX_DELEGATES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeInput:
    """One shard's model in a merge."""

    shard: ChainId
    checkpoint: Digest
    model: Digest
    num_examples: Annotated[int, Range(0, MAX_UNSIGNED)]
    """Summed over the epoch's checkpoints, `MAX_EPOCH_EXAMPLES` at the most."""
    correction: MergeCorrection | None = None
    """Of a finished shard's model that came too late for an earlier merge: moves it onto the last
    merged model before it is merged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """The merge that ends an epoch: the example-weighted integer mean of the shards' models."""

    KIND: ClassVar[str] = "merge/1"

    epoch: EpochNumber
    """Number of merges with this one, from 1."""
    inputs: Annotated[tuple[MergeInput, ...], Count(1, MAX_SHARDS)]
    """In order of the shards' names."""
    model: Digest | None
    """What more than two thirds attested; None until then."""


def checkpoint_digest(checkpoint: Checkpoint) -> Digest:
    """The link that the next checkpoint carries."""
    return hash_record(Domain.CHECKPOINT, checkpoint)


def checkpoint_message(network: Network, checkpoint: Checkpoint) -> bytes:
    """The bytes that a delegate signs for `checkpoint`."""
    return signing_bytes(Domain.CHECKPOINT, network, encode_record(checkpoint))


def verify_checkpoint(
    signed: SignedCheckpoint, *, network: Network, committee: Committee, verifier: Verifier
) -> None:
    """Check that more than two thirds of `committee` signed the checkpoint.

    Raises:
        BadEncoding: If the signatures are not in order, each signer once.
        OutOfBounds: If a signer is no delegate.
        InsufficientPower: If the signers have too little power.
        BadSignature: If a signature does not verify.
    """
    signers = [entry.validator for entry in signed.signatures]
    if signers != sorted(set(signers)):
        raise BadEncoding("a checkpoint lists each signer once, in order of the keys")
    for signer in signers:
        if committee.power_of(signer) == 0:
            raise OutOfBounds(f"{signer.hex()[:16]} is no delegate of {signed.checkpoint.shard}")
    committee.require_quorum(committee.power_of_all(signers))
    message = checkpoint_message(network, signed.checkpoint)
    for entry in signed.signatures:
        if not verifier.verify(entry.validator, message, entry.signature):
            raise BadSignature(f"no signature of {entry.validator.hex()[:16]} on the checkpoint")
