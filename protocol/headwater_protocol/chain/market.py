"""Transactions of the main chain about tasks, rewards, deposits, licences and access."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Final

from headwater_protocol.chain.contribution import Contribution
from headwater_protocol.chain.proof import MAX_NAMESPACES
from headwater_protocol.chain.round import CountField
from headwater_protocol.chain.task import Task
from headwater_protocol.encoding.record import Count, Range
from headwater_protocol.identifiers import (
    MAX_UNSIGNED,
    AccountId,
    ChainId,
    DeviceId,
    Digest,
    TaskId,
    Units,
)
from headwater_protocol.merkle.trie import MapProof

MAX_CLAIMS: Final = 256
"""Accounts of one `ClaimRewards`: about 200 kB on a shard of a million accounts."""

MAX_LIST_SIBLINGS: Final = 64
"""Of a proof in a list; a list of 2**63 items would need them."""

CheckpointNumber = Annotated[int, Range(1, MAX_UNSIGNED)]
NamespaceRoots = Annotated[tuple[Digest, ...], Count(1, MAX_NAMESPACES)]


class BlobClass(StrEnum):
    """The namespaces of blobs."""

    MODELS = "models"
    PAYLOADS = "payloads"
    PROGRAMS = "programs"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTask:
    """Escrow the budget of a task for all shards; the sender is its sponsor."""

    KIND: ClassVar[str] = "open-task/1"

    task: Task


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseTask:
    """End a task early: open rounds end, no other opens, and what is unspent returns."""

    KIND: ClassVar[str] = "close-task/1"

    task: TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardClaim:
    """An account's cumulative reward on a shard, proven."""

    account: AccountId
    total: Units
    proof: MapProof
    """In the shard's `rewards`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRewards:
    """Pay out what a settled checkpoint proves and was not paid before; anybody may send it."""

    KIND: ClassVar[str] = "claim-rewards/1"

    shard: ChainId
    checkpoint: CheckpointNumber
    namespace_roots: NamespaceRoots
    """Under the checkpoint's state root; shared by all claims."""
    claims: Annotated[tuple[RewardClaim, ...], Count(1, MAX_CLAIMS)]
    """In order of the accounts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LockDeposit:
    """Lock units behind a device that is to be enrolled in a shard; the sender owns them."""

    KIND: ClassVar[str] = "lock-deposit/1"

    device: DeviceId
    shard: ChainId
    amount: Units


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleDeposit:
    """Take a device's proven penalties out of its deposit, and return what is left at the end."""

    KIND: ClassVar[str] = "settle-deposit/1"

    device: DeviceId
    checkpoint: CheckpointNumber
    """Of the shard for which the deposit is locked."""
    penalty: Units
    """Cumulative; 0 is proven by absence."""
    namespace_roots: NamespaceRoots
    proof: MapProof
    """In the shard's `penalties`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPrice:
    """Put a model version up for sale, or take it off; the task's sponsor may."""

    KIND: ClassVar[str] = "set-price/1"

    model: Digest
    price: Units | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuyLicence:
    """Pay for a model version; the sender may then read its blob."""

    KIND: ClassVar[str] = "buy-licence/1"

    model: Digest
    price: Units
    """What the buyer agreed to; refused where it is not the price any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRoyalties:
    """Pay an owner of a model version its part of all sales so far; anybody may send it."""

    KIND: ClassVar[str] = "claim-royalties/1"

    model: Digest
    shard: ChainId
    """Where the contribution was made."""
    contribution: Contribution
    index: CountField
    siblings: Annotated[tuple[Digest, ...], Count(0, MAX_LIST_SIBLINGS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantAccess:
    """Let an account read a blob, or all blobs of a class; the sponsor of the task may."""

    KIND: ClassVar[str] = "grant-access/1"

    account: AccountId
    blob: Digest | None
    """None where the whole class is meant."""
    blob_class: BlobClass


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeAccess:
    """Take a grant back."""

    KIND: ClassVar[str] = "revoke-access/1"

    account: AccountId
    blob: Digest | None
    blob_class: BlobClass


@dataclass(frozen=True, slots=True, kw_only=True)
class SponsoredTask:
    """A task as the main chain keeps it, and as a shard takes it up."""

    KIND: ClassVar[str] = "sponsored-task/2"

    number: Annotated[int, Range(1, MAX_UNSIGNED)]
    """Place in the network's row of tasks; the genesis' is 1."""
    task: Task
    sponsor: AccountId
    open_shards: CountField
    """Shards that have not settled their final checkpoint of it."""
    returned: Units
    """Of the budget, what no round paid."""
    is_closing: bool
    """Whether its sponsor has ended it early."""


MarketBody = (
    OpenTask
    | CloseTask
    | ClaimRewards
    | LockDeposit
    | SettleDeposit
    | SetPrice
    | BuyLicence
    | ClaimRoyalties
    | GrantAccess
    | RevokeAccess
)
