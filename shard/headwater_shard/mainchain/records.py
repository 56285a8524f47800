"""What the main chain's state holds, and under which keys."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from headwater_protocol.chain.account import Account
from headwater_protocol.chain.checkpoint import Merge, SignedCheckpoint
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.epoch import Epoch
from headwater_protocol.chain.proof import MAIN_NAMESPACES
from headwater_protocol.chain.round import CountField
from headwater_protocol.chain.stake import MAX_BONDED, CommissionThousandths
from headwater_protocol.encoding.record import Count, Range
from headwater_protocol.identifiers import (
    MAX_UNSIGNED,
    AccountId,
    ChainId,
    Digest,
    EpochNumber,
    Height,
    TimeMs,
    Units,
    ValidatorId,
)
from headwater_shard.mainchain.justice.records import EVIDENCE, LIVENESS
from headwater_shard.mainchain.market.records import (
    ACCESS,
    CLAIMS,
    DEPOSITS,
    LICENCES,
    MODELS,
    POTS,
    TASKS,
)
from headwater_shard.state.table import Table
from headwater_shard.transition import NONCES

MAX_ENTRIES: Final = 8
"""Unbondings, or redelegations, of one account with one candidate that mature at a time."""

Bonded = Annotated[int, Range(0, MAX_BONDED)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A validator that can be elected, with the pool of all stake behind it."""

    KIND: ClassVar[str] = "candidate/1"

    commission_thousandths: CommissionThousandths
    bonded: Bonded
    """Units of all delegations, its own included; as many is its voting power."""
    shares: CountField
    """Of all delegations; a delegation of s shares is worth `s * bonded // shares`."""
    jailed_until: Height
    """The main chain's height from which it may ask out of jail; 0 where it is not in jail."""
    is_tombstoned: bool
    """Whether it is never elected again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """What one account has lent to one candidate."""

    KIND: ClassVar[str] = "delegation/1"

    shares: Annotated[int, Range(1, MAX_UNSIGNED)]
    """Of the candidate's pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnbondingEntry:
    """Stake on its way back to its delegator."""

    units: Units
    """What is left of it; slashing takes from it until it is complete."""
    created_height: Height
    completes_height: Height


@dataclass(frozen=True, slots=True, kw_only=True)
class Unbonding:
    """All that one account takes back from one candidate."""

    KIND: ClassVar[str] = "unbonding/1"

    entries: Annotated[tuple[UnbondingEntry, ...], Count(1, MAX_ENTRIES)]
    """In order of their heights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedelegationEntry:
    """Stake that moved from one candidate to another, and answers for the first one's faults."""

    source: ValidatorId
    units: Units
    """When it moved."""
    created_height: Height
    completes_height: Height


@dataclass(frozen=True, slots=True, kw_only=True)
class Redelegation:
    """All that one account moved to one candidate and that still matures."""

    KIND: ClassVar[str] = "redelegation/1"

    entries: Annotated[tuple[RedelegationEntry, ...], Count(1, MAX_ENTRIES)]
    """In order of their heights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """A registered shard, and what it settled last; the epochs say who signs for it."""

    KIND: ClassVar[str] = "shard-entry/1"

    number: CountField
    """Of the last checkpoint; 0 before the first."""
    last_checkpoint: Digest
    """Zeros before the first."""
    height: Height
    epoch: EpochNumber
    """Whose committee signed it."""
    merged: EpochNumber
    """Merges that its model contains."""
    model: Digest
    """Of the last checkpoint; the task's initial model before the first."""
    epoch_checkpoints: CountField
    """Settled in the current epoch, made from its base."""
    epoch_examples: CountField
    """Summed over these, `MAX_EPOCH_EXAMPLES` at the most."""
    is_final: bool
    late_checkpoints: CountField = 0
    """Settled while a merge was open: for its next attempt, or if final for the merge after it."""
    late_examples: CountField = 0
    """Summed over these, `MAX_EPOCH_EXAMPLES` at the most."""


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
    merge_attempt: CountField
    """Times that the open merge was opened again; 0 where none is open."""
    merge_opened_ms: TimeMs
    """Block time of the open attempt; 0 where none is open."""
    burned: Units
    """Slashed, and nobody's any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeAttestation:
    """One delegate's digest of a merged model."""

    KIND: ClassVar[str] = "merge-attestation/1"

    model: Digest


ACCOUNTS: Final = Table("accounts", Account)
ATTESTATIONS: Final = Table("attestations", MergeAttestation)
EPOCHS: Final = Table("epochs", Epoch)
DELEGATIONS: Final = Table("delegations", Delegation)
UNBONDINGS: Final = Table("unbondings", Unbonding)
REDELEGATIONS: Final = Table("redelegations", Redelegation)
CANDIDATES: Final = Table("candidates", Candidate)
MAIN: Final = Table("chain", MainChain)
CHECKPOINTS: Final = Table("checkpoints", SignedCheckpoint)
MERGES: Final = Table("merges", Merge)
SHARDS: Final = Table("shards", ShardEntry)

MAIN_TABLES: Final[tuple[Table[object], ...]] = tuple(
    sorted(
        (  # type: ignore[arg-type]  # a row of tables of different records
            ACCESS,
            ACCOUNTS,
            ATTESTATIONS,
            CANDIDATES,
            CHECKPOINTS,
            CLAIMS,
            DELEGATIONS,
            DEPOSITS,
            EPOCHS,
            EVIDENCE,
            LICENCES,
            LIVENESS,
            MAIN,
            MERGES,
            MODELS,
            NONCES,
            POTS,
            REDELEGATIONS,
            SHARDS,
            TASKS,
            UNBONDINGS,
        ),
        key=lambda table: table.namespace,
    )
)
if tuple(table.namespace for table in MAIN_TABLES) != MAIN_NAMESPACES:
    raise RuntimeError("the main chain's tables and the namespaces of its proofs differ")

MAIN_KEY: Final = b"main"


def stake_key(delegator: AccountId, validator: ValidatorId) -> bytes:
    """The key of what ties an account to a candidate: delegation, unbonding, redelegation to it."""
    return delegator + validator


def shard_key(shard: ChainId) -> bytes:
    """The key of a shard."""
    return shard.encode()


def checkpoint_key(shard: ChainId, number: int) -> bytes:
    """The key of a shard's checkpoint."""
    return shard.encode() + b"/" + number.to_bytes(8, "big")


def merge_attestation_key(epoch: EpochNumber, validator: ValidatorId) -> bytes:
    """The key of a delegate's attestation of a merge."""
    return epoch.to_bytes(8, "big") + validator
