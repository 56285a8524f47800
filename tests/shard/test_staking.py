"""Bonding, delegating, unbonding, redelegating and slashing, as single transactions."""

from collections.abc import Callable

import pytest

from headwater_protocol.chain.stake import (
    MAX_BONDED,
    Bond,
    DelegateStake,
    RedelegateStake,
    SetCommission,
    StakeBody,
    UndelegateStake,
    WithdrawStake,
)
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Height, Network, Units
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.records import (
    CANDIDATES,
    MAX_ENTRIES,
    REDELEGATIONS,
    UNBONDINGS,
    Candidate,
    stake_key,
)
from headwater_shard.mainchain.staking.pool import (
    burn,
    compute_worth,
    credit_delegate,
    get_worth,
)
from headwater_shard.mainchain.staking.slash import get_own_stake, slash_pool
from headwater_shard.mainchain.supply import compute_supply
from headwater_shard.mainchain.transfer import get_balance
from headwater_shard.state.draft import Draft
from tests.support.ledgers import execute, refusal
from tests.support.network import Chain, key
from tests.support.stakes import RICH, candidate_of, main_chain, require_laws, stake_cast

ALICE, BOB, CAROL = key("alice"), key("bob"), key("carol")
V0, V1, V2 = (key(f"shard-0/{index}") for index in range(3))
UNBONDING = 20


def delegate(amount: int, validator: SecretKey = V0) -> DelegateStake:
    return DelegateStake(validator=validator.validator, amount=Units(amount))


def undelegate(amount: int, validator: SecretKey = V0) -> UndelegateStake:
    return UndelegateStake(validator=validator.validator, amount=Units(amount))


def redelegate(amount: int, source: SecretKey = V0, destination: SecretKey = V1) -> RedelegateStake:
    return RedelegateStake(
        source=source.validator,
        destination=destination.validator,
        amount=Units(amount),
    )


def bond(amount: int = 500, commission: int = 50) -> Bond:
    return Bond(amount=Units(amount), commission_thousandths=commission)


def withdraw(validator: SecretKey = V0) -> WithdrawStake:
    return WithdrawStake(validator=validator.validator)


def run(chain: Chain, sender: SecretKey, *bodies: StakeBody) -> None:
    for body in bodies:
        execute(chain, chain.sign(sender, body))


def amend(chain: Chain, change: Callable[[Draft], object]) -> None:
    """Change the state as another transition would."""
    draft = Draft(chain.app.state)
    change(draft)
    chain.app._state = chain.app.state.updated(draft.changes)


def slash(chain: Chain, validator: SecretKey, thousandths: int, height: int) -> int:
    taken = 0

    def change(draft: Draft) -> None:
        nonlocal taken
        taken = slash_pool(draft, validator.validator, thousandths, Height(height))
        burn(draft, taken)

    amend(chain, change)
    return taken


def worth(chain: Chain, account: SecretKey, validator: SecretKey = V0) -> int:
    return get_worth(chain.app.state, account.account, validator.validator)


def balance(chain: Chain, account: SecretKey) -> int:
    return get_balance(Draft(chain.app.state), account.account)


def test_genesis_validators_are_candidates_that_delegate_to_themselves() -> None:
    chain = main_chain()
    for validator in chain.cast.all_validators:
        candidate = candidate_of(chain, validator)
        assert (candidate.bonded, candidate.shares) == (100, 100)
        assert worth(chain, validator, validator) == 100
        assert chain.app.committee.power_of(validator.validator) == candidate.bonded


def test_a_bond_makes_a_candidate() -> None:
    chain = main_chain()
    run(chain, ALICE, bond(500, 50))
    candidate = candidate_of(chain, ALICE)
    assert (candidate.bonded, candidate.commission_thousandths) == (500, 50)
    assert balance(chain, ALICE) == RICH - 500
    assert worth(chain, ALICE, ALICE) == 500


def test_a_bond_at_the_limit_is_enough_and_one_below_is_not() -> None:
    chain = main_chain()
    assert refusal(chain, chain.sign(ALICE, bond(49))) is ReasonCode.LOW_BOND
    run(chain, ALICE, bond(50))


