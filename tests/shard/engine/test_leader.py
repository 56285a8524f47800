from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.chain.committee import Committee
from headwater_protocol.encoding.record import decode_record, encode_record
from headwater_protocol.errors import OutOfBounds
from headwater_shard.engine.bft.leader import (
    PRIORITY_WINDOW,
    Leaders,
    Priority,
    Rotation,
    elect_leader,
    initial_rotation,
    next_rotation,
)
from tests.support.engine_support import committee_of, key_of

POWERS = st.dictionaries(st.integers(0, 9), st.integers(1, 10_000), min_size=1, max_size=8)


def run_elections(committee: Committee, count: int) -> list[bytes]:
    priorities = initial_rotation(committee).priorities
    winners = []
    for _ in range(count):
        winner, priorities = elect_leader(committee, priorities)
        winners.append(winner)
    return winners


def spread(rotation: Rotation) -> int:
    return max(rotation.priorities) - min(rotation.priorities)


def test_each_delegate_leads_exactly_its_share_of_a_full_cycle() -> None:
    committee = committee_of([1, 2, 3, 4])
    led = Counter(run_elections(committee, 1_000))
    assert [led[key_of(index).validator] for index in range(4)] == [100, 200, 300, 400]


@settings(max_examples=40, deadline=None)
@given(powers=st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_every_window_of_elections_is_within_one_turn_per_delegate_of_its_share(
    powers: list[int],
) -> None:
    committee = committee_of(powers)
    total = committee.total_power
    winners = run_elections(committee, 3 * total)
    for start in range(0, 2 * total, max(1, total // 3)):
        led = Counter(winners[start : start + total])
        for delegate in committee.delegates:
            share = delegate.voting_power
            assert abs(led[delegate.validator] - share) <= len(powers)


def test_equal_powers_take_turns() -> None:
    winners = run_elections(committee_of([5, 5, 5]), 9)
    assert len(set(winners[:3])) == 3
    assert winners[:3] * 3 == winners


def test_a_tie_goes_to_the_smaller_key() -> None:
    committee = committee_of([7, 7])
    assert run_elections(committee, 1) == [committee.delegates[0].validator]


@settings(max_examples=40, deadline=None)
@given(committees=st.lists(POWERS, min_size=1, max_size=12), steps=st.integers(1, 5))
def test_priorities_stay_centred_and_bounded_whatever_the_committees(
    committees: list[dict[int, int]], steps: int
) -> None:
    rotation = initial_rotation(committee_of(committees[0]))
    for powers in committees:
        for _ in range(steps):
            rotation = next_rotation(rotation, committee_of(powers))
            total = rotation.committee.total_power
            # One election after scaling adds at most one total to the window.
            assert spread(rotation) <= (PRIORITY_WINDOW + 2) * total
            assert abs(sum(rotation.priorities)) <= len(rotation.priorities) + total
            assert decode_record(Rotation, encode_record(rotation)) == rotation


def test_a_newcomer_waits_longer_than_anybody_who_stays() -> None:
    rotation = initial_rotation(committee_of([10, 10, 10]))
    for _ in range(5):
        rotation = next_rotation(rotation, committee_of([10, 10, 10]))
    rotation = next_rotation(rotation, committee_of([10, 10, 10, 10]))
    leaders = Leaders(rotation)
    assert key_of(3).validator not in [leaders.leader(view) for view in range(3)]
    assert key_of(3).validator in [leaders.leader(view) for view in range(8)]


def test_leaving_and_joining_again_does_not_buy_a_turn() -> None:
    both, one = committee_of([10, 10, 10]), committee_of([10, 10])
    rotation = initial_rotation(both)
    led = Counter[bytes]()
    for height in range(60):
        led[Leaders(rotation).leader(0)] += 1
        rotation = next_rotation(rotation, one if height % 2 else both)
    assert led[key_of(2).validator] <= 60 // 4


def test_priorities_of_who_stays_keep_their_order_through_a_change() -> None:
    rotation = initial_rotation(committee_of([3, 5, 7]))
    for _ in range(4):
        rotation = next_rotation(rotation, committee_of([3, 5, 7]))
    after = next_rotation(rotation, committee_of([3, 5]))
    _, elected = elect_leader(rotation.committee, rotation.priorities)
    by_key = dict(zip([d.validator for d in rotation.committee.delegates], elected, strict=True))
    stay = [by_key[d.validator] for d in after.committee.delegates]
    assert (stay[0] < stay[1]) == (after.priorities[0] < after.priorities[1])


def test_leaders_of_views_do_not_depend_on_the_order_of_asking() -> None:
    rotation = initial_rotation(committee_of([1, 2, 3]))
    forwards, backwards = Leaders(rotation), Leaders(rotation)
    backwards.leader(9)
    assert [forwards.leader(v) for v in range(10)] == [backwards.leader(v) for v in range(10)]


def test_a_height_starts_one_election_after_the_last_however_many_views_that_took() -> None:
    rotation = initial_rotation(committee_of([1, 2, 3]))
    winners = run_elections(rotation.committee, 10)
    for height in range(10):
        assert Leaders(rotation).leader(0) == winners[height]
        rotation = next_rotation(rotation, rotation.committee)


def test_the_largest_committee_fits_63_bits() -> None:
    committee = committee_of(dict.fromkeys(range(128), 2**53))
    rotation = initial_rotation(committee)
    for _ in range(3):
        rotation = next_rotation(rotation, committee)
    rotation = next_rotation(rotation, committee_of(dict.fromkeys(range(1, 129), 2**53)))
    assert decode_record(Rotation, encode_record(rotation)) == rotation


def test_a_rotation_has_one_priority_a_delegate() -> None:
    with pytest.raises(OutOfBounds, match="1 priorities for 2 delegates"):
        Rotation(certifiers=None, committee=committee_of([1, 1]), priorities=(Priority(0),))
