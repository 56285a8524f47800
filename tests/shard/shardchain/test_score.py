from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_shard.shardchain.score import compute_weighted_median

pairs = st.lists(
    st.tuples(st.integers(-10_000, 10_000), st.integers(1, 50)), min_size=1, max_size=9
)


@pytest.mark.parametrize(
    ("scores", "median"),
    [
        ([(7, 1)], 7),
        ([(1, 1), (2, 1), (3, 1)], 2),
        ([(1, 1), (2, 1)], 1),
        ([(1, 1), (2, 1), (3, 1), (4, 1)], 2),
        ([(-5, 1), (5, 3)], 5),
        ([(-5, 2), (5, 2)], -5),
        ([(-5, 3), (5, 2)], -5),
        ([(1, 1), (2, 1), (9, 2)], 2),
        ([(1, 1), (2, 1), (9, 3)], 9),
        ([(3, 1), (3, 1), (-9, 1)], 3),
    ],
)
def test_the_median_is_the_lower_one_weighted_by_power(scores, median):
    assert compute_weighted_median(scores) == median
    assert compute_weighted_median(scores[::-1]) == median


@settings(max_examples=150, deadline=None)
@given(pairs)
def test_the_median_is_that_of_each_score_repeated_power_times(scores):
    expanded = sorted(score for score, power in scores for _ in range(power))
    assert compute_weighted_median(scores) == expanded[(len(expanded) - 1) // 2]


@settings(max_examples=150, deadline=None)
@given(pairs, st.integers(-10_000, 10_000))
def test_less_than_half_the_power_cannot_move_the_median_past_the_others(scores, lie):
    total = sum(power for _, power in scores)
    liar = (total - 1) // 2
    if liar == 0:
        return
    assert Fraction(liar, total + liar) < Fraction(1, 2)
    honest = [score for score, _ in scores]
    median = compute_weighted_median([*scores, (lie, liar)])
    assert min(honest) <= median <= max(honest)


def test_the_median_of_nothing_is_our_own_mistake():
    with pytest.raises(ValueError, match="nothing"):
        compute_weighted_median([])
