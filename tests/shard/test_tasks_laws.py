"""Laws of the market over random sequences: nothing is made, lost, owed twice or negative."""

import random
from collections.abc import Callable

import pytest

from headwater_protocol.chain.account import Account
from headwater_protocol.chain.incentives import Incentives
from headwater_protocol.chain.market import (
    BlobClass,
    BuyLicence,
    GrantAccess,
    LockDeposit,
    OpenTask,
    RevokeAccess,
    SetPrice,
)
from headwater_protocol.chain.transaction import Body, Transfer
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.encoding.record import require_valid
from headwater_protocol.identifiers import AccountId, ChainId, TaskId, Units
from headwater_protocol.reasons import ReasonCode
from headwater_shard.claiming import due_reward_claim, due_settlements, make_royalty_claim
from headwater_shard.mainchain.market.records import CLAIMS, DEPOSITS, MODELS, POTS
from headwater_shard.mainchain.records import ACCOUNTS, CHECKPOINTS, checkpoint_key
from headwater_shard.mainchain.records import SHARDS as ENTRIES
from headwater_shard.shardchain.records import DEVICES, REWARDS, ROUNDS
from tests.support.ledgers import open_round
from tests.support.market import Market, make_market
from tests.support.network import key, make_task

NUM_TRANSACTIONS = 220
SHARDS = ("shard-0", "shard-1")
PEOPLE = ("alice", "bob", "carol")


def require_laws(market: Market, supply: int) -> None:
    state = market.main.app.state
    assert market.supply == supply
    for table in (ACCOUNTS, POTS, DEPOSITS, MODELS, CLAIMS):
        for _, record in state.items(table):
            require_valid(record)  # Every amount has a lower bound of 0.
            assert not isinstance(record, Account) or record.balance >= 0
    for shard in SHARDS:
        pot = market.pot(shard)
        signed = state.get(CHECKPOINTS, checkpoint_key(ChainId(shard), _number(market, shard)))
        paid = 0 if signed is None else signed.checkpoint.contributions.total
        assert pot.claimed <= paid
        left = pot.paid_before + pot.budget - paid if pot.is_open else 0
        # What a pot holds is what may still be paid and what was paid and not yet claimed.
        assert pot.units == paid - pot.claimed + left


def _number(market: Market, shard: str) -> int:
    entry = market.main.app.state.get(ENTRIES, shard.encode())
    assert entry is not None
    return entry.number


class Player:
    """Draws transactions, most of them sensible, some not."""

    def __init__(self, market: Market, rng: random.Random) -> None:
        self.market = market
        self.rng = rng
        self.people = [key(name) for name in PEOPLE]
        self.devices = [device for row in market.devices.values() for device in row]

    def anyone(self) -> SecretKey:
        return self.rng.choice([*self.people, *self.devices, self.market.cast.sponsor])

    def amount(self) -> Units:
        return Units(self.rng.choice([0, 1, 7, 50, 333, 10_000]))

    def shard(self) -> ChainId:
        return ChainId(self.rng.choice(SHARDS))

    def model(self):  # type: ignore[no-untyped-def]
        known = [model for model, _ in self.market.main.app.state.sorted_items(MODELS)]
        return self.rng.choice([*known, self.market.cast.genesis.task.initial_model])

    def transfer(self) -> tuple[SecretKey, Body | None]:
        return self.anyone(), Transfer(recipient=self.anyone().account, amount=self.amount())

    def lock(self) -> tuple[SecretKey, Body | None]:
        device = self.rng.choice(self.devices)
        sender = self.rng.choice([device, self.anyone()])
        return sender, LockDeposit(device=device.device, shard=self.shard(), amount=self.amount())

    def settle(self) -> tuple[SecretKey, Body | None]:
        shard = self.shard()
        state = self.market.shards[shard].app.state
        due = list(due_settlements(shard, state, self.market.main.app.state))
        return self.anyone(), self.rng.choice(due) if due else None

    def claim(self) -> tuple[SecretKey, Body | None]:
        shard = self.shard()
        state = self.market.shards[shard].app.state
        return self.anyone(), due_reward_claim(shard, state, self.market.main.app.state)

    def price(self) -> tuple[SecretKey, Body | None]:
        sender = self.rng.choice([self.market.cast.sponsor, self.anyone()])
        return sender, SetPrice(model=self.model(), price=self.rng.choice([None, self.amount()]))

    def buy(self) -> tuple[SecretKey, Body | None]:
        model = self.model()
        version = self.market.main.app.state.get(MODELS, model)
        price = None if version is None else version.price
        return self.anyone(), BuyLicence(model=model, price=price or self.amount())

    def royalties(self) -> tuple[SecretKey, Body | None]:
        shard = self.shard()
        state = self.market.shards[shard].app.state
        accounts = [AccountId(account) for account, _ in state.sorted_items(REWARDS)]
        if not accounts:
            return self.anyone(), None
        return self.anyone(), make_royalty_claim(
            shard,
            state,
            self.market.main.app.state,
            model=self.model(),
            account=self.rng.choice(accounts),
        )

    def grant(self) -> tuple[SecretKey, Body | None]:
        kind = self.rng.choice([GrantAccess, RevokeAccess])
        return self.anyone(), kind(
            account=self.anyone().account,
            blob=self.rng.choice([None, self.model()]),
            blob_class=self.rng.choice(list(BlobClass)),
        )

    def open_task(self) -> tuple[SecretKey, Body | None]:
        if all(self.market.is_final(shard) for shard in SHARDS):
            return self.anyone(), None
        name = TaskId(f"task-{self.rng.randrange(3)}")
        return self.anyone(), OpenTask(
            task=make_task(task=name, rounds=1, round_budget=self.amount())
        )

    @property
    def moves(self) -> list[Callable[[], tuple[SecretKey, Body | None]]]:
        return [
            self.transfer,
            self.lock,
            self.settle,
            self.claim,
            self.price,
            self.buy,
            self.royalties,
            self.grant,
            self.open_task,
        ]


