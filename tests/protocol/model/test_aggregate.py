from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.errors import OutOfBounds
from headwater_protocol.model import krum, robust
from headwater_protocol.model.aggregate import (
    Contribution,
    DuplicateContribution,
    apply_aggregate,
    compute_aggregate,
    rebase,
)
from headwater_protocol.model.integer_mean import MAX_TOTAL_EXAMPLES, AggregateOverflow
from headwater_protocol.model.quantize import quantize
from headwater_protocol.model.quantized_delta import int32_delta
from headwater_protocol.model.rule import AggregationRule, RuleKind
from headwater_protocol.reasons import ReasonCode
from tests.protocol.model.builders import MLP_SIZES, contribution, mlp_delta

COLUMNS = 3
int32s = st.integers(-(2**31), 2**31 - 1) | st.integers(-50, 50)
cohorts = st.lists(
    st.tuples(st.integers(1, 2000), st.lists(int32s, min_size=COLUMNS, max_size=COLUMNS)),
    min_size=1,
    max_size=12,
)
ALL_RULES = [
    AggregationRule(kind=kind, clip_ratio_thousandths=clip)
    for kind in RuleKind
    for clip in (0, 1500)
]


def build(cohort) -> list[Contribution]:
    return [contribution(i, values, num_examples=n) for i, (n, values) in enumerate(cohort)]


