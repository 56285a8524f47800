"""Gini and Jain, and the sums that charts show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_firmware_sim.report.measures import (
    compute_gini,
    compute_jain,
    final_fairness,
    list_class_rewards,
    list_fairness,
    list_round_totals,
)
from tests.support.run_results import make_result

amounts = st.lists(st.integers(0, 10**12), min_size=1, max_size=40)


@given(amounts)
def test_gini_is_the_mean_difference_over_twice_the_mean(values):
    total = sum(values)
    gini = compute_gini(values)
    if total == 0:
        assert gini is None
        return
    differences = sum(abs(a - b) for a in values for b in values)
    assert gini == pytest.approx(differences / (2 * len(values) * total))


@given(amounts, st.integers(1, 1_000))
def test_both_ignore_the_unit_and_stay_in_their_range(values, factor):
    gini, jain = compute_gini(values), compute_jain(values)
    if gini is None or jain is None:
        assert gini is None
        assert jain is None
        return
    assert 0 <= gini < 1
    assert 1 / len(values) <= jain * (1 + 1e-12)
    assert jain <= 1
    assert compute_gini([x * factor for x in values]) == pytest.approx(gini)
    assert compute_jain([x * factor for x in values]) == pytest.approx(jain)


def test_even_and_uneven_shares():
    assert compute_gini([5, 5, 5]) == 0
    assert compute_jain([5, 5, 5]) == 1
    assert compute_gini([0, 0, 0, 9]) == 0.75
    assert compute_jain([0, 0, 0, 9]) == 0.25
    assert compute_gini([]) is None
    assert compute_jain([]) is None


def test_fairness_by_round_ends_at_that_of_the_fleet():
    result = make_result()
    assert list_fairness(result)[-1] == final_fairness(result)


def test_totals_add_the_shards_of_a_round():
    result = make_result(shards=3, rounds=4)
    totals = list_round_totals(result.rounds)
    assert [row.round for row in totals] == [1, 2, 3, 4]
    assert sum(row.bytes_up for row in totals) == sum(row.bytes_up for row in result.rounds)


def test_classes_keep_attackers_apart():
    result = make_result()
    groups = list_class_rewards(result.fleet)
    assert sum(group.devices for group in groups) == result.devices
    assert sum(g.devices for g in groups if not g.is_honest) == result.attackers
    assert all(group.low <= group.mean <= group.high for group in groups if group.is_honest)
