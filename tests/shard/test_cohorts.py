"""Fair cohorts: every device reaches its share, whoever it is and however many names it has."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.chain.cohort import (
    CAPABILITY_WEIGHTS,
    DRAW_SCALE,
    MAX_CREDIT,
    Capability,
    Standing,
    advance_clock,
    advance_mark,
    compute_capability_weight,
    compute_draw_weight,
)
from headwater_protocol.chain.incentives import Incentives
from headwater_protocol.chain.round import MAX_DEVICE_WEIGHT, TOP_RANK, compute_rank, is_in_cohort
from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import MAX_UNSIGNED, DeviceId, Digest, Units
from headwater_protocol.messages.receipt import MAX_RECEIPT_BYTES, Receipt, sign_receipt
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain.records import DEVICES, OWNERS
from headwater_shard.shardchain.rounds import compute_rank_threshold
from tests.support.ledgers import execute, open_round, refusal
from tests.support.market import Market, make_market
from tests.support.network import Chain, key, make_task
from tests.support.records import example_records


def jain(values: list[float]) -> float:
    """Jain's index: 1 where all are equal, 1/n where one has everything."""
    return sum(values) ** 2 / (len(values) * sum(value**2 for value in values))


class Fleet:
    """The draw alone, without a ledger around it."""

    def __init__(self, weights: list[int], seed: int = 0) -> None:
        self.ids = [
            DeviceId(hash_bytes(Domain.SEED, b"%d/%d" % (seed, index)))
            for index in range(len(weights))
        ]
        self.standings = [Standing(weight=weight, mark=0) for weight in weights]
        self.draws = [0] * len(weights)
        self.clock = 0
        self.seed = seed
        self.round = 0

    def draw(
        self, size: int, away: frozenset[int] = frozenset(), *, favoured: int = 0, tries: int = 1
    ) -> None:
        """A round; its proposer takes that of `tries` seeds that draws most of the first ones."""
        self.round += 1
        eligible = [index for index in range(len(self.ids)) if index not in away]
        rows = [
            (self.ids[index], compute_draw_weight(self.standings[index], self.clock))
            for index in eligible
        ]

        def count_favoured(seed: Digest) -> int:
            ranked = sorted(
                (compute_rank(seed, *row), index) for index, row in zip(eligible, rows, strict=True)
            )
            return sum(index < favoured for _, index in ranked[:size])

        seeds = [
            hash_bytes(Domain.SEED, b"round %d of %d" % (self.round, self.seed + 1_000 * number))
            for number in range(tries)
        ]
        seed = max(seeds, key=count_favoured) if tries > 1 else seeds[0]
        threshold = int.from_bytes(compute_rank_threshold(seed, rows, size), "big")
        for index, (device, weight) in zip(eligible, rows, strict=True):
            if compute_rank(seed, device, weight) <= threshold:
                self.draws[index] += 1
                mark = advance_mark(self.standings[index], self.clock)
                self.standings[index] = replace(self.standings[index], mark=mark)
        total = sum(self.standings[index].weight for index in eligible)
        self.clock = advance_clock(self.clock, cohort_size=size, total_weight=total)

    @property
    def shares(self) -> list[float]:
        """Draws for each unit of weight."""
        return [
            count / standing.weight
            for count, standing in zip(self.draws, self.standings, strict=True)
        ]


@pytest.mark.parametrize("seed", range(3))
def test_unequal_classes_reach_their_shares_in_the_long_run(seed):
    rng = random.Random(seed)
    classes = [1, 2, 4, 8]
    fleet = Fleet([rng.choice(classes) for _ in range(100)], seed)
    for _ in range(300):
        fleet.draw(10)
    index = jain(fleet.shares)
    print(f"Jain's index over 300 rounds, 100 devices, cohorts of 10: {index:.4f}")
    assert index >= 0.95


def test_a_proposer_that_picks_its_seeds_gains_time_and_not_draws():
    surplus = []
    fleet = Fleet([4] * 100)
    for number in range(1, 161):
        fleet.draw(10, favoured=10, tries=16)
        if number in {40, 160}:
            surplus.append(sum(fleet.draws[:10]) - number)
            assert max(fleet.draws[:10]) - number / 10 <= MAX_CREDIT
    # The seeds were picked with success, and four times the rounds brought no more of it.
    assert surplus[0] > 0
    assert surplus[1] < 2 * surplus[0] + 10


def test_shares_are_fairer_than_those_of_fixed_weights():
    fair = Fleet([1] * 50)
    fixed = [0] * 50
    for number in range(60):
        fair.draw(5)
        seed = hash_bytes(Domain.SEED, b"fixed %d" % number)
        rows = [(device, 1) for device in fair.ids]
        threshold = int.from_bytes(compute_rank_threshold(seed, rows, 5), "big")
        for index, device in enumerate(fair.ids):
            fixed[index] += compute_rank(seed, device, 1) <= threshold
    assert jain(fair.shares) > 0.98 > jain([float(count) for count in fixed])


