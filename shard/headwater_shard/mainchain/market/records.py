"""What the main chain keeps about tasks, claims, deposits, models and access, and where."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from headwater_protocol.chain.checkpoint import MAX_SHARDS
from headwater_protocol.chain.contribution import Contributions
from headwater_protocol.chain.market import BlobClass, CheckpointNumber, SponsoredTask
from headwater_protocol.chain.round import CountField
from headwater_protocol.encoding.record import Count
from headwater_protocol.identifiers import (
    AccountId,
    ChainId,
    DeviceId,
    Digest,
    Height,
    TaskId,
    Units,
)
from headwater_shard.state.table import Table

MAX_PRICES: Final = 64
"""Different prices at which one model version was ever sold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPot:
    """Units for one shard's rewards: what it may still pay, and what was not claimed yet."""

    KIND: ClassVar[str] = "shard-pot/1"

    task: TaskId
    """The last one opened."""
    units: Units
    budget: Units
    """Of that task, for this shard."""
    paid_before: Units
    """Cumulative rewards of the shard before that task."""
    claimed: Units
    """Of the shard's cumulative rewards, what was paid out here."""
    is_open: bool
    """Whether the shard has yet to settle its final checkpoint of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What was paid on a cumulative total so far."""

    KIND: ClassVar[str] = "claim/1"

    total: Units


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposit:
    """Units behind a device's conduct."""

    KIND: ClassVar[str] = "deposit/1"

    owner: AccountId
    shard: ChainId
    """Whose word on penalties counts."""
    units: Units


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """The contributions of one shard to a model version."""

    shard: ChainId
    checkpoint: CheckpointNumber
    contributions: Contributions


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSales:
    """Licences sold at one price."""

    price: Units
    num_sales: CountField


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A settled or merged model: who made it, and what it sold for."""

    KIND: ClassVar[str] = "model-version/1"

    task: TaskId
    sponsor: AccountId
    """Sets the price and grants access."""
    sources: Annotated[tuple[ModelSource, ...], Count(1, MAX_SHARDS)]
    """In order of the shards' names."""
    price: Units | None
    """None while it is not for sale."""
    sales: Annotated[tuple[PriceSales, ...], Count(0, MAX_PRICES)]
    """In order of the prices; what an owner has earned follows from these counts alone."""
    unclaimed: Units
    """Paid by buyers, and not yet by the ledger to owners."""

    @property
    def total(self) -> int:
        """Units of contribution, all shards together."""
        return sum(source.contributions.total for source in self.sources)


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """A buyer's right to read a model."""

    KIND: ClassVar[str] = "licence/1"

    price: Units
    height: Height
    """Of the block that sold it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessGrant:
    """A member's right to read a blob, or a class of them."""

    KIND: ClassVar[str] = "access-grant/1"

    height: Height
    """Of the block that granted it."""


ACCESS: Final = Table("access", AccessGrant)
CLAIMS: Final = Table("claims", Claim)
DEPOSITS: Final = Table("deposits", Deposit)
LICENCES: Final = Table("licences", Licence)
MODELS: Final = Table("models", ModelVersion)
POTS: Final = Table("pots", ShardPot)
TASKS: Final = Table("tasks", SponsoredTask)


def reward_claim_key(shard: ChainId, account: AccountId) -> bytes:
    """The key of what was paid on an account's rewards of a shard."""
    return b"reward/" + account + shard.encode()


def penalty_claim_key(shard: ChainId, device: DeviceId) -> bytes:
    """The key of what was taken for a device's penalties on a shard."""
    return b"penalty/" + device + shard.encode()


def royalty_claim_key(model: Digest, shard: ChainId, account: AccountId) -> bytes:
    """The key of what an account was paid for its contribution on a shard to a model."""
    return b"royalty/" + model + account + shard.encode()


def source_claim_key(model: Digest, shard: ChainId) -> bytes:
    """The key of what all owners on a shard were paid for a model."""
    return b"source/" + model + shard.encode()


def licence_key(model: Digest, account: AccountId) -> bytes:
    """The key of an account's licence for a model."""
    return model + account


def grant_key(
    sponsor: AccountId, account: AccountId, blob_class: BlobClass, blob: Digest | None
) -> bytes:
    """The key of a grant; a whole class has no blob."""
    return sponsor + account + blob_class.encode() + b"/" + (b"" if blob is None else blob)
