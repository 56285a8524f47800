"""Laws of the local optimizers and the limits of a plan."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_models.optimizer import (
    adam,
    add_proximal,
    build_optimizer,
    clip_gradient,
    momentum,
    sgd,
)
from headwater_models.plan import OptimizerKind, TrainingPlan
from headwater_protocol.errors import OutOfBounds


def vectors(seed, count):
    return list(np.random.default_rng(seed).normal(size=(count, 12)).astype(np.float32))


def run(optimizer, gradients, start):
    state, parameters = optimizer.init(len(start)), start
    for gradient in gradients:
        state, parameters = optimizer.apply(gradient, state, parameters)
    return parameters


@given(st.integers(0, 2**32))
def test_sgd_subtracts_the_sum_of_gradients(seed):
    start, *gradients = vectors(seed, 6)
    found = run(sgd(learning_rate_millionths=10_000), gradients, start)
    assert np.allclose(found, start - 0.01 * np.sum(gradients, 0), atol=1e-5)


@given(st.integers(0, 2**32))
def test_momentum_of_zero_is_sgd(seed):
    start, *gradients = vectors(seed, 6)
    plain = run(sgd(learning_rate_millionths=10_000), gradients, start)
    moved = run(momentum(learning_rate_millionths=10_000, momentum_thousandths=0), gradients, start)
    assert np.array_equal(plain, moved)


def test_momentum_approaches_the_geometric_sum():
    optimizer = momentum(learning_rate_millionths=1_000_000, momentum_thousandths=500)
    start, gradient = np.zeros(3, np.float32), np.ones(3, np.float32)
    state, parameters = optimizer.init(3), start
    for _ in range(40):
        before = parameters
        state, parameters = optimizer.apply(gradient, state, parameters)
    assert np.allclose(before - parameters, 2.0, atol=1e-5)


@given(st.integers(0, 2**32))
def test_first_step_of_adam_is_the_learning_rate_against_the_sign(seed):
    start, gradient = vectors(seed, 2)
    found = run(adam(learning_rate_millionths=1_000), [gradient], start)
    assert np.allclose(start - found, 0.001 * np.sign(gradient), atol=2e-5)


def test_adam_agrees_with_the_paper_in_float64():
    start, *gradients = vectors(3, 30)
    found = run(adam(learning_rate_millionths=5_000), gradients, start)
    w, m, v = start.astype(np.float64), np.zeros(12), np.zeros(12)
    for step, gradient in enumerate(gradients, 1):
        g = gradient.astype(np.float64)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w -= 0.005 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    assert np.allclose(found, w, atol=1e-5)


@pytest.mark.parametrize("kind", list(OptimizerKind))
def test_apply_changes_nothing_in_place_and_keeps_float32(kind):
    plan = TrainingPlan(
        optimizer=kind, learning_rate_millionths=10_000, momentum_thousandths=900, batch_size=1
    )
    optimizer = build_optimizer(plan)
    start, gradient = vectors(5, 2)
    kept = start.copy(), gradient.copy()
    state = optimizer.init(12)
    first = optimizer.apply(gradient, state, start)
    second = optimizer.apply(gradient, state, start)
    assert np.array_equal(start, kept[0])
    assert np.array_equal(gradient, kept[1])
    assert np.array_equal(first[1], second[1])
    assert first[1].dtype == np.float32
    assert all(moment.dtype == np.float32 for moment in first[0].moments)


@given(st.integers(0, 2**32), st.integers(1, 20_000))
def test_clipping_keeps_the_direction_and_bounds_the_norm(seed, clip_norm_thousandths):
    (gradient,) = vectors(seed, 1)
    clipped = clip_gradient(gradient, clip_norm_thousandths=clip_norm_thousandths)
    before, after = np.linalg.norm(gradient), np.linalg.norm(clipped)
    assert after <= clip_norm_thousandths / 1000 * (1 + 1e-5)
    assert math.isclose(np.dot(gradient, clipped), before * after, rel_tol=1e-4)
    if before < clip_norm_thousandths / 1000:
        assert np.array_equal(clipped, gradient)


def test_clipping_a_zero_gradient_is_zero():
    zero = np.zeros(4, np.float32)
    assert np.array_equal(clip_gradient(zero, clip_norm_thousandths=1), zero)


def test_proximal_term_is_zero_at_the_base():
    base, gradient = vectors(1, 2)
    found = add_proximal(gradient, base, base, proximal_millionths=1_000_000)
    assert np.array_equal(found, gradient)


@pytest.mark.parametrize(
    ("field", "lowest", "highest"),
    [
        ("learning_rate_millionths", 1, 1_000_000_000),
        ("momentum_thousandths", 0, 999),
        ("local_epochs", 1, 1_000),
        ("max_steps", 0, 1_000_000),
        ("batch_size", 1, 4_096),
        ("proximal_millionths", 0, 1_000_000_000),
        ("clip_norm_thousandths", 0, 1_000_000_000),
    ],
)
def test_plan_takes_its_limits_and_nothing_past_them(field, lowest, highest):
    given_fields = {"learning_rate_millionths": 1, "batch_size": 1}
    for value in (lowest, highest):
        TrainingPlan(**given_fields | {field: value})
    for value in (lowest - 1, highest + 1, 1.0, True, "1"):
        with pytest.raises(OutOfBounds, match=field):
            TrainingPlan(**given_fields | {field: value})


def test_plan_refuses_an_unknown_optimizer():
    with pytest.raises(OutOfBounds, match="sgd, momentum, adam"):
        TrainingPlan(optimizer="lion", learning_rate_millionths=1, batch_size=1)


def test_plan_takes_an_optimizer_by_its_value():
    plan = TrainingPlan(optimizer="adam", learning_rate_millionths=1, batch_size=1)
    assert plan == TrainingPlan(
        optimizer=OptimizerKind.ADAM, learning_rate_millionths=1, batch_size=1
    )


def test_steps_are_bounded_whatever_the_data():
    plan = TrainingPlan(learning_rate_millionths=1, batch_size=1, local_epochs=1_000)
    assert plan.num_steps(num_examples=10**9) == 1_000_000
    assert TrainingPlan(learning_rate_millionths=1, batch_size=8).num_steps(num_examples=9) == 2