def test_a_candidate_whose_stake_has_left_bonds_again() -> None:
    chain = main_chain()
    run(chain, ALICE, bond(500), undelegate(500, ALICE))
    assert candidate_of(chain, ALICE).shares == 0
    run(chain, ALICE, bond(70, 9))
    assert (candidate_of(chain, ALICE).bonded, worth(chain, ALICE, ALICE)) == (70, 70)


def test_delegating_and_taking_back_moves_the_same_units() -> None:
    chain = main_chain()
    run(chain, ALICE, delegate(300), undelegate(100))
    assert candidate_of(chain, V0).bonded == 300
    assert worth(chain, ALICE) == 200
    entry = chain.app.state.get(UNBONDINGS, stake_key(ALICE.account, V0.validator))
    assert entry is not None
    assert [row.units for row in entry.entries] == [100]
    assert balance(chain, ALICE) == RICH - 300


def test_what_was_taken_back_is_paid_out_after_the_period_and_not_before() -> None:
    chain = main_chain()
    run(chain, ALICE, delegate(300), undelegate(100))
    created = chain.app.height
    while chain.app.height + 1 < created + UNBONDING:
        assert refusal(chain, chain.sign(ALICE, withdraw())) is ReasonCode.NOTHING_MATURED
        chain.block()
    run(chain, ALICE, withdraw())
    assert balance(chain, ALICE) == RICH - 200
    assert refusal(chain, chain.sign(ALICE, withdraw())) is ReasonCode.NOTHING_MATURED


def test_a_withdrawal_leaves_what_still_waits() -> None:
    chain = main_chain()
    run(chain, ALICE, delegate(300), undelegate(100))
    chain.block()
    run(chain, ALICE, undelegate(50))
    for _ in range(UNBONDING - 3):
        chain.block()
    run(chain, ALICE, withdraw())
    assert balance(chain, ALICE) == RICH - 200
    entry = chain.app.state.get(UNBONDINGS, stake_key(ALICE.account, V0.validator))
    assert entry is not None
    assert [row.units for row in entry.entries] == [50]


def test_rewards_reach_all_delegators_in_proportion_and_the_commission_its_candidate() -> None:
    chain = main_chain()
    run(chain, V0, SetCommission(commission_thousandths=250))
    run(chain, ALICE, delegate(300))
    supply = compute_supply(chain.app.state)
    amend(chain, lambda draft: credit_delegate(draft, V0.validator, 800))
    assert compute_supply(chain.app.state) == supply + 800
    assert balance(chain, V0) == 200
    assert (worth(chain, V0), worth(chain, ALICE)) == (250, 750)


def test_a_reward_without_a_pool_goes_to_the_account() -> None:
    chain = main_chain()
    amend(chain, lambda draft: credit_delegate(draft, CAROL.validator, 7))
    assert balance(chain, CAROL) == RICH + 7


def test_a_reward_never_takes_a_pool_past_its_limit() -> None:
    chain = main_chain()
    full = Candidate(
        commission_thousandths=0,
        bonded=MAX_BONDED - 3,
        shares=100,
        jailed_until=Height(0),
        is_tombstoned=False,
    )
    amend(chain, lambda draft: draft.put(CANDIDATES, V0.validator, full))
    amend(chain, lambda draft: credit_delegate(draft, V0.validator, 10))
    assert candidate_of(chain, V0).bonded == MAX_BONDED
    assert balance(chain, V0) == 7


def test_new_stake_does_not_share_in_earlier_rewards() -> None:
    chain = main_chain()
    amend(chain, lambda draft: credit_delegate(draft, V0.validator, 1_000))
    before = worth(chain, V0)
    run(chain, ALICE, delegate(3_000))
    assert worth(chain, V0) in range(before, before + 12)
    assert worth(chain, ALICE) in range(3_000 - 12, 3_001)


def test_a_slash_hits_all_delegators_in_proportion() -> None:
    chain = main_chain()
    run(chain, ALICE, delegate(300))
    supply = compute_supply(chain.app.state)
    assert slash(chain, V0, 100, 1) == 40
    assert compute_supply(chain.app.state) == supply
    assert (worth(chain, V0), worth(chain, ALICE)) == (90, 270)


