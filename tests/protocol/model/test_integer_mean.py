from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_protocol.errors import OutOfBounds
from headwater_protocol.model.integer_mean import (
    MAX_MERGED_EXAMPLES,
    MAX_TOTAL_EXAMPLES,
    AggregateOverflow,
    MeanAccumulator,
    divide_half_even,
    merge_models,
)
from headwater_protocol.reasons import ReasonCode

int32s = st.integers(-(2**31), 2**31 - 1) | st.integers(-5, 5)
rows = st.lists(
    st.tuples(st.integers(1, 2**28) | st.integers(1, 4), st.tuples(int32s, int32s)),
    min_size=1,
    max_size=12,
)


def int32(values):
    return np.array(values, dtype=np.int32)


def reference_mean(weighted):
    total = sum(n for n, _ in weighted)
    return [
        round(Fraction(sum(n * values[column] for n, values in weighted), total))
        for column in range(len(weighted[0][1]))
    ]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.integers(1, 2**62))
def test_division_rounds_half_to_even(values, divisor):
    quotient = divide_half_even(np.array(values, dtype=np.int64), divisor)
    assert quotient.tolist() == [round(Fraction(value, divisor)) for value in values]


@given(st.lists(st.integers(-40, 40), min_size=1), st.integers(1, 8))
def test_division_rounds_ties_to_even(values, divisor):
    quotient = divide_half_even(np.array(values, dtype=np.int64), divisor)
    assert quotient.tolist() == [round(Fraction(value, divisor)) for value in values]


def test_division_needs_a_positive_divisor():
    for divisor in (0, -1, 2**62 + 1):
        with pytest.raises(OutOfBounds):
            divide_half_even(np.zeros(1, dtype=np.int64), divisor)


@given(rows, st.randoms(use_true_random=False))
def test_the_mean_is_exact_in_any_order(weighted, random):
    expected = reference_mean(weighted)
    random.shuffle(weighted)
    accumulator = MeanAccumulator(num_parameters=2)
    for num_examples, values in weighted:
        accumulator.add(int32(values), num_examples=num_examples)
    assert accumulator.mean().tolist() == expected
    assert accumulator.total_examples == sum(n for n, _ in weighted)


def test_the_sums_hold_the_extremes_at_the_limit_and_refuse_one_past_it():
    for extreme in (-(2**31), 2**31 - 1):
        accumulator = MeanAccumulator(num_parameters=1)
        accumulator.add(int32([extreme]), num_examples=MAX_TOTAL_EXAMPLES - 1)
        accumulator.add(int32([extreme]), num_examples=1)
        assert accumulator.mean().tolist() == [extreme]
        with pytest.raises(AggregateOverflow, match="4294967296 examples") as refusal:
            accumulator.add(int32([extreme]), num_examples=1)
        assert refusal.value.reason == ReasonCode.OUT_OF_BOUNDS
        assert accumulator.mean().tolist() == [extreme]


def test_an_empty_mean_is_zero():
    assert MeanAccumulator(num_parameters=3).mean().tolist() == [0, 0, 0]


@pytest.mark.parametrize(("values", "num_examples"), [([1], 0), ([1], -1), ([1, 2], 1)])
def test_what_cannot_be_added_is_refused(values, num_examples):
    with pytest.raises(OutOfBounds):
        MeanAccumulator(num_parameters=1).add(int32(values), num_examples=num_examples)


@given(
    st.lists(
        st.tuples(st.integers(1, 2**43) | st.integers(1, 4), st.tuples(int32s, int32s)),
        min_size=1,
        max_size=8,
    )
)
def test_merging_is_the_exact_mean(weighted):
    merged = merge_models([(n, int32(values)) for n, values in weighted])
    assert merged.dtype == np.int32
    assert merged.tolist() == reference_mean(weighted)
    assert merge_models([(n, int32(v)) for n, v in reversed(weighted)]).tolist() == merged.tolist()


def test_a_merge_holds_the_extremes_at_the_limit_and_refuses_one_past_it():
    for extreme in (-(2**31), -1, 2**31 - 1):
        models = [(MAX_MERGED_EXAMPLES - 3, int32([extreme])), (3, int32([extreme]))]
        assert merge_models(models).tolist() == [extreme]
        with pytest.raises(AggregateOverflow):
            merge_models([*models, (1, int32([extreme]))])


def test_a_shard_without_examples_does_not_count():
    assert merge_models([(0, int32([100])), (2, int32([7]))]).tolist() == [7]


@pytest.mark.parametrize(
    "models",
    [
        [],
        [(0, int32([1]))],
        [(-1, int32([1]))],
        [(1, int32([1])), (1, int32([1, 2]))],
        [(1, np.zeros(1, dtype=np.int64))],
    ],
)
def test_what_cannot_be_merged_is_refused(models):
    with pytest.raises(OutOfBounds):
        merge_models(models)
