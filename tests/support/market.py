"""What tests of the market do: a network of one shard or more, rounds, settlement, claims."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.chain.incentives import Incentives
from headwater_protocol.chain.market import ClaimRewards
from headwater_protocol.chain.round import RoundPhase
from headwater_protocol.chain.task import Task
from headwater_protocol.chain.transaction import PostCheckpoint
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Digest, Units
from headwater_shard.claiming import due_reward_claim, due_settlements
from headwater_shard.mainchain.market.records import DEPOSITS, POTS, ShardPot
from headwater_shard.mainchain.records import SHARDS
from headwater_shard.mainchain.supply import compute_supply
from headwater_shard.mainchain.transfer import get_balance
from headwater_shard.shardchain.records import CHECKPOINTS, REWARDS, checkpoint_key
from headwater_shard.state.draft import Draft
from tests.support.ledgers import (
    attest,
    attest_merge,
    collect,
    delegates,
    emit_checkpoint,
    execute,
    main_of,
    model_of,
    open_round,
    score,
    shard_of,
    sign_body,
)
from tests.support.network import Cast, Chain, key, make_cast, make_task

INCENTIVES = Incentives(
    device_deposit=Units(100),
    quarantine_strikes=2,
    quarantine_rounds=2,
    penalty_thousandths=250,
)


def make_parameters(**changes: object) -> Parameters:
    parameters = Parameters(
        checkpoint_interval=1,
        checkpoints_per_epoch=1,
        merge_wait_ms=500,
        epoch_timeout_ms=60_000,
        retention_rounds=3,
        clock_drift_ms=1_000,
    )
    return replace(parameters, **changes)  # type: ignore[arg-type]


@dataclass
class Market:
    """The main chain with its shards, and devices enrolled in each."""

    cast: Cast
    main: Chain
    shards: dict[ChainId, Chain]
    devices: dict[ChainId, list[SecretKey]]

    @property
    def supply(self) -> int:
        return compute_supply(self.main.app.state)

    def balance(self, who: SecretKey) -> int:
        return get_balance(Draft(self.main.app.state), who.account)

    def deposit(self, who: SecretKey) -> int:
        entry = self.main.app.state.get(DEPOSITS, who.device)
        return 0 if entry is None else entry.units

    def pot(self, shard: str = "shard-0") -> ShardPot:
        pot = self.main.app.state.get(POTS, shard.encode())
        assert pot is not None
        return pot

    def shard(self, name: str = "shard-0") -> Chain:
        return self.shards[ChainId(name)]

    def play(
        self,
        shard: str = "shard-0",
        *,
        scores: Sequence[int] | None = None,
        devices: Sequence[SecretKey] | None = None,
        merged: Digest | None = None,
    ) -> Digest:
        """A round of a shard, settled; its model, or `merged`, completes a merge that opens."""
        chain = self.shard(shard)
        taking = sorted(
            self.devices[ChainId(shard)] if devices is None else devices,
            key=lambda entry: entry.device,
        )
        open_round(chain)
        model = model_of(chain)
        collect(chain, taking)
        if chain.round.phase is RoundPhase.COLLECT:
            chain.block(after_ms=self.cast.genesis.task.collect_ms)
        score(chain, scores or [100] * len(taking))
        if chain.round.phase is RoundPhase.ATTEST:
            attest(chain, model)
        self.settle_all(shard)
        if main_of(self.main).is_merging:
            attest_merge(self.main, merged or model)
        return model

    def settle_all(self, shard: str = "shard-0") -> None:
        """Settle every checkpoint of a shard that the main chain lacks, in order."""
        chain = self.shard(shard)
        emit_checkpoint(chain)
        entry = self.main.app.state.get(SHARDS, shard.encode())
        assert entry is not None
        for number in range(entry.number + 1, shard_of(chain).checkpoints + 1):
            signed = chain.app.state.get(CHECKPOINTS, checkpoint_key(number))
            assert signed is not None
            bodies = [(signer, sign_body(chain, signer, signed)) for signer in delegates(chain)]
            execute(chain, *(chain.sign(signer, body) for signer, body in bodies))
            complete = chain.app.state.get(CHECKPOINTS, checkpoint_key(number))
            assert complete is not None
            execute(self.main, self.main.sign(self.cast.sponsor, PostCheckpoint(signed=complete)))

    def claim_body(self, shard: str = "shard-0") -> ClaimRewards | None:
        return due_reward_claim(ChainId(shard), self.shard(shard).app.state, self.main.app.state)

    def claim_all(self, shard: str = "shard-0") -> None:
        while (body := self.claim_body(shard)) is not None:
            execute(self.main, self.main.sign(self.cast.sponsor, body))

    def settle_deposits(self, shard: str = "shard-0") -> int:
        chain = self.shard(shard)
        bodies = list(due_settlements(ChainId(shard), chain.app.state, self.main.app.state))
        for body in bodies:
            execute(self.main, self.main.sign(self.cast.sponsor, body))
        return len(bodies)

    def rewards(self, shard: str = "shard-0") -> dict[bytes, int]:
        return {entry: row.total for entry, row in self.shard(shard).app.state.items(REWARDS)}

    def is_final(self, shard: str = "shard-0") -> bool:
        entry = self.main.app.state.get(SHARDS, shard.encode())
        assert entry is not None
        return entry.is_final


def make_market(
    *,
    shards: Sequence[str] = ("shard-0",),
    num_devices: int = 3,
    task: Task | None = None,
    incentives: Incentives | None = None,
    names: Sequence[str] = ("alice", "bob"),
    enrols: bool = True,
    **parameters: object,
) -> Market:
    """A network whose devices and named accounts hold 1,000 units each."""
    devices = {
        ChainId(shard): [key(f"{shard}/device-{index}") for index in range(num_devices)]
        for shard in shards
    }
    labels = [f"{shard}/device-{index}" for shard in shards for index in range(num_devices)]
    cast = make_cast(
        shards=shards,
        task=task or make_task(rounds=4),
        parameters=make_parameters(incentives=incentives or Incentives(), **parameters),
        balances=[(name, 1_000) for name in (*names, *labels)],
    )
    market = Market(
        cast=cast,
        main=Chain(cast, MAIN_CHAIN),
        shards={ChainId(shard): Chain(cast, ChainId(shard)) for shard in shards},
        devices=devices,
    )
    if enrols:
        for shard, chain in market.shards.items():
            chain.enrol(*devices[shard])
    return market