@pytest.mark.parametrize(("thousandths", "taken"), [(0, 0), (1_000, 400)])
def test_a_slash_takes_nothing_at_the_least_and_everything_at_the_most(
    thousandths: int, taken: int
) -> None:
    chain = main_chain()
    run(chain, ALICE, delegate(300))
    assert slash(chain, V0, thousandths, 1) == taken


@pytest.mark.parametrize("thousandths", [-1, 1_001])
def test_a_share_that_is_none_is_not_slashed(thousandths: int) -> None:
    chain = main_chain()
    with pytest.raises(ValueError, match="thousandths"):
        slash(chain, V0, thousandths, 1)


def test_own_stake_is_what_is_bonded_has_moved_and_leaves_and_nobody_elses() -> None:
    chain = main_chain()
    run(chain, ALICE, delegate(300))
    draft = Draft(chain.app.state)
    assert get_own_stake(draft, ALICE.validator) == 0
    assert get_own_stake(draft, V0.validator) == 100
    run(chain, V0, undelegate(30), redelegate(20))
    assert worth(chain, V0) == 50
    assert get_own_stake(Draft(chain.app.state), V0.validator) == 100


def test_a_slash_reaches_what_left_since_the_fault_and_not_what_left_before() -> None:
    chain = main_chain()
    run(chain, ALICE, delegate(1_000))
    run(chain, ALICE, undelegate(200))
    chain.block()
    fault = chain.app.height
    chain.block()
    run(chain, ALICE, undelegate(300))
    taken = slash(chain, V0, 500, fault)
    entry = chain.app.state.get(UNBONDINGS, stake_key(ALICE.account, V0.validator))
    assert entry is not None
    assert [row.units for row in entry.entries] == [200, 150]
    assert taken == 150 + 300
    assert worth(chain, ALICE) == 250


@pytest.mark.parametrize(("left", "waiting"), [(0, 0), (400, 0), (800, 0), (1_000, 0)])
def test_a_slash_follows_stake_that_moved_to_another_candidate(left: int, waiting: int) -> None:
    chain = main_chain()
    run(chain, ALICE, delegate(1_000))
    fault = chain.app.height
    run(chain, ALICE, redelegate(1_000))
    if left:
        run(chain, ALICE, undelegate(left, V1))
    supply = compute_supply(chain.app.state)
    assert slash(chain, V0, 500, fault) == 50 + 500
    assert compute_supply(chain.app.state) == supply
    entry = chain.app.state.get(UNBONDINGS, stake_key(ALICE.account, V1.validator))
    held = worth(chain, ALICE, V1) + (0 if entry is None else entry.entries[0].units)
    assert held == 500
    assert candidate_of(chain, V1).bonded == 100 + worth(chain, ALICE, V1)


def test_a_slash_leaves_stake_that_moved_before_the_fault() -> None:
    chain = main_chain()
    run(chain, ALICE, delegate(1_000), redelegate(1_000))
    chain.block()
    assert slash(chain, V0, 500, chain.app.height) == 50
    assert worth(chain, ALICE, V1) == 1_000


def test_a_pool_of_nothing_takes_no_stake() -> None:
    chain = main_chain()
    assert slash(chain, V0, 1_000, 1) == 100
    assert refusal(chain, chain.sign(ALICE, delegate(10))) is ReasonCode.OUT_OF_BOUNDS
    assert candidate_of(chain, V0).bonded == 0


def test_a_small_amount_is_refused_where_a_share_costs_more() -> None:
    chain = main_chain()
    amend(chain, lambda draft: credit_delegate(draft, V0.validator, 10_000))
    assert refusal(chain, chain.sign(ALICE, delegate(50))) is ReasonCode.OUT_OF_BOUNDS
    run(chain, ALICE, delegate(20_000))


def test_a_withdrawal_that_would_leave_part_of_a_share_is_refused() -> None:
    chain = main_chain()
    amend(chain, lambda draft: credit_delegate(draft, V0.validator, 10_000))
    run(chain, ALICE, delegate(20_000))
    whole = worth(chain, ALICE)
    body = undelegate(whole - 1)
    assert refusal(chain, chain.sign(ALICE, body)) is ReasonCode.INSUFFICIENT_STAKE
    run(chain, ALICE, undelegate(whole))
    assert worth(chain, ALICE) == 0


