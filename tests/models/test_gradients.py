"""The shipped programs against a float64 backward pass that shares nothing with them."""

import numpy as np
import pytest

from headwater_models.initialization import initial_parameters
from headwater_models.program import Program, list_programs
from headwater_models.trainer import Trainer
from tests.support.numpy_reference import FORWARD, compute_gradient

PROGRAMS = ("mlp-64-32-10", "har-cnn", "cnn-28x28")
TOLERANCE = 2e-5


@pytest.fixture(scope="module", params=PROGRAMS)
def named_trainer(request):
    return request.param, Trainer(Program.load(request.param))


def draw(program, count, seed=0):
    rng = np.random.default_rng(seed)
    parameters = initial_parameters(program, seed) + rng.normal(
        0, 0.05, program.num_parameters
    ).astype(np.float32)
    features = rng.normal(size=(count, *program.input_shape)).astype(np.float32)
    labels = rng.integers(0, program.num_classes, count).astype(np.int32)
    return parameters, features, labels


def assert_agrees(name, trainer, parameters, features, labels, sample_weights):
    expected, loss, _ = compute_gradient(
        name, trainer.program.layout, parameters, features, labels, sample_weights
    )
    found = trainer.gradient(parameters, features, labels, sample_weights)
    scale = np.abs(expected).max()
    assert np.abs(found.vector - expected).max() <= TOLERANCE * scale
    assert found.loss == pytest.approx(loss, rel=1e-5)


def test_every_shipped_program_has_a_reference():
    assert set(list_programs()) == set(FORWARD) == set(PROGRAMS)


@pytest.mark.parametrize("count", [16, 1, 7])
def test_gradient_agrees_with_numpy_for_any_batch(named_trainer, count):
    name, trainer = named_trainer
    parameters, features, labels = draw(trainer.program, count, seed=count)
    weights = np.full(count, 1 / count, np.float32)
    assert_agrees(name, trainer, parameters, features, labels, weights)


def test_gradient_agrees_with_numpy_for_weighted_samples(named_trainer):
    name, trainer = named_trainer
    parameters, features, labels = draw(trainer.program, 9)
    weights = np.array([0, 3, 1, 0.25, 0, 1, 2, 0.5, 0], np.float32)
    assert_agrees(name, trainer, parameters, features, labels, weights)


def test_examples_of_weight_zero_do_not_count(named_trainer):
    _, trainer = named_trainer
    parameters, features, labels = draw(trainer.program, 8)
    weights = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32) / 5
    padded = trainer.gradient(parameters, features, labels, weights)
    alone = trainer.gradient(parameters, features[:5], labels[:5])
    assert np.allclose(padded.vector, alone.vector, atol=1e-6)
    assert padded.loss == pytest.approx(alone.loss, rel=1e-6)


def test_gradient_of_a_tie_goes_to_one_input_only(named_trainer):
    """Equal pixels make every pool a tie."""
    name, trainer = named_trainer
    parameters, features, labels = draw(trainer.program, 4)
    features[:] = 0.5
    assert_agrees(name, trainer, parameters, features, labels, np.full(4, 0.25, np.float32))


def test_logits_agree_with_numpy(named_trainer):
    name, trainer = named_trainer
    parameters, features, labels = draw(trainer.program, 20)
    _, loss, logits = compute_gradient(
        name,
        trainer.program.layout,
        parameters,
        features,
        labels,
        np.full(20, 1 / 20, np.float32),
    )
    evaluation = trainer.evaluate(parameters, features, labels)
    assert evaluation.num_correct == (logits.argmax(1) == labels).sum()
    assert evaluation.mean_loss == pytest.approx(loss, rel=1e-5)
