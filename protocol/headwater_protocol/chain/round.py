"""One federated round of a shard, as its ledger keeps it, and who is in its cohort.

The cohort is the `cohort_size` devices of the lowest rank, where a device's rank is a hash of the
round's seed and its key, divided by its weight: a weighted sample without replacement that every
device checks for itself from three numbers, without a list.

Duffield, Lund, Thorup, "Priority sampling for estimation of arbitrary subset sums", JACM 2007.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Final

from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.encoding.record import Range
from headwater_protocol.identifiers import (
    MAX_UNSIGNED,
    DeviceId,
    Digest,
    EpochNumber,
    Height,
    RoundNumber,
    TaskId,
    TimeMs,
    Units,
)

MAX_DEVICE_WEIGHT: Final = 1_000_000
TOP_RANK: Final = Digest(b"\xff" * 32)
"""As a threshold: the whole fleet is in the cohort."""

CountField = Annotated[int, Range(0, MAX_UNSIGNED)]
DeviceWeight = Annotated[int, Range(1, MAX_DEVICE_WEIGHT)]


class RoundPhase(StrEnum):
    """What a round takes now."""

    COLLECT = "collect"
    SCORE = "score"
    ATTEST = "attest"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeCorrection:
    """A merged model that arrived while rounds went on: the round's model moves by the difference.

    The shard's model becomes `model + merged - reference`, so that what it learned since the
    checkpoint stays.
    """

    epoch: EpochNumber
    merged: Digest
    """The main chain's merged model."""
    reference: Digest
    """The shard's model that went into it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A round's place on the ledger; one record from announcement to reward."""

    KIND: ClassVar[str] = "round/1"

    number: RoundNumber
    epoch: EpochNumber
    """The term whose committee judges it."""
    task: TaskId
    phase: RoundPhase
    base: Digest
    """The model that devices train on."""
    seed: Digest
    """Draws the cohort."""
    rank_threshold: Digest
    """The highest rank in the cohort, a 256-bit number."""
    clock: CountField = 0
    """The shard's clock of draws before this one; see `chain.cohort`."""
    cohort_size: CountField
    opened_height: Height
    """Devices enrolled later are not in the draw."""
    opened_ms: TimeMs
    collect_until_ms: TimeMs
    score_until_ms: TimeMs
    """Set when scoring starts; 0 before."""
    attest_until_ms: TimeMs
    """Set when attesting starts; 0 before."""
    num_batches: CountField
    num_updates: CountField
    num_accepted: CountField
    num_examples: CountField
    """Of the accepted updates, each capped by the task."""
    correction: MergeCorrection | None
    """Applied to the aggregate's result when the round attests."""
    model: Digest | None
    """What more than two thirds attested; the base where nothing was accepted; None while open."""
    paid: Units
    """Rewards of this round."""
    closed_height: Height
    """0 while open."""


def compute_rank(seed: Digest, device: DeviceId, weight: int) -> int:
    """A device's rank in the draw of `seed`: the lower, the earlier it is drawn."""
    return int.from_bytes(hash_bytes(Domain.COHORT, seed, device), "big") // weight


def is_in_cohort(round_: Round, device: DeviceId, weight: int) -> bool:
    """Whether a device of `weight` was drawn for `round_`."""
    threshold = int.from_bytes(round_.rank_threshold, "big")
    return compute_rank(round_.seed, device, weight) <= threshold
