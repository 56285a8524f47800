"""Local training, evaluation and what is refused."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from headwater_models.errors import InvalidExamples, TrainingDiverged
from headwater_models.initialization import initial_parameters
from headwater_models.plan import OptimizerKind, TrainingPlan
from headwater_models.program import Program
from headwater_models.trainer import Trainer

PROGRAM = Program.load("mlp-64-32-10")
PLAN = TrainingPlan(learning_rate_millionths=100_000, batch_size=16)


@pytest.fixture(scope="module")
def trainer():
    return Trainer(PROGRAM)


@pytest.fixture(scope="module")
def digits():
    features, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return (features[order] / 16).astype(np.float32), labels[order].astype(np.int32)


def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize(
    ("optimizer", "learning_rate_millionths"),
    [
        (OptimizerKind.SGD, 200_000),
        (OptimizerKind.MOMENTUM, 30_000),
        (OptimizerKind.ADAM, 3_000),
    ],
)
def test_digits_are_learned_centrally(trainer, digits, optimizer, learning_rate_millionths):
    features, labels = digits
    plan = TrainingPlan(
        optimizer=optimizer,
        learning_rate_millionths=learning_rate_millionths,
        momentum_thousandths=900,
        local_epochs=20,
        batch_size=16,
    )
    base = initial_parameters(PROGRAM, 1)
    result = trainer.train(base, features[:1400], labels[:1400], plan, rng())
    found = trainer.evaluate(base + result.delta, features[1400:], labels[1400:])
    assert found.num_examples == 397
    assert found.accuracy >= 0.95
    assert result.num_steps == 20 * 88
    assert result.num_examples == 1400


def test_same_generator_gives_the_same_bits(trainer, digits):
    features, labels = digits[0][:50], digits[1][:50]
    base = initial_parameters(PROGRAM, 1)
    deltas = {
        Trainer(PROGRAM).train(base, features, labels, PLAN, rng()).delta.tobytes(),
        trainer.train(base, features, labels, PLAN, rng()).delta.tobytes(),
    }
    assert len(deltas) == 1


def test_one_interpreter_serves_devices_of_any_size(trainer, digits):
    features, labels = digits
    base = initial_parameters(PROGRAM, 1)
    for count in (3, 40, 3, 1, 16):
        mixed = trainer.train(base, features[:count], labels[:count], PLAN, rng())
        fresh = Trainer(PROGRAM).train(base, features[:count], labels[:count], PLAN, rng())
        assert np.array_equal(mixed.delta, fresh.delta)


def test_partial_batch_is_a_mean_over_the_real_examples(trainer, digits):
    """Five examples in batches of three: the second step sees two."""
    features, labels = digits[0][:5], digits[1][:5]
    plan = TrainingPlan(learning_rate_millionths=500_000, batch_size=3)
    base = initial_parameters(PROGRAM, 1)
    found = trainer.train(base, features, labels, plan, rng())
    order, expected, losses = rng().permutation(5), base, 0.0
    for chosen in (order[:3], order[3:]):
        step = trainer.gradient(expected, features[chosen], labels[chosen])
        expected = expected - 0.5 * step.vector
        losses += step.loss * len(chosen)
    assert np.allclose(found.delta, expected - base, atol=1e-6)
    assert found.mean_loss == pytest.approx(losses / 5, rel=1e-5)
    assert found.num_steps == 2


def test_max_steps_ends_training_early(trainer, digits):
    plan = TrainingPlan(learning_rate_millionths=1000, batch_size=10, local_epochs=100, max_steps=7)
    result = trainer.train(
        initial_parameters(PROGRAM, 1), digits[0][:25], digits[1][:25], plan, rng()
    )
    assert result.num_steps == 7


def test_given_parameters_are_left_alone(trainer, digits):
    base = initial_parameters(PROGRAM, 1)
    before = base.copy()
    trainer.train(base, digits[0][:20], digits[1][:20], PLAN, rng())
    assert np.array_equal(base, before)


def test_proximal_term_keeps_a_device_near_the_base(trainer, digits):
    base = initial_parameters(PROGRAM, 1)

    def distance(proximal_millionths):
        plan = TrainingPlan(
            learning_rate_millionths=100_000,
            batch_size=16,
            local_epochs=10,
            proximal_millionths=proximal_millionths,
        )
        result = trainer.train(base, digits[0][:64], digits[1][:64], plan, rng())
        return np.linalg.norm(result.delta)

    assert distance(5_000_000) < distance(500_000) < distance(0)


def test_clipping_bounds_every_step(trainer, digits):
    plan = TrainingPlan(
        learning_rate_millionths=1_000_000, batch_size=16, max_steps=4, clip_norm_thousandths=10
    )
    base = initial_parameters(PROGRAM, 1)
    result = trainer.train(base, digits[0][:64], digits[1][:64], plan, rng())
    assert np.linalg.norm(result.delta) <= 4 * 0.01 * 1.001


def test_delta_that_is_not_finite_is_refused(trainer, digits):
    """A proximal term times a learning rate above 2 throws the parameters ever further out."""
    plan = TrainingPlan(
        learning_rate_millionths=1_000_000_000,
        proximal_millionths=1_000_000_000,
        batch_size=16,
        local_epochs=20,
    )
    with pytest.raises(TrainingDiverged, match="lower learning_rate_millionths") as caught:
        trainer.train(initial_parameters(PROGRAM, 1), *digits, plan, rng())
    assert 0 < caught.value.num_non_finite <= caught.value.num_parameters == 2410


def test_nan_in_the_data_is_refused(trainer, digits):
    features = digits[0][:16].copy()
    features[3, 5] = np.nan
    with pytest.raises(TrainingDiverged):
        trainer.train(initial_parameters(PROGRAM, 1), features, digits[1][:16], PLAN, rng())


@pytest.mark.parametrize(
    "replaced",
    [
        {"parameters": np.zeros(2409, np.float32)},
        {"parameters": np.zeros(2410, np.float64)},
        {"features": np.zeros((4, 63), np.float32)},
        {"features": np.zeros((3, 64), np.float32)},
        {"features": np.zeros((4, 64), np.float64)},
        {"labels": np.zeros(4, np.int64)},
        {"labels": np.array([0, 1, 2, 10], np.int32)},
        {"labels": np.array([0, 1, 2, -1], np.int32)},
        {"labels": np.zeros(0, np.int32), "features": np.zeros((0, 64), np.float32)},
        {"labels": np.zeros((4, 1), np.int32)},
    ],
)
def test_examples_that_do_not_fit_are_refused(trainer, replaced):
    given = {
        "parameters": np.zeros(2410, np.float32),
        "features": np.zeros((4, 64), np.float32),
        "labels": np.zeros(4, np.int32),
    } | replaced
    with pytest.raises(InvalidExamples):
        trainer.train(*given.values(), PLAN, rng())
    with pytest.raises(InvalidExamples):
        trainer.evaluate(*given.values())


def test_sample_weights_of_another_length_are_refused(trainer, digits):
    with pytest.raises(InvalidExamples, match="sample_weights"):
        trainer.gradient(
            initial_parameters(PROGRAM, 1), digits[0][:4], digits[1][:4], np.ones(3, np.float32)
        )


def test_evaluation_does_not_depend_on_its_slices(trainer, digits):
    parameters = initial_parameters(PROGRAM, 3)
    whole = trainer.evaluate(parameters, digits[0][:600], digits[1][:600])
    parts = [
        trainer.evaluate(parameters, digits[0][i : i + 100], digits[1][i : i + 100])
        for i in range(0, 600, 100)
    ]
    assert whole.num_correct == sum(part.num_correct for part in parts)
    assert whole.mean_loss == pytest.approx(np.mean([p.mean_loss for p in parts]), rel=1e-6)


def test_parameters_that_are_not_finite_score_nothing(trainer, digits):
    found = trainer.evaluate(np.full(2410, np.nan, np.float32), digits[0][:30], digits[1][:30])
    assert found.num_correct == 0
    assert np.isnan(found.mean_loss)
