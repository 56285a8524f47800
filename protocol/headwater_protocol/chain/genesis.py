"""The genesis: the one record from which both kinds of ledger start, and whose digest is pinned."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from headwater_protocol.chain.checkpoint import MAX_SHARDS
from headwater_protocol.chain.committee import MAX_DELEGATES, Committee, make_committee
from headwater_protocol.chain.epoch import Epoch, ShardCommittee
from headwater_protocol.chain.incentives import NO_INCENTIVES, Incentives
from headwater_protocol.chain.stake import MAX_BONDED, CommissionThousandths
from headwater_protocol.chain.task import MAX_PARAMETERS, DurationMs, Task
from headwater_protocol.crypto.hashing import Domain, hash_record
from headwater_protocol.encoding.record import (
    Count,
    Pattern,
    Range,
    decode_record,
    encode_record,
    require_valid,
)
from headwater_protocol.errors import OutOfBounds
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    MAX_UNSIGNED,
    AccountId,
    ChainId,
    Digest,
    EpochNumber,
    Height,
    Network,
    TimeMs,
    Units,
    ValidatorId,
    VotingPower,
)
from headwater_protocol.model.bounds import MAX_TOTAL_EXAMPLES

MAX_GENESIS_BYTES: Final = 4 * 1024 * 1024
MAX_GENESIS_ACCOUNTS: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Rules that hold for the whole network."""

    checkpoint_interval: Annotated[int, Range(1, 1_000_000)]
    """Rounds from one checkpoint of a shard to the next."""
    checkpoints_per_epoch: Annotated[int, Range(1, 1_000_000)]
    """Checkpoints of each shard that make an epoch, which a merge ends."""
    merge_wait_ms: DurationMs
    """How long a shard holds its next round back for the merge that ends an epoch."""
    epoch_timeout_ms: DurationMs
    """After an epoch's first checkpoint, how long the main chain waits for the other shards."""
    retention_rounds: Annotated[int, Range(1, 1_000_000)]
    """Rounds whose updates and scores stay in the state; all stay in the blocks."""
    clock_drift_ms: DurationMs
    """How far a proposer's clock may be ahead of a validator's."""
    incentives: Incentives = NO_INCENTIVES
    """What is asked of devices."""
    max_delegates: Annotated[int, Range(1, MAX_DELEGATES)] = MAX_DELEGATES
    """Candidates that are elected for an epoch."""
    min_self_bond: Annotated[int, Range(1, MAX_BONDED)] = 1
    """Units of its own without which nobody is a candidate or is elected."""
    unbonding_blocks: Annotated[int, Range(1, 2**32)] = 100_000
    """Blocks of the main chain for which stake that left a candidate can still be slashed; more
    than an epoch has, since stake answers for a whole term."""
    trust_period_ms: Annotated[int, Range(1, 366 * 24 * 3_600_000)] = 14 * 24 * 3_600_000
    """How long signatures of a committee are believed after the last block known of it; shorter
    than unbonding takes, so that whoever signs a fork within it still loses stake."""
    jail_blocks: Annotated[int, Range(1, 2**32)] = 1_000
    """Blocks of the main chain for which a jailed validator cannot stand for election."""
    downtime_window_blocks: Annotated[int, Range(1, 2**32)] = 1_000
    """Blocks of the main chain over which the certificates that a delegate missed are counted."""
    max_missed_blocks: Annotated[int, Range(0, 2**32)] = 600
    """Of a window; one more is downtime. A leader may leave out signatures that came late, so a
    delegate that is always up can miss what Byzantine leaders propose, up to one third."""
    genesis_commission_thousandths: CommissionThousandths = 100
    """Of the validators in the genesis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenesisAccount:
    """A balance at the start."""

    account: AccountId
    balance: Units


@dataclass(frozen=True, slots=True, kw_only=True)
class GenesisValidator:
    """A candidate with its own stake, and the shard that it serves first."""

    validator: ValidatorId
    stake: VotingPower
    shard: ChainId


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis:
    """Everything that the ledgers take for granted."""

    KIND: ClassVar[str] = "genesis/1"

    name: Annotated[str, Pattern("[a-z0-9][a-z0-9-]{0,31}")]
    time_ms: TimeMs
    parameters: Parameters
    accounts: Annotated[tuple[GenesisAccount, ...], Count(1, MAX_GENESIS_ACCOUNTS)]
    """In order of the keys."""
    validators: Annotated[tuple[GenesisValidator, ...], Count(1, MAX_DELEGATES)]
    """In order of the keys."""
    shards: Annotated[tuple[ChainId, ...], Count(1, MAX_SHARDS)]
    """In order of the names."""
    registrars: Annotated[tuple[AccountId, ...], Count(1, 64)]
    """Whose signature enrols a device, in order of the keys."""
    sponsor: AccountId
    """Opens the task; its balance covers the budget of all rounds of all shards."""
    task: Task

    @property
    def task_budget(self) -> int:
        """Units that the task can pay out over all rounds and shards."""
        return self.task.round_budget * self.task.rounds * len(self.shards)

    def committee(self, chain: ChainId) -> Committee:
        """The first committee of `chain`: a shard's own validators, or all for the main chain.

        Raises:
            OutOfBounds: If no validator serves it.
        """
        return make_committee(
            (entry.validator, entry.stake)
            for entry in self.validators
            if chain in {MAIN_CHAIN, entry.shard}
        )

    def epoch(self) -> Epoch:
        """Epoch 0: nobody was elected, the genesis says who serves where.

        Raises:
            OutOfBounds: If a shard has no validator.
        """
        return Epoch(
            epoch=EpochNumber(0),
            merge=None,
            committee=self.committee(MAIN_CHAIN),
            shards=tuple(
                ShardCommittee(shard=shard, committee=self.committee(shard))
                for shard in self.shards
            ),
            seed=Digest(bytes(32)),
            start_height=Height(0),
            start_ms=self.time_ms,
        )

    def require_consistent(self) -> None:
        """Check what the annotations cannot say.

        Raises:
            OutOfBounds: If a list is out of order, a shard has no validator, a validator an unknown
                shard, the model or a cohort is too large, or the sponsor's balance is below the
                budget.
        """
        require_valid(self)
        if self.task.num_parameters > MAX_PARAMETERS:
            raise OutOfBounds(
                f"the model has {self.task.num_parameters} parameters, the limit is "
                f"{MAX_PARAMETERS}"
            )
        most = self.task.cohort_size * self.task.max_examples
        if most > MAX_TOTAL_EXAMPLES:
            raise OutOfBounds(
                f"cohort_size times max_examples is {most}, one mean takes {MAX_TOTAL_EXAMPLES}"
            )
        for name, keys in (
            ("accounts", [entry.account for entry in self.accounts]),
            ("validators", [entry.validator for entry in self.validators]),
            ("registrars", list(self.registrars)),
        ):
            if keys != sorted(set(keys)):
                raise OutOfBounds(f"genesis {name} are not in order, or one comes twice")
        if list(self.shards) != sorted(set(self.shards)) or MAIN_CHAIN in self.shards:
            raise OutOfBounds("genesis shards are not in order, one comes twice, or is called main")
        for entry in self.validators:
            if entry.shard not in self.shards:
                raise OutOfBounds(f"validator {entry.validator.hex()[:16]} serves no shard")
        for shard in self.shards:
            self.committee(shard)
        balances = {entry.account: entry.balance for entry in self.accounts}
        if self.sponsor not in balances:
            raise OutOfBounds("the sponsor has no account")
        if balances.get(self.sponsor, 0) < self.task_budget:
            raise OutOfBounds(f"the sponsor's balance does not cover {self.task_budget} units")
        supply = sum(balances.values()) + sum(entry.stake for entry in self.validators)
        if supply > MAX_UNSIGNED:
            raise OutOfBounds("the supply exceeds 63 bits")


def genesis_network(genesis: Genesis) -> Network:
    """The digest that everything signed on this network contains."""
    return Network(hash_record(Domain.GENESIS, genesis))


def encode_genesis(genesis: Genesis) -> bytes:
    """The canonical bytes, stored beside every ledger and fetched by devices."""
    return encode_record(genesis)


def decode_genesis(data: bytes) -> Genesis:
    """The genesis that `data` encodes.

    Raises:
        InvalidMessage: If it does not decode or contradicts itself.
    """
    genesis = decode_record(Genesis, data, max_bytes=MAX_GENESIS_BYTES)
    genesis.require_consistent()
    return genesis
