import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.chain.committee import (
    MAX_DELEGATES,
    Committee,
    Delegate,
    committee_digest,
    make_committee,
)
from headwater_protocol.encoding.record import decode_record, encode_record, require_valid
from headwater_protocol.errors import InsufficientPower, OutOfBounds
from tests.support.network import key

powers = st.lists(st.integers(1, 2**53), min_size=1, max_size=12)


def committee_of(values: list[int]) -> Committee:
    return make_committee((bytes([index]) * 32, power) for index, power in enumerate(values))


@settings(max_examples=200, deadline=None)
@given(powers, st.data())
def test_two_quorums_share_more_than_a_third_of_the_power(values, data):
    committee = committee_of(values)
    names = [delegate.validator for delegate in committee.delegates]
    left, right = (data.draw(st.sets(st.sampled_from(names))) for _ in range(2))
    if committee.is_quorum(committee.power_of_all(left)) and committee.is_quorum(
        committee.power_of_all(right)
    ):
        assert committee.power_of_all(left & right) * 3 > committee.total_power


@settings(max_examples=100, deadline=None)
@given(powers, st.data())
def test_those_outside_a_quorum_are_no_quorum(values, data):
    committee = committee_of(values)
    names = {delegate.validator for delegate in committee.delegates}
    inside = data.draw(st.sets(st.sampled_from(sorted(names))))
    assert not (
        committee.is_quorum(committee.power_of_all(inside))
        and committee.is_quorum(committee.power_of_all(names - inside))
    )


@pytest.mark.parametrize(("total", "quorum"), [(1, 1), (3, 3), (4, 3), (6, 5), (7, 5), (100, 67)])
def test_a_quorum_is_more_than_two_thirds(total, quorum):
    committee = committee_of([1] * total)
    assert committee.is_quorum(quorum)
    committee.require_quorum(quorum)
    assert not committee.is_quorum(quorum - 1)
    with pytest.raises(InsufficientPower, match=f"{quorum - 1} of {total} .* quorum is {quorum}"):
        committee.require_quorum(quorum - 1)


def test_a_quorum_needs_distinct_voters():
    committee = committee_of([1, 1, 1, 1])
    first = committee.delegates[0].validator
    assert committee.power_of_all([first] * 4) == 1


def test_power_counts_for_delegates_only():
    committee = committee_of([5])
    assert committee.power_of(committee.delegates[0].validator) == 5
    assert committee.power_of(key("stranger").validator) == 0
    assert committee.power_of_all([key("stranger").validator]) == 0


def test_a_committee_is_sorted_and_its_digest_depends_on_each_power():
    rows = [(bytes([3]) * 32, 1), (bytes([1]) * 32, 2)]
    assert make_committee(rows) == make_committee(reversed(rows))
    assert committee_digest(make_committee(rows)) != committee_digest(
        make_committee([(rows[0][0], 2), rows[1]])
    )


@pytest.mark.parametrize(
    "delegates",
    [
        [(2, 1), (1, 1)],
        [(1, 1), (1, 1)],
        [(1, 0)],
    ],
    ids=["out of order", "twice", "without power"],
)
def test_a_committee_that_breaks_its_rules_is_no_committee(delegates):
    with pytest.raises(OutOfBounds):
        Committee(
            delegates=tuple(
                Delegate(validator=bytes([name]) * 32, voting_power=power)
                for name, power in delegates
            )
        )


def test_nobody_is_no_committee():
    with pytest.raises(OutOfBounds, match="needs a delegate"):
        make_committee([])


def test_a_committee_at_its_limit_is_valid_and_one_past_it_is_not():
    full = committee_of([1] * MAX_DELEGATES)
    assert decode_record(Committee, encode_record(full)) == full
    with pytest.raises(OutOfBounds, match="129 items"):
        require_valid(committee_of([1] * (MAX_DELEGATES + 1)))