def test_redelegated_stake_has_to_mature_before_it_moves_on() -> None:
    chain = main_chain()
    run(chain, ALICE, delegate(1_000), redelegate(400))
    hop = redelegate(400, V1, V2)
    created = chain.app.height
    while chain.app.height + 1 < created + UNBONDING:
        assert refusal(chain, chain.sign(ALICE, hop)) is ReasonCode.STILL_MATURING
        chain.block()
    run(chain, ALICE, hop)
    entry = chain.app.state.get(REDELEGATIONS, stake_key(ALICE.account, V2.validator))
    assert entry is not None
    assert [row.source for row in entry.entries] == [V1.validator]


@pytest.mark.parametrize("kind", ["unbonding", "redelegation"])
def test_entries_that_mature_are_limited(kind: str) -> None:
    chain = main_chain(stake_cast(unbonding_blocks=1_000))
    run(chain, ALICE, delegate(1_000))
    body = undelegate(1) if kind == "unbonding" else redelegate(1)
    for _ in range(MAX_ENTRIES):
        run(chain, ALICE, body)
    assert refusal(chain, chain.sign(ALICE, body)) is ReasonCode.BUSY


INVALID: list[tuple[str, SecretKey, StakeBody, ReasonCode]] = [
    ("bond of nothing", ALICE, bond(0), ReasonCode.LOW_BOND),
    ("bond under the least", ALICE, bond(49), ReasonCode.LOW_BOND),
    ("bond overdraft", ALICE, bond(RICH + 1), ReasonCode.INSUFFICIENT_FUNDS),
    ("bond without account", key("nobody"), bond(), ReasonCode.UNKNOWN_ACCOUNT),
    ("bond twice", V0, bond(), ReasonCode.DUPLICATE),
    ("bond after exclusion", V2, bond(), ReasonCode.TOMBSTONED),
    (
        "commission of no candidate",
        ALICE,
        SetCommission(commission_thousandths=1),
        ReasonCode.UNKNOWN_CANDIDATE,
    ),
    ("same commission", V0, SetCommission(commission_thousandths=100), ReasonCode.DUPLICATE),
    (
        "commission after exclusion",
        V2,
        SetCommission(commission_thousandths=1),
        ReasonCode.TOMBSTONED,
    ),
    ("delegate nothing", ALICE, delegate(0), ReasonCode.OUT_OF_BOUNDS),
    ("delegate overdraft", ALICE, delegate(RICH + 1), ReasonCode.INSUFFICIENT_FUNDS),
    ("delegate without account", key("nobody"), delegate(1), ReasonCode.UNKNOWN_ACCOUNT),
    ("delegate to nobody", ALICE, delegate(1, BOB), ReasonCode.UNKNOWN_CANDIDATE),
    ("delegate to the excluded", ALICE, delegate(1, V2), ReasonCode.TOMBSTONED),
    ("undelegate nothing", BOB, undelegate(0), ReasonCode.OUT_OF_BOUNDS),
    ("undelegate from nobody", BOB, undelegate(1, ALICE), ReasonCode.UNKNOWN_CANDIDATE),
    ("undelegate without stake", ALICE, undelegate(1), ReasonCode.UNKNOWN_DELEGATION),
    ("undelegate too much", BOB, undelegate(101), ReasonCode.INSUFFICIENT_STAKE),
    ("redelegate nothing", BOB, redelegate(0), ReasonCode.OUT_OF_BOUNDS),
    ("redelegate in a loop", BOB, redelegate(1, V0, V0), ReasonCode.SAME_CANDIDATE),
    ("redelegate from nobody", BOB, redelegate(1, ALICE, V1), ReasonCode.UNKNOWN_CANDIDATE),
    ("redelegate to nobody", BOB, redelegate(1, V0, ALICE), ReasonCode.UNKNOWN_CANDIDATE),
    ("redelegate to the excluded", BOB, redelegate(1, V0, V2), ReasonCode.TOMBSTONED),
    ("redelegate without stake", ALICE, redelegate(1), ReasonCode.UNKNOWN_DELEGATION),
    ("redelegate too much", BOB, redelegate(101), ReasonCode.INSUFFICIENT_STAKE),
    ("withdraw nothing", ALICE, withdraw(), ReasonCode.NOTHING_MATURED),
    ("withdraw before the period", BOB, withdraw(), ReasonCode.NOTHING_MATURED),
]


