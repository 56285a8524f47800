"""What a gateway wants done. Results come back as inputs; the shell decides on which thread."""

from dataclasses import dataclass

from headwater_protocol.chain.checkpoint import MergeInput
from headwater_protocol.chain.round import MergeCorrection
from headwater_protocol.chain.task import Task
from headwater_protocol.chain.transaction import Commit
from headwater_protocol.identifiers import (
    ChainId,
    Digest,
    EpochNumber,
    RoundNumber,
    ValidatorId,
)
from headwater_protocol.messages.update import Update


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Send over MQTT, QoS 1."""

    topic: str
    payload: bytes
    """Empty and retained: clear what is retained there."""
    retain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Hand a transaction to a chain's engine; `on_submitted` tells what came of it."""

    chain: ChainId
    transaction: bytes
    ticket: str
    """Names the duty behind it, so that a refusal can be retried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckUpdate:
    """An update whose signature and payload have to be checked."""

    update: Update
    payload: Digest
    message: bytes
    """What the device signed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeIn:
    """Check these updates, store the payloads of the good ones durably, answer `on_taken_in`."""

    shard: ChainId
    round: RoundNumber
    task: Task
    updates: tuple[CheckUpdate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreBatch:
    """Score a batch for one delegate; answer `on_scored`."""

    ticket: str
    """Names the duty."""
    shard: ChainId
    round: RoundNumber
    batch: int
    validator: ValidatorId
    task: Task
    base: Digest
    commits: tuple[Commit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What a delegate made of a batch."""

    scores: tuple[int, ...]
    """Cosines in ten-thousandths, in the batch's order, or `UNAVAILABLE`."""
    reference: Digest
    """The stored blob that they compare with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckScores:
    """Recompute another delegate's scores; answer `on_checked`."""

    shard: ChainId
    round: RoundNumber
    batch: int
    task: Task
    scores: bytes
    """The signed transaction that posted them."""
    commits: tuple[Commit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refutation:
    """A score that is not what its two blobs give."""

    position: int
    """In the batch."""
    reference: bytes
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeRoundModel:
    """Compute a round's model for one delegate; answer `on_round_model`."""

    ticket: str
    """Names the duty."""
    shard: ChainId
    round: RoundNumber
    validator: ValidatorId
    task: Task
    base: Digest
    accepted: tuple[Commit, ...]
    correction: MergeCorrection | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeMerge:
    """Compute an epoch's merged model for one delegate; answer `on_merge_model`."""

    ticket: str
    """Names the duty."""
    epoch: EpochNumber
    validator: ValidatorId
    task: Task
    inputs: tuple[MergeInput, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishBlob:
    """Publish a blob's pieces, retained, if the store has it."""

    shard: ChainId
    blob: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearBlob:
    """Clear the retained pieces of a blob that no open round needs."""

    shard: ChainId
    blob: Digest
    blob_bytes: int


Work = TakeIn | ScoreBatch | CheckScores | ComputeRoundModel | ComputeMerge
"""What takes a processor's time and runs beside the event loop."""

Effect = Publish | Submit | Work | PublishBlob | ClearBlob