@pytest.mark.parametrize("seed", range(3))
def test_random_sequences_keep_every_law(seed):
    rng = random.Random(seed)
    market = make_market(
        shards=SHARDS,
        names=PEOPLE,
        task=make_task(rounds=10, round_budget=997),
        incentives=Incentives(quarantine_strikes=1, quarantine_rounds=1, penalty_thousandths=300),
    )
    supply = market.supply
    player = Player(market, rng)
    executed = {"ok": 0, "refused": 0}
    done: list[bytes] = []
    while sum(executed.values()) < NUM_TRANSACTIONS:
        if rng.random() < 0.1:
            shard = rng.choice(SHARDS)
            if not market.is_final(shard):
                scores = [rng.randrange(-50, 100) for _ in market.devices[ChainId(shard)]]
                _play(market, shard, scores)
                require_laws(market, supply)
        sender, body = rng.choice(player.moves)()
        if body is None:
            continue
        transaction = market.main.sign(sender, body)
        before = market.main.app.state
        (outcome,) = market.main.block(transaction).outcomes
        if outcome.reason is ReasonCode.OK:
            executed["ok"] += 1
            done.append(transaction)
        else:
            executed["refused"] += 1
            assert market.main.app.state.root == before.root
        require_laws(market, supply)
    # Replaying what was executed changes nothing.
    root = market.main.app.state.root
    for start in range(0, len(done), 50):
        outcomes = market.main.block(*done[start : start + 50]).outcomes
        assert {outcome.reason for outcome in outcomes} == {ReasonCode.WRONG_NONCE}
    assert market.main.app.state.root == root
    assert min(executed.values()) > 40
    _require_exact_end(market, supply)


def _play(market: Market, shard: str, scores: list[int]) -> None:
    chain = market.shard(shard)
    try:
        open_round(chain)
    except AssertionError:  # All that were left went by with everybody in quarantine.
        market.settle_all(shard)
        return
    taking = [
        device
        for device in market.devices[ChainId(shard)]
        if (row := chain.app.state.get(DEVICES, device.device))
        and row.quarantined_until < chain.round.number
    ]
    if taking:
        market.play(shard, devices=taking, scores=scores[: len(taking)])
    else:
        chain.block(after_ms=3_000)
        market.settle_all(shard)


def _require_exact_end(market: Market, supply: int) -> None:
    for shard in SHARDS:
        while not market.is_final(shard):
            _play(market, shard, [10] * 3)
        market.claim_all(shard)
        market.settle_deposits(shard)
        rounds = market.shard(shard).app.state.items(ROUNDS)
        earned = sum(market.rewards(shard).values())
        assert earned == sum(round_.paid for _, round_ in rounds)
        assert market.pot(shard).units == 0
        assert market.pot(shard).claimed == earned
    assert not list(market.main.app.state.items(DEPOSITS))
    require_laws(market, supply)
