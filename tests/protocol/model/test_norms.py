from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.errors import OutOfBounds
from headwater_protocol.model.norms import (
    CLIP_ONE,
    compute_clip_factor,
    compute_clip_limit,
    compute_cosine_ten_thousandths,
    compute_measured_cosine,
    compute_norm,
    inner_product,
    measure,
    scale_by_factor,
    squared_norm,
)
from headwater_protocol.model.quantized_delta import int32_delta
from tests.protocol.model.builders import quantized_deltas

int32s = st.integers(-(2**31), 2**31 - 1)
vectors = st.lists(int32s | st.integers(-100, 100), max_size=20)


def int32(values):
    return np.array(values, dtype=np.int32)


@given(st.lists(st.tuples(int32s, int32s), max_size=30))
def test_inner_products_are_exact(pairs):
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    assert inner_product(int32(left), int32(right)) == sum(a * b for a, b in pairs)


@given(st.lists(st.tuples(int32s, int32s), max_size=40))
def test_measured_vectors_have_the_cosine_of_what_was_measured(pairs):
    left, right = [int32([pair[side] for pair in pairs]) for side in (0, 1)]
    measured = measure(left), measure(right)
    assert compute_measured_cosine(*measured) == compute_cosine_ten_thousandths(left, right)
    with pytest.raises(OutOfBounds):
        compute_measured_cosine(measured[0], measure(int32([*left, 1])))


def test_the_largest_vectors_do_not_overflow():
    lowest = np.full(100_000, -(2**31), dtype=np.int32)
    assert squared_norm(lowest) == 100_000 * 2**62
    assert squared_norm(np.full(1000, 2**32, dtype=np.int64)) == 1000 * 2**64
    assert compute_norm(lowest) == isqrt(100_000 * 2**62)


@given(quantized_deltas())
@settings(max_examples=100, deadline=None)
def test_a_quantized_delta_has_the_norm_of_its_expansion(delta):
    expected = sum(value * value for value in int32_delta(delta).tolist())
    assert squared_norm(delta) == squared_norm(int32_delta(delta)) == expected


def test_vectors_of_unlike_shapes_have_no_product():
    with pytest.raises(OutOfBounds):
        inner_product(int32([1]), int32([1, 2]))


@given(vectors.filter(any))
def test_cosines_reach_from_one_to_minus_one(values):
    vector = int32([max(v, -(2**31) + 1) for v in values])
    assert compute_cosine_ten_thousandths(vector, vector) == 10_000
    assert compute_cosine_ten_thousandths(vector, -vector) == -10_000
    assert compute_cosine_ten_thousandths(vector, vector * 0) == 0


def test_cosines_round_toward_zero():
    assert compute_cosine_ten_thousandths(int32([1, 0]), int32([1, 1])) == 7071
    assert compute_cosine_ten_thousandths(int32([1, 0]), int32([-1, 1])) == -7071
    assert compute_cosine_ten_thousandths(int32([1, 0]), int32([0, 1])) == 0


@given(st.lists(int32s, min_size=1, max_size=20), st.integers(0, 2**36))
def test_clipped_norms_never_exceed_the_limit(values, limit):
    vector = int32(values)
    factor = compute_clip_factor(squared_norm(vector), limit=limit)
    clipped = scale_by_factor(vector, factor)
    assert 0 <= factor <= CLIP_ONE
    if squared_norm(vector) <= limit * limit:
        assert clipped.tolist() == values
    else:
        assert squared_norm(clipped) <= limit * limit
    toward_zero = [abs(v) * factor // CLIP_ONE * (1 if v > 0 else -1) for v in values]
    assert clipped.tolist() == toward_zero


def test_scaling_has_room_for_differences_of_int32():
    extremes = np.array([2**32, -(2**32)], dtype=np.int64)
    assert scale_by_factor(extremes, CLIP_ONE - 1).tolist() == [2**32 - 4, 4 - 2**32]


def test_the_limit_follows_the_lower_median():
    assert compute_clip_limit([81, 4, 16, 100], ratio_thousandths=1000) == 4
    assert compute_clip_limit([81, 4, 16], ratio_thousandths=2500) == 10
    assert compute_clip_limit([0, 0, 9], ratio_thousandths=2500) == 0
    with pytest.raises(OutOfBounds):
        compute_clip_limit([], ratio_thousandths=1000)
