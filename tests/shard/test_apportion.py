import itertools
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_shard.apportion import apportion

weights = st.dictionaries(st.binary(max_size=3), st.integers(0, 2**60), max_size=12)
amounts = st.integers(0, 2**62)


@settings(max_examples=200, deadline=None)
@given(amounts, weights)
def test_the_parts_sum_to_the_amount_exactly(amount, parts):
    shares = apportion(amount, parts)
    if any(parts.values()):
        assert sum(shares.values()) == amount
        assert shares.keys() == parts.keys()
    else:
        assert shares == {}


@settings(max_examples=200, deadline=None)
@given(amounts, weights)
def test_each_part_is_within_a_unit_of_its_share(amount, parts):
    total = sum(parts.values())
    for key, share in apportion(amount, parts).items():
        assert abs(share - Fraction(amount * parts[key], total)) < 1
        assert share >= 0


@settings(max_examples=200, deadline=None)
@given(amounts, weights)
def test_a_larger_weight_never_gets_less(amount, parts):
    shares = apportion(amount, parts)
    ordered = sorted(shares, key=lambda key: parts[key])
    for lighter, heavier in itertools.pairwise(ordered):
        if parts[lighter] < parts[heavier]:
            assert shares[lighter] <= shares[heavier]


@settings(max_examples=100, deadline=None)
@given(amounts, weights, st.randoms(use_true_random=False))
def test_the_order_of_the_keys_does_not_matter(amount, parts, random):
    rows = list(parts.items())
    random.shuffle(rows)
    assert apportion(amount, dict(rows)) == apportion(amount, parts)


def test_a_weight_of_nothing_gets_nothing():
    assert apportion(10, {b"a": 0, b"b": 3}) == {b"a": 0, b"b": 10}


@pytest.mark.parametrize(
    ("amount", "parts", "shares"),
    [
        (0, {b"a": 1}, {b"a": 0}),
        (1, {b"b": 1, b"a": 1}, {b"a": 1, b"b": 0}),
        (2, {b"a": 1, b"b": 1, b"c": 1}, {b"a": 1, b"b": 1, b"c": 0}),
        (100, {b"a": 1, b"b": 2, b"c": 3}, {b"a": 17, b"b": 33, b"c": 50}),
        (10, {}, {}),
    ],
)
def test_largest_remainders_first_and_ties_to_the_smaller_key(amount, parts, shares):
    assert apportion(amount, parts) == shares
