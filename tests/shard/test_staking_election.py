"""Elections: who is in, who serves where, and that a shard keeps a quorum."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.chain.committee import Committee, make_committee
from headwater_protocol.chain.stake import Bond, DelegateStake, UndelegateStake
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import ChainId, Height, Units, ValidatorId
from headwater_shard.mainchain.records import CANDIDATES
from headwater_shard.mainchain.staking.election import elect_delegates
from headwater_shard.mainchain.staking.shuffle import Draw, deal_committees
from headwater_shard.state.draft import Draft
from tests.support.ledgers import epoch_of, execute
from tests.support.network import Chain, key
from tests.support.stakes import (
    PARAMETERS,
    Network,
    candidate_of,
    main_chain,
    powers,
)

ALICE = key("alice")
V0 = key("shard-0/0")


def names(count: int) -> list[ValidatorId]:
    return [ValidatorId(blob_digest(b"%d" % index)) for index in range(count)]


def deal(
    num_shards: int, per_shard: int, power: int = 100
) -> tuple[dict[ChainId, Committee], dict[ValidatorId, int]]:
    keys = names(num_shards * per_shard)
    elected = dict.fromkeys(keys, power)
    committees = {
        ChainId(f"shard-{index}"): make_committee(
            (entry, power) for entry in keys[index * per_shard : (index + 1) * per_shard]
        )
        for index in range(num_shards)
    }
    return committees, elected


def members(committee: Committee) -> set[ValidatorId]:
    return {entry.validator for entry in committee.delegates}


def jail(chain: Chain, validator: ValidatorId, *, forever: bool) -> None:
    draft = Draft(chain.app.state)
    record = draft.get_existing(CANDIDATES, validator)
    draft.put(
        CANDIDATES,
        validator,
        replace(record, jailed_until=Height(0 if forever else 9), is_tombstoned=forever),
    )
    chain.app._state = chain.app.state.updated(draft.changes)


def test_the_candidates_with_the_most_stake_are_elected() -> None:
    chain = main_chain()
    execute(chain, chain.sign(ALICE, Bond(amount=Units(101), commission_thousandths=0)))
    elected = elect_delegates(chain.app.state, PARAMETERS)
    assert len(elected) == PARAMETERS.max_delegates == 8
    assert next(iter(elected.items())) == (ALICE.validator, 101)
    others = sorted(entry.validator for entry in chain.cast.all_validators)
    assert list(elected)[1:] == others[:7]


def test_delegated_stake_elects() -> None:
    chain = main_chain()
    last = max(chain.cast.all_validators, key=lambda entry: entry.validator)
    execute(chain, chain.sign(ALICE, Bond(amount=Units(99), commission_thousandths=0)))
    assert ALICE.validator not in elect_delegates(chain.app.state, PARAMETERS)
    body = DelegateStake(validator=ALICE.validator, amount=Units(2))
    execute(chain, chain.sign(key("bob"), body))
    elected = elect_delegates(chain.app.state, PARAMETERS)
    assert elected[ALICE.validator] == 101
    assert last.validator not in elected


@pytest.mark.parametrize("forever", [True, False])
def test_nobody_in_jail_or_excluded_is_elected(forever: bool) -> None:
    chain = main_chain()
    jail(chain, V0.validator, forever=forever)
    assert V0.validator not in elect_delegates(chain.app.state, PARAMETERS)


def test_nobody_is_elected_whose_own_bond_is_too_small() -> None:
    chain = main_chain()
    own = UndelegateStake(validator=V0.validator, amount=Units(50))
    execute(chain, chain.sign(V0, own))
    assert V0.validator in elect_delegates(chain.app.state, PARAMETERS)
    one = UndelegateStake(validator=V0.validator, amount=Units(1))
    execute(chain, chain.sign(V0, one))
    lent = DelegateStake(validator=V0.validator, amount=Units(5_000))
    execute(chain, chain.sign(ALICE, lent))
    assert V0.validator not in elect_delegates(chain.app.state, PARAMETERS)


def test_the_draw_is_the_same_for_a_seed_and_even_over_seeds() -> None:
    first = [Draw(blob_digest(b"a")).below(10) for _ in range(3)]
    assert first == [first[0]] * 3
    counts = [0] * 5
    for index in range(2_000):
        counts[Draw(blob_digest(b"%d" % index)).below(5)] += 1
    assert all(330 < count < 470 for count in counts)
    row = names(7)
    assert sorted(Draw(blob_digest(b"b")).shuffle(row)) == sorted(row)


def test_every_order_is_drawn_as_often_as_another() -> None:
    row = names(3)
    orders: dict[tuple[bytes, ...], int] = {}
    for index in range(1_200):
        order = tuple(Draw(blob_digest(b"%d" % index)).shuffle(row))
        orders[order] = orders.get(order, 0) + 1
    assert len(orders) == 6
    assert all(140 < count < 260 for count in orders.values())


@settings(max_examples=80, deadline=None)
@given(
    num_shards=st.integers(1, 5),
    per_shard=st.integers(1, 10),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_a_shuffle_keeps_a_quorum_of_every_committee(
    num_shards: int, per_shard: int, epochs: int, seed: int
) -> None:
    draw = random.Random(seed)
    committees, elected = deal(num_shards, per_shard)
    for epoch in range(epochs):
        elected = {validator: draw.randint(1, 1_000) for validator in elected}
        before = committees
        committees = deal_committees(before, elected, blob_digest(b"%d %d" % (seed, epoch)))
        assert committees == deal_committees(before, elected, blob_digest(b"%d %d" % (seed, epoch)))
        assert set.union(*(members(entry) for entry in committees.values())) == set(elected)
        assert sum(len(entry.delegates) for entry in committees.values()) == len(elected)
        for shard, committee in before.items():
            stayed = members(committee) & members(committees[shard])
            assert len(committee.delegates) - len(stayed) <= (len(committee.delegates) - 1) // 3
            assert committee.is_quorum(committee.power_of_all(stayed))
        sizes = [len(entry.delegates) for entry in committees.values()]
        assert max(sizes) - min(sizes) <= 1


def test_shards_of_four_exchange_delegates_in_every_epoch() -> None:
    committees, elected = deal(2, 4)
    for epoch in range(20):
        dealt = deal_committees(committees, elected, blob_digest(b"%d" % epoch))
        for shard, committee in committees.items():
            assert len(members(committee) & members(dealt[shard])) == 3
        committees = dealt


@pytest.mark.parametrize(("power", "moves"), [(100, True), (101, False)])
def test_a_shard_gives_up_a_third_of_its_power_and_no_more(power: int, *, moves: bool) -> None:
    row = names(8)
    # With 100 it has just as much as three of 67 can be without and still be a quorum.
    powers_ = [power, 67, 67, 67, 100, 100, 100, 100]
    elected = dict(zip(row, powers_, strict=True))
    first, second = ChainId("shard-0"), ChainId("shard-1")
    committees = {
        first: make_committee((entry, elected[entry]) for entry in row[:4]),
        second: make_committee((entry, elected[entry]) for entry in row[4:]),
    }
    left = [
        row[0]
        not in members(deal_committees(committees, elected, blob_digest(b"%d" % seed))[first])
        for seed in range(60)
    ]
    assert any(left) is moves


def test_delegates_that_were_voted_out_use_up_the_moves_of_their_shard() -> None:
    committees, elected = deal(2, 4)
    lost = committees[ChainId("shard-0")].delegates[0].validator
    newcomer = ValidatorId(blob_digest(b"new"))
    elected = {**{entry: 100 for entry in elected if entry != lost}, newcomer: 100}
    dealt = deal_committees(committees, elected, blob_digest(b"seed"))
    kept = members(committees[ChainId("shard-0")]) & members(dealt[ChainId("shard-0")])
    assert len(kept) == 3


def test_a_shard_that_lost_its_whole_committee_gets_another() -> None:
    committees, elected = deal(3, 2)
    gone = members(committees[ChainId("shard-1")])
    left = {entry: 100 for entry in elected if entry not in gone}
    dealt = deal_committees(committees, left, blob_digest(b"seed"))
    assert all(committee.delegates for committee in dealt.values())
    assert sum(len(committee.delegates) for committee in dealt.values()) == 4


@settings(max_examples=60, deadline=None)
@given(
    powers_=st.lists(st.integers(1, 2**53), min_size=1, max_size=9),
    seed=st.integers(0, 2**32),
)
def test_two_quorums_meet_in_more_than_a_third(powers_: list[int], seed: int) -> None:
    draw = random.Random(seed)
    committee = make_committee(zip(names(len(powers_)), powers_, strict=True))
    quorums: list[set[ValidatorId]] = []
    while len(quorums) < 2:
        order = [entry.validator for entry in committee.delegates]
        draw.shuffle(order)
        row: set[ValidatorId] = set()
        while not committee.is_quorum(committee.power_of_all(row)):
            row.add(order.pop())
        quorums.append(row)
    shared = committee.power_of_all(quorums[0] & quorums[1])
    assert shared * 3 > committee.total_power


def test_an_epoch_ends_with_its_merge_and_elects_the_next_delegates() -> None:
    network = Network()
    main = network.main
    execute(main, main.sign(ALICE, Bond(amount=Units(500), commission_thousandths=0)))
    before = powers(main)
    assert ALICE.validator not in before
    network.end_epoch()
    epoch = epoch_of(main)
    assert (epoch.epoch, epoch.start_height) == (1, main.app.height)
    assert main.app.committee == epoch.committee
    assert powers(main)[ALICE.validator] == 500 == candidate_of(main, ALICE).bonded
    assert len(powers(main)) == 8
    for shard in network.shards:
        assert epoch.committee_of(shard) is not None
    seats = [entry.validator for row in epoch.shards for entry in row.committee.delegates]
    assert sorted(seats) == sorted(powers(main))


def test_committees_differ_from_epoch_to_epoch_and_keep_a_quorum() -> None:
    network = Network()
    for _ in range(4):
        network.pass_epoch()
    epochs = [epoch_of(network.main, number) for number in range(5)]
    for old, new in pairwise(epochs):
        assert old.shards != new.shards
        for entry in old.shards:
            committee = new.committee_of(entry.shard)
            assert committee is not None
            stayed = members(entry.committee) & members(committee)
            assert entry.committee.is_quorum(entry.committee.power_of_all(stayed))


def test_the_last_delegates_stay_where_too_few_are_electable() -> None:
    network = Network()
    for validator in network.cast.all_validators[1:]:
        jail(network.main, validator.validator, forever=False)
    network.end_epoch()
    epoch = epoch_of(network.main)
    assert epoch.committee == network.cast.genesis.epoch().committee
    assert epoch.shards == network.cast.genesis.epoch().shards


def test_the_same_history_elects_the_same_delegates() -> None:
    first, second = Network(), Network()
    first.pass_epoch()
    second.pass_epoch()
    assert epoch_of(first.main) == epoch_of(second.main)