def prepared() -> Chain:
    """Bob has 100 units with V0 and 20 on their way back; V2 is excluded for good."""
    chain = main_chain()
    run(chain, BOB, delegate(120), undelegate(20))

    def exclude(draft: Draft) -> None:
        record = draft.get_existing(CANDIDATES, V2.validator)
        draft.put(
            CANDIDATES,
            V2.validator,
            Candidate(
                commission_thousandths=record.commission_thousandths,
                bonded=record.bonded,
                shares=record.shares,
                jailed_until=Height(1),
                is_tombstoned=True,
            ),
        )

    amend(chain, exclude)
    return chain


@pytest.mark.parametrize(
    ("sender", "body", "reason"),
    [row[1:] for row in INVALID],
    ids=[row[0].replace(" ", "-") for row in INVALID],
)
def test_what_breaks_a_rule_is_refused_with_its_reason_and_changes_nothing(
    sender: SecretKey, body: StakeBody, reason: ReasonCode
) -> None:
    chain = prepared()
    assert refusal(chain, chain.sign(sender, body)) is reason


VALID: list[tuple[SecretKey, StakeBody]] = [
    (ALICE, bond()),
    (V0, SetCommission(commission_thousandths=7)),
    (ALICE, delegate(10)),
    (BOB, undelegate(10)),
    (BOB, redelegate(10)),
    (BOB, withdraw()),
]


@pytest.mark.parametrize(("sender", "body"), VALID, ids=[type(row[1]).__name__ for row in VALID])
def test_every_kind_is_refused_from_elsewhere_unsigned_replayed_or_out_of_range(
    sender: SecretKey, body: StakeBody
) -> None:
    chain = prepared()
    for _ in range(UNBONDING):
        chain.block()
    valid = chain.sign(sender, body)
    for changes, reason in (
        ({"network": Network(bytes(32))}, ReasonCode.WRONG_NETWORK),
        ({"chain": ChainId("shard-0")}, ReasonCode.WRONG_CHAIN),
    ):
        spoilt = chain.sign(sender, body, **changes)
        assert chain.app.check_tx(spoilt) is reason
    forged = bytearray(valid)
    forged[-1] ^= 1
    assert chain.app.check_tx(bytes(forged)) is ReasonCode.BAD_SIGNATURE
    execute(chain, valid)
    root = chain.app.state_root
    assert refusal(chain, valid) is ReasonCode.WRONG_NONCE
    assert chain.app.state_root == root
    shard = Chain(chain.cast, ChainId("shard-0"))
    assert refusal(shard, shard.sign(sender, body)) is ReasonCode.WRONG_CHAIN


@pytest.mark.parametrize("amount", [-1, 2**63])
def test_amounts_out_of_range_do_not_decode(amount: int) -> None:
    chain = main_chain()
    assert chain.app.check_tx(chain.sign(ALICE, delegate(amount))) is ReasonCode.OUT_OF_BOUNDS
    assert chain.app.check_tx(chain.sign(ALICE, bond(commission=1_001))) is (
        ReasonCode.OUT_OF_BOUNDS
    )


def test_the_last_delegator_takes_the_rest_of_the_pool() -> None:
    chain = main_chain()
    run(chain, ALICE, delegate(333))
    amend(chain, lambda draft: credit_delegate(draft, V0.validator, 101))
    slash(chain, V0, 7, 1)
    run(chain, ALICE, undelegate(worth(chain, ALICE)))
    run(chain, V0, undelegate(worth(chain, V0)))
    candidate = candidate_of(chain, V0)
    assert (candidate.bonded, candidate.shares) == (0, 0)
    assert compute_worth(candidate, 0) == 0


def test_the_main_chain_alone_has_stake() -> None:
    assert main_chain().chain == MAIN_CHAIN
    require_laws(main_chain().app.state, supply=compute_supply(main_chain().app.state))
