"""Laws of stake over random sequences of transactions, rewards and penalties."""

import random
from collections.abc import Callable

import pytest

from headwater_protocol.chain.stake import (
    Bond,
    DelegateStake,
    RedelegateStake,
    SetCommission,
    StakeBody,
    UndelegateStake,
    WithdrawStake,
)
from headwater_protocol.chain.transaction import Transfer
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import Height, Units
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.records import CANDIDATES
from headwater_shard.mainchain.staking.election import elect_delegates
from headwater_shard.mainchain.staking.pool import burn, credit_delegate, get_worth
from headwater_shard.mainchain.staking.slash import slash_pool
from headwater_shard.mainchain.supply import compute_supply
from headwater_shard.mainchain.transfer import debit
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State
from tests.support.network import Chain, key
from tests.support.stakes import PARAMETERS, main_chain, require_laws, stake_cast

PEOPLE = tuple(key(name) for name in ("alice", "bob", "carol"))
STEPS = 220


def amount(draw: random.Random, most: int) -> Units:
    """Mostly what can be had, at times nothing or too much."""
    return Units(draw.choice([0, 1, most, most + 1, *(draw.randint(1, max(1, most)),) * 6]))


def draw_body(draw: random.Random, chain: Chain, sender: SecretKey) -> StakeBody | Transfer:
    everybody = (*chain.cast.all_validators, *PEOPLE)
    state = chain.app.state
    pools = [entry for entry in everybody if state.get(CANDIDATES, entry.validator) is not None]
    held = [entry for entry in pools if get_worth(state, sender.account, entry.validator)] or pools
    source, destination = draw.choice(held), draw.choice(pools)
    worth = get_worth(state, sender.account, source.validator)
    kind = draw.choice(["bond", "commission", "transfer", *["delegate", "undelegate"] * 3,
                        *["redelegate", "withdraw"] * 2])  # fmt: skip
    if kind == "bond":
        return Bond(amount=amount(draw, 500), commission_thousandths=draw.randint(0, 1_000))
    if kind == "commission":
        return SetCommission(commission_thousandths=draw.randint(0, 1_000))
    if kind == "transfer":
        return Transfer(recipient=draw.choice(everybody).account, amount=amount(draw, 500))
    if kind == "delegate":
        return DelegateStake(validator=destination.validator, amount=amount(draw, 2_000))
    if kind == "undelegate":
        return UndelegateStake(validator=source.validator, amount=amount(draw, worth))
    if kind == "redelegate":
        return RedelegateStake(
            source=source.validator,
            destination=destination.validator,
            amount=amount(draw, worth),
        )
    return WithdrawStake(validator=source.validator)


def disturb(draw: random.Random, chain: Chain) -> None:
    """Pay a delegate out of the sponsor's balance, or punish one."""
    validator = draw.choice(chain.cast.all_validators).validator
    draft = Draft(chain.app.state)
    if draw.random() < 0.5:
        units = draw.randint(0, 50)
        debit(draft, chain.cast.sponsor.account, units)
        credit_delegate(draft, validator, units)
    else:
        since = Height(max(1, chain.app.height - draw.randint(0, 15)))
        burn(draft, slash_pool(draft, validator, draw.choice([1, 10, 50, 300]), since))
    chain.app._state = chain.app.state.updated(draft.changes)


def play(seed: int, check: Callable[[Chain, bytes, ReasonCode], None]) -> Chain:
    """`STEPS` random transactions, each in a block of its own, with rewards and penalties."""
    draw = random.Random(seed)
    chain = main_chain(stake_cast(unbonding_blocks=10))
    for _ in range(STEPS):
        if draw.random() < 0.15:
            disturb(draw, chain)
        sender = draw.choice((*PEOPLE, *PEOPLE, *chain.cast.all_validators[:2]))
        transaction = chain.sign(sender, draw_body(draw, chain, sender))
        (outcome,) = chain.block(transaction).outcomes
        check(chain, transaction, outcome.reason)
    return chain


@pytest.mark.parametrize("seed", range(6))
def test_supply_and_pools_hold_after_every_transaction(seed: int) -> None:
    supply = compute_supply(main_chain().app.state)
    taken: list[ReasonCode] = []

    def check(chain: Chain, _: bytes, reason: ReasonCode) -> None:
        require_laws(chain.app.state, supply=supply)
        taken.append(reason)

    play(seed, check)
    assert taken.count(ReasonCode.OK) > STEPS // 4
    assert len(set(taken)) > 5


def test_voting_power_equals_what_is_bonded() -> None:
    def check(chain: Chain, _: bytes, __: ReasonCode) -> None:
        state = chain.app.state
        for validator, power in elect_delegates(state, PARAMETERS).items():
            candidate = state.get(CANDIDATES, validator)
            assert candidate is not None
            assert power == candidate.bonded >= PARAMETERS.min_self_bond

    play(11, check)


def test_a_replayed_transaction_changes_nothing() -> None:
    def check(chain: Chain, transaction: bytes, reason: ReasonCode) -> None:
        before = chain.app.state_root
        if reason is ReasonCode.OK:
            (outcome,) = chain.block(transaction).outcomes
            assert outcome.reason is ReasonCode.WRONG_NONCE
        else:
            chain.block()
        assert chain.app.state_root == before

    # Downtime counters are the only thing that an empty block may change.
    play(12, check)


def test_the_same_sequence_leads_to_the_same_state_and_to_the_root_of_a_rebuild() -> None:
    first = play(13, lambda *_: None)
    second = play(13, lambda *_: None)
    assert first.app.state_root == second.app.state_root
    state = first.app.state
    rebuilt = State(tuple(state._tables.values())).updated(
        {table.namespace: dict(state.items(table)) for table in state._tables.values()}
    )
    assert rebuilt.root == state.root