def run(contributions, rule, *, max_examples=1000, num_parameters=COLUMNS) -> list[int]:
    result = compute_aggregate(
        contributions, rule, num_parameters=num_parameters, max_examples=max_examples
    )
    assert result.dtype == np.int64
    return result.tolist()


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda r: f"{r.kind} {r.clip_ratio_thousandths}")
@given(cohort=cohorts, random=st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_order_never_matters_and_the_result_stays_in_int32(rule, cohort, random):
    contributions = build(cohort)
    expected = run(contributions, rule)
    random.shuffle(contributions)
    assert run(contributions, rule) == expected
    assert all(-(2**31) <= value < 2**31 for value in expected)


@given(cohorts)
def test_the_mean_weighs_by_capped_examples(cohort):
    total = sum(min(n, 1000) for n, _ in cohort)
    expected = [
        round(Fraction(sum(min(n, 1000) * v[c] for n, v in cohort), total)) for c in range(COLUMNS)
    ]
    assert run(build(cohort), AggregationRule()) == expected


@given(cohorts, st.integers(0, 499))
def test_the_trimmed_mean_agrees_with_sorting(cohort, trim):
    trimmed = len(cohort) * trim // 1000
    expected = []
    for column in range(COLUMNS):
        values = sorted(v[column] for _, v in cohort)[trimmed : len(cohort) - trimmed]
        expected.append(round(Fraction(sum(values), len(values))))
    rule = AggregationRule(kind=RuleKind.TRIMMED_MEAN, trim_thousandths=trim)
    assert run(build(cohort), rule) == expected


@given(cohorts)
def test_the_median_agrees_with_sorting(cohort):
    expected = []
    for column in range(COLUMNS):
        values = sorted(v[column] for _, v in cohort)
        low, high = values[(len(values) - 1) // 2], values[len(values) // 2]
        expected.append(round(Fraction(low + high, 2)))
    assert run(build(cohort), AggregationRule(kind=RuleKind.MEDIAN)) == expected


def test_column_blocks_do_not_change_a_result(monkeypatch):
    rng = np.random.default_rng(1)
    cohort = [(1, rng.integers(-1000, 1000, COLUMNS).tolist()) for _ in range(9)]
    for kind in (RuleKind.TRIMMED_MEAN, RuleKind.MEDIAN, RuleKind.MULTI_KRUM):
        rule = AggregationRule(kind=kind)
        expected = run(build(cohort), rule)
        with monkeypatch.context() as patch:
            patch.setattr(robust, "MAX_BLOCK_CELLS", 1)
            patch.setattr(krum, "MAX_EXACT_COLUMNS", 1)
            assert run(build(cohort), rule) == expected


def krum_reference(cohort, byzantine_thousandths):
    f = len(cohort) * byzantine_thousandths // 1000
    scores = []
    for i, (_, a) in enumerate(cohort):
        distances = sorted(
            sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
            for j, (_, b) in enumerate(cohort)
            if j != i
        )
        scores.append((sum(distances[: max(1, len(cohort) - f - 2)]), i))
    kept = [cohort[i][1] for _, i in sorted(scores)[: len(cohort) - f]]
    return [round(Fraction(sum(v[c] for v in kept), len(kept))) for c in range(COLUMNS)]


@given(cohorts, st.integers(0, 499))
@settings(deadline=None)
def test_multi_krum_agrees_with_python_integers(cohort, byzantine):
    rule = AggregationRule(kind=RuleKind.MULTI_KRUM, byzantine_thousandths=byzantine)
    assert run(build(cohort), rule) == krum_reference(cohort, byzantine)


def clipping_reference(cohort, radius_thousandths, iterations):
    centre = [0] * COLUMNS
    for _ in range(iterations):
        moves = [[x - c for x, c in zip(v, centre, strict=True)] for _, v in cohort]
        squares = [sum(m * m for m in move) for move in moves]
        median = sorted(squares)[(len(squares) - 1) // 2]
        limit = isqrt(median * radius_thousandths**2 // 1000**2)
        sums = [0] * COLUMNS
        for move, square in zip(moves, squares, strict=True):
            factor = 2**30
            if square > limit * limit:
                factor = limit * 2**30 // (isqrt(square - 1) + 1)
            for column, value in enumerate(move):
                sign = 1 if value > 0 else -1
                sums[column] += sign * (abs(value) * factor // 2**30)
        centre = [c + round(Fraction(s, len(cohort))) for c, s in zip(centre, sums, strict=True)]
    return centre


@given(cohorts, st.integers(1, 5000), st.integers(1, 5))
@settings(deadline=None)
def test_centered_clipping_agrees_with_python_integers(cohort, radius, iterations):
    rule = AggregationRule(
        kind=RuleKind.CENTERED_CLIPPING, radius_thousandths=radius, iterations=iterations
    )
    assert run(build(cohort), rule) == clipping_reference(cohort, radius, iterations)


def test_clipping_takes_a_huge_delta_down_to_the_cohort():
    honest = [contribution(i, [1000, 0, 0]) for i in range(9)]
    attacker = contribution(9, [0, 2**31 - 1, 0])
    assert run([*honest, attacker], AggregationRule())[1] == round(Fraction(2**31 - 1, 10))
    clipped = run([*honest, attacker], AggregationRule(clip_ratio_thousandths=1500))
    assert clipped[0] == 900
    assert 148 <= clipped[1] <= 150


@pytest.mark.parametrize(
    "kind",
    [RuleKind.TRIMMED_MEAN, RuleKind.MEDIAN, RuleKind.MULTI_KRUM, RuleKind.CENTERED_CLIPPING],
)
def test_robust_rules_withstand_a_fifth_of_attackers(kind):
    rng = np.random.default_rng(4)
    honest = [contribution(i, 10_000 + rng.integers(-500, 500, 50)) for i in range(16)]
    hostile = [contribution(100 + i, np.full(50, -1_000_000), num_examples=999) for i in range(4)]
    rule = AggregationRule(kind=kind, trim_thousandths=200, iterations=5)
    result = np.array(run([*honest, *hostile], rule, num_parameters=50))
    assert np.abs(result - 10_000).max() < 3_500


def test_deltas_aggregate_alike_as_codes_and_as_integers():
    rng = np.random.default_rng(5)
    coded, dense = [], []
    for device in range(7):
        delta = quantize(mlp_delta(device), tensor_sizes=MLP_SIZES, bits=4, rng=rng)
        device_id = device.to_bytes(4, "big")
        coded.append(Contribution(device_id=device_id, num_examples=device + 1, delta=delta))
        dense.append(contribution(device, int32_delta(delta), num_examples=device + 1))
    for rule in ALL_RULES:
        expected = run(dense, rule, num_parameters=2410)
        assert run(coded, rule, num_parameters=2410) == expected


def test_a_cohort_of_none_gives_zeros():
    for rule in ALL_RULES:
        assert run([], rule) == [0] * COLUMNS


def test_one_device_counts_once():
    twice = [contribution(1, [1, 2, 3]), contribution(1, [4, 5, 6])]
    with pytest.raises(DuplicateContribution) as refusal:
        run(twice, AggregationRule())
    assert refusal.value.reason == ReasonCode.DUPLICATE


@pytest.mark.parametrize(
    "bad",
    [
        contribution(1, [1, 2, 3], num_examples=0),
        contribution(1, [1, 2]),
        Contribution(device_id=b"1", num_examples=1, delta=np.zeros(3, dtype=np.int64)),
    ],
)
@pytest.mark.parametrize("kind", RuleKind)
def test_unfit_contributions_are_refused(bad, kind):
    with pytest.raises(OutOfBounds):
        run([bad], AggregationRule(kind=kind))


def test_the_cap_bounds_the_total_and_one_past_it_is_refused():
    values = [2**31 - 1, -(2**31), 0]
    half = MAX_TOTAL_EXAMPLES // 2
    rows = [contribution(i, values, num_examples=2**62) for i in range(2)]
    assert run(rows, AggregationRule(), max_examples=half) == values
    with pytest.raises(AggregateOverflow):
        run(rows, AggregationRule(), max_examples=half + 1)


@pytest.mark.parametrize(
    "arguments",
    [
        {"clip_ratio_thousandths": -1},
        {"clip_ratio_thousandths": 1_000_001},
        {"trim_thousandths": 500},
        {"byzantine_thousandths": 500},
        {"radius_thousandths": 0},
        {"iterations": 0},
        {"iterations": 17},
    ],
)
def test_rules_outside_their_range_are_refused(arguments):
    with pytest.raises(OutOfBounds):
        AggregationRule(**arguments)


def test_multi_krum_refuses_a_cohort_past_its_limit(monkeypatch):
    monkeypatch.setattr(krum, "MAX_KRUM_DELTAS", 3)
    rule = AggregationRule(kind=RuleKind.MULTI_KRUM)
    assert run([contribution(i, [i, 0, 0]) for i in range(3)], rule) == [1, 0, 0]
    with pytest.raises(OutOfBounds, match="cohort"):
        run([contribution(i, [i, 0, 0]) for i in range(4)], rule)


def int32(*values):
    return np.array(values, dtype=np.int32)


@given(int32s, st.integers(-(2**63), 2**63 - 1) | st.integers(-(2**32), 2**32))
def test_applying_saturates(base, change):
    applied = apply_aggregate(int32(base), np.array([change], dtype=np.int64))
    assert applied.dtype == np.int32
    assert applied.tolist() == [max(-(2**31), min(2**31 - 1, base + change))]


@given(int32s, int32s, int32s)
def test_rebasing_keeps_the_rounds_since_the_checkpoint(current, merged, checkpointed):
    rebased = rebase(int32(current), int32(merged), int32(checkpointed))
    expected = max(-(2**31), min(2**31 - 1, current + merged - checkpointed))
    assert rebased.tolist() == [expected]


def test_models_of_unlike_shapes_do_not_combine():
    with pytest.raises(OutOfBounds):
        apply_aggregate(int32(1), np.zeros(2, dtype=np.int64))
    with pytest.raises(OutOfBounds):
        rebase(int32(1), int32(1), int32(1, 2))
