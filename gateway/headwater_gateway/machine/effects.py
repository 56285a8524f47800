"""What a gateway wants done. Results come back as inputs; the shell decides on which thread."""

from dataclasses import dataclass

from headwater_protocol.chain.checkpoint import MergeInput
from headwater_protocol.chain.claim import Commit
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.evidence import WithheldPayload
from headwater_protocol.chain.round import MergeCorrection
from headwater_protocol.chain.task import Task
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
    """Check these updates, store the payloads of the good ones durably, answer `on_taken_in`.

    Durably means here and, where other gateways are known, with the holders of each payload.
    """

    shard: ChainId
    round: RoundNumber
    task: Task
    updates: tuple[CheckUpdate, ...]
    committee: Committee | None = None
    """Among which the holders are; None keeps the payloads here alone."""


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
    given_up: tuple[Digest, ...] = ()
    """Payloads that no gateway served in time."""


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
    validator: ValidatorId
    """Who posted them."""
    reference: Digest
    """What they say they compare with."""
    commits: tuple[Commit, ...]
    given_up: tuple[Digest, ...] = ()
    """Blobs that no gateway served in time; what needs them is not checked."""


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
    attempt: int = 0
    """At this merge."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchBlob:
    """Have a blob in the store, from the first holder that serves it; answer `on_fetched`."""

    blob: Digest
    holders: tuple[ValidatorId, ...]
    """To ask, in this order; none of them is hosted here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TidyBlobs:
    """A checkpoint settled: what is not needed any more may be evicted if the disk is full."""

    needed: frozenset[Digest]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareStatement:
    """Tell the other gateways that a payload is withheld; theirs come as `on_statement`."""

    evidence: WithheldPayload
    """With the signature of one delegate."""


Work = TakeIn | ScoreBatch | CheckScores | ComputeRoundModel | ComputeMerge
"""What takes a processor's time and runs beside the event loop."""

Waiting = ScoreBatch | CheckScores | ComputeRoundModel | ComputeMerge | PublishBlob
"""What needs blobs; it is not done before they are in the store, see `list_needs`."""

Effect = Publish | Submit | Work | PublishBlob | ClearBlob | FetchBlob | TidyBlobs | ShareStatement
