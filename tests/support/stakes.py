"""A network of candidates whose epochs pass at a call, and the laws of the pools."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, ValidatorId
from headwater_shard.mainchain.records import (
    ACCOUNTS,
    CANDIDATES,
    DELEGATIONS,
    REDELEGATIONS,
    UNBONDINGS,
    Candidate,
)
from headwater_shard.mainchain.supply import compute_supply
from headwater_shard.state.state import State
from tests.support.ledgers import (
    adopt,
    attest_merge,
    collect,
    main_of,
    model_of,
    open_round,
    score,
    settle,
    shard_of,
)
from tests.support.ledgers import attest as attest_round
from tests.support.network import Cast, Chain, key, make_cast, make_task

PARAMETERS = Parameters(
    checkpoint_interval=1,
    checkpoints_per_epoch=1,
    merge_wait_ms=500,
    epoch_timeout_ms=60_000,
    retention_rounds=3,
    clock_drift_ms=1_000,
    max_delegates=8,
    min_self_bond=50,
    unbonding_blocks=20,
    trust_period_ms=3_600_000,
)
RICH = 1_000_000


def stake_cast(
    *,
    shards: Sequence[str] = ("shard-0", "shard-1"),
    names: Sequence[str] = ("alice", "bob", "carol"),
    rounds: int = 12,
    **parameters: object,
) -> Cast:
    """Two shards of four validators with 100 units each, and accounts that hold `RICH`."""
    return make_cast(
        shards=shards,
        task=make_task(rounds=rounds, delegate_thousandths=200),
        parameters=replace(PARAMETERS, **parameters),  # type: ignore[arg-type]
        balances=[(name, RICH) for name in names],
        candidates=names,
    )


def main_chain(cast: Cast | None = None) -> Chain:
    """The main chain of a stake cast."""
    return Chain(cast or stake_cast(), MAIN_CHAIN)


def candidate_of(chain: Chain, validator: SecretKey) -> Candidate:
    """A candidate's record."""
    record = chain.app.state.get(CANDIDATES, validator.validator)
    assert record is not None
    return record


def require_laws(state: State, *, supply: int) -> None:
    """Supply is exact, nothing is negative, and each pool is its delegations, share for share."""
    assert compute_supply(state) == supply
    assert all(account.balance >= 0 for _, account in state.items(ACCOUNTS))
    shares: dict[bytes, int] = {}
    for entry_key, delegation in state.items(DELEGATIONS):
        assert delegation.shares > 0
        shares[entry_key[32:]] = shares.get(entry_key[32:], 0) + delegation.shares
    for validator, candidate in state.items(CANDIDATES):
        assert candidate.bonded >= 0
        assert shares.pop(validator, 0) == candidate.shares
        assert candidate.shares > 0 or candidate.bonded == 0
    assert not shares
    for _, unbonding in state.items(UNBONDINGS):
        assert all(entry.units >= 0 for entry in unbonding.entries)
        heights = [entry.completes_height for entry in unbonding.entries]
        assert heights == sorted(heights)
    for _, redelegation in state.items(REDELEGATIONS):
        assert all(entry.units > 0 for entry in redelegation.entries)


def powers(chain: Chain) -> dict[ValidatorId, int]:
    """The committee that certifies the next block."""
    return {entry.validator: entry.voting_power for entry in chain.app.committee.delegates}


class Network:
    """A main chain and its shards, whose epochs pass at a call."""

    def __init__(self, cast: Cast | None = None, *, num_devices: int = 2) -> None:
        self.cast = cast or stake_cast()
        self.main = Chain(self.cast, MAIN_CHAIN)
        self.shards = {shard: Chain(self.cast, shard) for shard in sorted(self.cast.validators)}
        self.devices = {
            shard: [key(f"{shard}/device/{index}") for index in range(num_devices)]
            for shard in self.shards
        }
        for shard, chain in self.shards.items():
            chain.enrol(*self.devices[shard])

    def train(self, shard: ChainId) -> None:
        """One round of a shard."""
        chain = self.shards[shard]
        open_round(chain)
        collect(chain, self.devices[shard])
        score(chain, [100] * len(self.devices[shard]))
        attest_round(chain, model_of(chain))

    def end_epoch(self, shards: Iterable[ChainId] | None = None) -> None:
        """Train and settle a round on shards, and merge; nobody adopts it yet."""
        for shard in self.shards if shards is None else shards:
            self.train(shard)
            settle(self.main, self.shards[shard])
        if not main_of(self.main).is_merging:
            self.main.block(after_ms=self.cast.genesis.parameters.epoch_timeout_ms)
        attest_merge(self.main, blob_digest(b"merge %d" % main_of(self.main).epoch))

    def adopt(self, shard: ChainId, epoch: int | None = None) -> None:
        """Bring an epoch to a shard."""
        chain = self.shards[shard]
        chain.now_ms = max(chain.now_ms, self.main.now_ms)
        adopt(chain, self.main, epoch, by=self.cast.sponsor)

    def pass_epoch(self) -> None:
        """An epoch in which every shard takes part, and goes on from."""
        self.end_epoch()
        for shard, chain in self.shards.items():
            self.adopt(shard)
            assert shard_of(chain).epoch == main_of(self.main).epoch
