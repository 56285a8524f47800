"""What a shard's state holds, and under which keys."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from headwater_protocol.chain.account import PenaltyBalance, RewardBalance
from headwater_protocol.chain.checkpoint import SignedCheckpoint
from headwater_protocol.chain.claim import Commit
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.device import Device
from headwater_protocol.chain.epoch import Epoch
from headwater_protocol.chain.proof import MAX_NAMESPACES, SHARD_NAMESPACES
from headwater_protocol.chain.round import CountField, MergeCorrection, Round
from headwater_protocol.chain.task import Task
from headwater_protocol.chain.transaction import MAX_BATCH_COMMITS, UNAVAILABLE
from headwater_protocol.encoding.record import Count, Range
from headwater_protocol.identifiers import (
    ChainId,
    DeviceId,
    Digest,
    EpochNumber,
    NumExamples,
    RoundNumber,
    TaskId,
    TimeMs,
    Units,
    ValidatorId,
)
from headwater_protocol.reasons import ReasonCode
from headwater_shard.state.table import Table
from headwater_shard.transition import NONCES

MedianScore = Annotated[int, Range(UNAVAILABLE, 10_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DueCheckpoint:
    """A checkpoint whose state root is known only when the next block begins."""

    round: RoundNumber
    model: Digest
    num_examples: CountField
    is_final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The shard as a whole; one record."""

    KIND: ClassVar[str] = "shard/2"

    shard: ChainId
    task: TaskId
    task_number: CountField
    """Its place in the network's row of tasks; the genesis' is 1."""
    rounds_before: RoundNumber
    """Rounds of the tasks before it."""
    committee: Committee
    epoch: EpochNumber
    """The term of `committee`."""
    adopted: EpochNumber
    """The last epoch that was proven here; while it is ahead of `epoch`, its committee waits for
    the open round to end."""
    adopted_ms: TimeMs
    """Time of the last main chain's block that proved it."""
    merged: EpochNumber
    """Merges that the model contains."""
    model: Digest
    """The model of the last closed round."""
    reference: Digest
    """The last merged model that was adopted, or the initial model."""
    last_round: RoundNumber
    """The open round, or the last one; 0 before the first."""
    last_closed_ms: TimeMs
    """Block time at which the last round closed."""
    num_examples: CountField
    """Accepted since the last checkpoint."""
    budget_left: Units
    """Of the task, for the rounds to come."""
    checkpoints: CountField
    """Emitted so far."""
    checkpoints_in_epoch: CountField
    """Emitted since the last merge was adopted."""
    last_checkpoint: Digest
    """Zeros before the first."""
    due_checkpoint: DueCheckpoint | None
    correction: MergeCorrection | None
    """A merge that waits to be applied."""
    is_closing: bool
    """Whether the sponsor has ended the task early, so that no round opens any more."""
    is_finished: bool
    """Whether all rounds of the task are closed."""
    clock: CountField
    """Draws for each unit of weight so far; see `chain.cohort`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whoever locked deposits for devices here; what they have together is what counts."""

    KIND: ClassVar[str] = "owner/1"

    deposit: Units
    weight: CountField
    """Granted to all its devices."""
    num_devices: CountField


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadEntry:
    """Whose a payload is, so that it is not sent again; kept for many rounds."""

    KIND: ClassVar[str] = "payload-entry/1"

    round: RoundNumber
    device: DeviceId


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRoots:
    """The namespace roots under a checkpoint's state root, so that claims can be proven later."""

    KIND: ClassVar[str] = "checkpoint-roots/1"

    roots: Annotated[tuple[Digest, ...], Count(1, MAX_NAMESPACES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Commits that one gateway put on the ledger together."""

    KIND: ClassVar[str] = "batch/1"

    gateway: ValidatorId
    commits: Annotated[tuple[Commit, ...], Count(1, MAX_BATCH_COMMITS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateEntry:
    """One device's update of one round."""

    KIND: ClassVar[str] = "update-entry/1"

    payload: Digest
    num_examples: NumExamples
    batch: CountField
    is_judged: bool
    reason: ReasonCode
    """Once judged: `ok`, `low_score` or `unavailable`."""
    score: MedianScore
    reward: Units


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreList:
    """One delegate's scores of one batch, in the batch's order."""

    KIND: ClassVar[str] = "score-list/1"

    scores: Annotated[tuple[MedianScore, ...], Count(1, MAX_BATCH_COMMITS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """One delegate's digest of a round's model."""

    KIND: ClassVar[str] = "attestation/1"

    model: Digest


SHARD: Final = Table("chain", Shard)
EPOCHS: Final = Table("epochs", Epoch)
DEVICES: Final = Table("devices", Device)
TASKS: Final = Table("tasks", Task)
ROUNDS: Final = Table("rounds", Round)
BATCHES: Final = Table("batches", Batch)
UPDATES: Final = Table("updates", UpdateEntry)
SCORES: Final = Table("scores", ScoreList)
ATTESTATIONS: Final = Table("attestations", Attestation)
REWARDS: Final = Table("rewards", RewardBalance)
CHECKPOINTS: Final = Table("checkpoints", SignedCheckpoint)
OWNERS: Final = Table("owners", Owner)
PAYLOADS: Final = Table("payloads", PayloadEntry)
PENALTIES: Final = Table("penalties", PenaltyBalance)
ROOTS: Final = Table("roots", CheckpointRoots)

SHARD_TABLES: Final[tuple[Table[object], ...]] = tuple(
    sorted(
        (  # type: ignore[arg-type]  # a row of tables of different records
            ATTESTATIONS,
            BATCHES,
            CHECKPOINTS,
            DEVICES,
            EPOCHS,
            NONCES,
            OWNERS,
            PAYLOADS,
            PENALTIES,
            REWARDS,
            ROOTS,
            ROUNDS,
            SCORES,
            SHARD,
            TASKS,
            UPDATES,
        ),
        key=lambda table: table.namespace,
    )
)
if tuple(table.namespace for table in SHARD_TABLES) != SHARD_NAMESPACES:
    raise RuntimeError("the shard's tables and the namespaces of its proofs differ")

SHARD_KEY: Final = b"shard"


def batch_key(round_: RoundNumber, batch: int) -> bytes:
    """The key of a batch."""
    return round_.to_bytes(8, "big") + batch.to_bytes(4, "big")


def update_key(round_: RoundNumber, device: DeviceId) -> bytes:
    """The key of a device's update of a round."""
    return round_.to_bytes(8, "big") + device


def score_key(round_: RoundNumber, batch: int, validator: ValidatorId) -> bytes:
    """The key of a delegate's scores of a batch."""
    return batch_key(round_, batch) + validator


def attestation_key(round_: RoundNumber, validator: ValidatorId) -> bytes:
    """The key of a delegate's attestation of a round."""
    return round_.to_bytes(8, "big") + validator


def checkpoint_key(number: int) -> bytes:
    """The key of a checkpoint."""
    return number.to_bytes(8, "big")
