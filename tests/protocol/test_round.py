from collections import Counter
from dataclasses import replace

import pytest

from headwater_protocol.chain.round import (
    MAX_DEVICE_WEIGHT,
    TOP_RANK,
    compute_rank,
    is_in_cohort,
)
from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.identifiers import DeviceId, Digest
from headwater_shard.shardchain.rounds import compute_rank_threshold
from tests.support.network import key
from tests.support.records import make_round

NAMES = [DeviceId(hash_bytes(Domain.SEED, b"device %d" % index)) for index in range(40)]


def seed_of(index: int) -> Digest:
    return hash_bytes(Domain.SEED, b"seed %d" % index)


def draw(seed: Digest, devices: list[tuple[DeviceId, int]], size: int) -> list[DeviceId]:
    round_ = replace(
        make_round(), seed=seed, rank_threshold=compute_rank_threshold(seed, devices, size)
    )
    return [name for name, weight in devices if is_in_cohort(round_, name, weight)]


@pytest.mark.parametrize("size", [1, 2, 7, 39])
def test_a_cohort_has_exactly_its_size(size):
    for index in range(40):
        devices = [(name, 1 + position % 5) for position, name in enumerate(NAMES)]
        assert len(draw(seed_of(index), devices, size)) == size


@pytest.mark.parametrize("size", [40, 41, 1_000])
def test_a_fleet_no_larger_than_the_cohort_is_drawn_whole(size):
    devices = [(name, 1) for name in NAMES]
    assert compute_rank_threshold(seed_of(0), devices, size) == TOP_RANK
    assert draw(seed_of(0), devices, size) == NAMES


def test_devices_of_equal_weight_are_drawn_evenly():
    # 400 draws of 10 out of 40: each device's count has mean 100 and standard deviation 8.7.
    counts: Counter[DeviceId] = Counter()
    for index in range(400):
        counts.update(draw(seed_of(index), [(name, 1) for name in NAMES], 10))
    chi_squared = sum((counts[name] - 100) ** 2 / (100 * 0.75) for name in NAMES)
    # About 39 degrees of freedom: 0.1 % of honest draws exceed 72, 0.1 % stay under 16.
    assert 16 < chi_squared < 72
    assert all(60 < counts[name] < 140 for name in NAMES)


def test_a_weight_of_two_doubles_how_often_a_device_is_drawn():
    devices = [(name, 2 if position < 4 else 1) for position, name in enumerate(NAMES)]
    counts: Counter[DeviceId] = Counter()
    draws = 2_000
    for index in range(draws):
        counts.update(draw(seed_of(index), devices, 2))
    heavy = sum(counts[name] for name in NAMES[:4]) / 4
    light = sum(counts[name] for name in NAMES[4:]) / 36
    assert 1.75 < heavy / light < 2.2


def test_the_order_of_the_fleet_does_not_matter():
    devices = [(name, 1 + position % 3) for position, name in enumerate(NAMES)]
    assert compute_rank_threshold(seed_of(1), devices, 9) == compute_rank_threshold(
        seed_of(1), devices[::-1], 9
    )


def test_another_seed_draws_another_cohort():
    devices = [(name, 1) for name in NAMES]
    assert draw(seed_of(0), devices, 10) != draw(seed_of(1), devices, 10)


def test_the_highest_rank_is_in_the_whole_fleet():
    round_ = replace(make_round(), rank_threshold=TOP_RANK)
    assert is_in_cohort(round_, key("a").device, 1)
    assert compute_rank(round_.seed, key("a").device, 1) < 2**256
    heavy = compute_rank(round_.seed, key("a").device, MAX_DEVICE_WEIGHT)
    assert heavy == compute_rank(round_.seed, key("a").device, 1) // MAX_DEVICE_WEIGHT
