"""What the main chain's state holds, and under which keys."""

from dataclasses import dataclass
from typing import ClassVar, Final

from headwater_protocol.chain.checkpoint import Merge, SignedCheckpoint
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.proof import MAIN_NAMESPACES
from headwater_protocol.chain.round import CountField
from headwater_protocol.identifiers import (
    AccountId,
    ChainId,
    Digest,
    EpochNumber,
    Height,
    TaskId,
    TimeMs,
    Units,
    ValidatorId,
    VotingPower,
)
from headwater_shard.state.table import Table
from headwater_shard.transition import NONCES


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A holder of units."""

    KIND: ClassVar[str] = "account/1"

    balance: Units


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A validator that can be a delegate."""

    KIND: ClassVar[str] = "candidate/1"

    stake: VotingPower
    """Its own bond."""
    shard: ChainId
    """Which shard it serves in this epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEscrow:
    """A task's sponsor and what is set aside for its rewards."""

    KIND: ClassVar[str] = "task-escrow/1"

    task: TaskId
    sponsor: AccountId
    escrow: Units


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """A registered shard: who signs for it, and what it settled last."""

    KIND: ClassVar[str] = "shard-entry/1"

    committee: Committee
    number: CountField
    """Of the last checkpoint; 0 before the first."""
    last_checkpoint: Digest
    """Zeros before the first."""
    height: Height
    epoch: EpochNumber
    model: Digest
    """Of the last checkpoint; the task's initial model before the first."""
    epoch_checkpoints: CountField
    """Settled in the current epoch, made from its base."""
    epoch_examples: CountField
    """Summed over these, `MAX_EPOCH_EXAMPLES` at the most."""
    is_final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MainChain:
    """The chain as a whole; one record."""

    KIND: ClassVar[str] = "main/1"

    committee: Committee
    epoch: EpochNumber
    """Merges completed."""
    epoch_started_ms: TimeMs
    """Block time of the epoch's first checkpoint; 0 before it."""
    is_merging: bool
    """Whether merge `epoch + 1` waits for its attestations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeAttestation:
    """One delegate's digest of a merged model."""

    KIND: ClassVar[str] = "merge-attestation/1"

    model: Digest


ACCOUNTS: Final = Table("accounts", Account)
ATTESTATIONS: Final = Table("attestations", MergeAttestation)
CANDIDATES: Final = Table("candidates", Candidate)
MAIN: Final = Table("chain", MainChain)
CHECKPOINTS: Final = Table("checkpoints", SignedCheckpoint)
MERGES: Final = Table("merges", Merge)
SHARDS: Final = Table("shards", ShardEntry)
TASKS: Final = Table("tasks", TaskEscrow)

MAIN_TABLES: Final[tuple[Table[object], ...]] = tuple(
    sorted(
        (  # type: ignore[arg-type]  # a row of tables of different records
            ACCOUNTS,
            ATTESTATIONS,
            CANDIDATES,
            CHECKPOINTS,
            MAIN,
            MERGES,
            NONCES,
            SHARDS,
            TASKS,
        ),
        key=lambda table: table.namespace,
    )
)
if tuple(table.namespace for table in MAIN_TABLES) != MAIN_NAMESPACES:
    raise RuntimeError("the main chain's tables and the namespaces of its proofs differ")

MAIN_KEY: Final = b"main"


def shard_key(shard: ChainId) -> bytes:
    """The key of a shard."""
    return shard.encode()


def checkpoint_key(shard: ChainId, number: int) -> bytes:
    """The key of a shard's checkpoint."""
    return shard.encode() + b"/" + number.to_bytes(8, "big")


def merge_attestation_key(epoch: EpochNumber, validator: ValidatorId) -> bytes:
    """The key of a delegate's attestation of a merge."""
    return epoch.to_bytes(8, "big") + validator