def test_a_device_that_was_away_does_not_crowd_the_others_out():
    fleet = Fleet([1] * 20)
    for _ in range(200):
        fleet.draw(4, away=frozenset({0}))
    before = fleet.draws[0]
    for _ in range(40):
        fleet.draw(4)
    caught_up = fleet.draws[0] - before
    assert 40 * 4 / 20 <= caught_up <= 40 * 4 / 20 + MAX_CREDIT + 2


@settings(max_examples=200, deadline=None)
@given(
    weight=st.integers(1, MAX_DEVICE_WEIGHT),
    mark=st.integers(0, MAX_UNSIGNED),
    clock=st.integers(0, MAX_UNSIGNED),
)
def test_weights_are_positive_bounded_and_fall_with_the_mark(weight, mark, clock):
    standing = Standing(weight=weight, mark=mark)
    here = compute_draw_weight(standing, clock)
    assert weight <= here <= weight << (4 * MAX_CREDIT)
    after = advance_mark(standing, clock)
    assert after > max(mark, clock - (MAX_CREDIT + 1) * DRAW_SCALE)
    assert compute_draw_weight(replace(standing, mark=after), clock) <= here


def test_a_device_with_a_stale_mark_never_misses_a_draw():
    fleet = Fleet([1, 2, 3, 4, 5] * 4)
    for _ in range(30):
        fleet.draw(4)
    stale = list(fleet.standings)
    for _ in range(10):
        for index, standing in enumerate(fleet.standings):
            known = compute_draw_weight(stale[index], fleet.clock)
            assert known >= compute_draw_weight(standing, fleet.clock)
        fleet.draw(4)


def test_a_battery_halves_a_capability():
    for capability in Capability:
        mains = compute_capability_weight(capability, has_battery=False)
        assert mains == CAPABILITY_WEIGHTS[capability]
        assert compute_capability_weight(capability, has_battery=True) * 2 == mains


def enrol(market: Market, name: str, *, deposit: int, weight: int, owner: str | None = None):
    chain = market.shard()
    body = chain.enrolment(key(name))
    changed = replace(
        body.enrolment,
        deposit=Units(deposit),
        weight=weight,
        owner=None if owner is None else key(owner).account,
    )
    signature = market.cast.registrar.sign_record(Domain.ENROLMENT, market.cast.network, changed)
    body = replace(body, enrolment=changed, signature=signature)
    return chain.sign(market.cast.registrar, body)


def test_an_owners_deposit_caps_the_weight_of_all_its_devices():
    market = make_market(
        incentives=Incentives(deposit_per_weight=Units(100)),
        enrols=False,
        task=make_task(min_updates=100),
    )
    chain = market.shard()
    execute(chain, enrol(market, "honest", deposit=400, weight=4))
    names = [f"sybil-{index}" for index in range(4)]
    for name in names:
        execute(chain, enrol(market, name, deposit=100, weight=4, owner="owner"))
    granted = [chain.app.state.get(DEVICES, key(name).device) for name in names]
    assert sum(device.weight for device in granted if device is not None) == 4
    fifth = enrol(market, "sybil-4", deposit=50, weight=4, owner="owner")
    assert refusal(chain, fifth) is ReasonCode.NO_DEPOSIT
    entry = chain.app.state.get(OWNERS, key("owner").account)
    assert entry is not None
    assert (entry.weight, entry.num_devices, entry.deposit) == (4, 4, 400)


def standing_before(chain: Chain, device: DeviceId) -> Standing:
    """What the device's last receipt could tell it before the open round was drawn."""
    height = chain.round.opened_height
    record = chain.states[height - 2].get(DEVICES, device) if height > 1 else None
    return Standing(weight=1, mark=0) if record is None else record.standing


def test_the_ledger_draws_by_the_record_and_a_device_finds_itself_in_the_cohort():
    market = make_market(num_devices=9, task=make_task(rounds=12, cohort_size=3))
    chain = market.shard()
    devices = {device.device: device for device in market.devices[chain.chain]}
    counts, clock = dict.fromkeys(devices, 0), 0
    for _ in range(12):
        open_round(chain)
        round_ = chain.round
        assert round_.rank_threshold != TOP_RANK
        assert round_.clock == clock
        clock = advance_clock(clock, cohort_size=3, total_weight=len(devices))
        drawn = {
            device
            for device, record in chain.app.state.items(DEVICES)
            if record.drawn_round == round_.number
        }
        assert len(drawn) == 3
        own = {
            device
            for device in devices
            if is_in_cohort(
                round_, device, compute_draw_weight(standing_before(chain, device), round_.clock)
            )
        }
        assert own == drawn
        for device in drawn:
            counts[device] += 1
        market.play(devices=[devices[device] for device in sorted(drawn)])
    assert sum(counts.values()) == 36
    assert jain([float(count) for count in counts.values()]) >= 0.95


def test_a_receipt_with_a_standing_stays_in_its_bounds():
    receipt = next(record for record in example_records() if isinstance(record, Receipt))
    receipt = replace(receipt, standing=Standing(weight=MAX_DEVICE_WEIGHT, mark=MAX_UNSIGNED))
    market = make_market(enrols=False)
    signed = sign_receipt(key("gateway"), market.cast.network, receipt)
    assert len(encode_record(signed)) <= MAX_RECEIPT_BYTES
