"""Local optimizers on the flat parameter vector, in numpy, as `init` / `apply` pairs.

They are outside the program on purpose: a line of numpy costs nothing next to a gradient, the
program keeps no variables, and one interpreter serves any number of devices. Every function returns
new arrays, so a state may be kept, compared or thrown away. Hyperparameters are integers with their
unit in the name, as a task has them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_models.plan import OptimizerKind, TrainingPlan

Vector = NDArray[np.float32]
"""Shape (num_parameters,)."""

ADAM_BETA1: Final = 0.9
ADAM_BETA2: Final = 0.999
ADAM_EPSILON: Final = 1e-8
"""The defaults of the paper; a task does not choose them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerState:
    """What an optimizer remembers between two steps."""

    num_steps: int
    """Steps taken so far; counted by Adam only."""

    moments: tuple[Vector, ...]
    """None for SGD, the velocity for momentum, first and second moment for Adam."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """A rule that turns gradients into steps."""

    init: Callable[[int], OptimizerState]
    """Returns the state before the first step, given the number of parameters."""

    apply: Callable[[Vector, OptimizerState, Vector], tuple[OptimizerState, Vector]]
    """Maps (gradient, state, parameters) to the next (state, parameters)."""


def sgd(*, learning_rate_millionths: int) -> Optimizer:
    """Return plain gradient descent: parameters - learning_rate * gradient."""
    learning_rate = learning_rate_millionths / 1e6

    def init(num_parameters: int) -> OptimizerState:
        return OptimizerState(num_steps=0, moments=())

    def apply(
        gradient: Vector, state: OptimizerState, parameters: Vector
    ) -> tuple[OptimizerState, Vector]:
        return state, parameters - learning_rate * gradient

    return Optimizer(init=init, apply=apply)


def momentum(*, learning_rate_millionths: int, momentum_thousandths: int) -> Optimizer:
    """Return gradient descent with a velocity: v = momentum * v + gradient.

    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964, in the form of
    Sutskever et al., ICML 2013, with the learning rate outside the velocity.
    """
    learning_rate = learning_rate_millionths / 1e6
    decay = momentum_thousandths / 1e3

    def init(num_parameters: int) -> OptimizerState:
        return OptimizerState(num_steps=0, moments=(np.zeros(num_parameters, np.float32),))

    def apply(
        gradient: Vector, state: OptimizerState, parameters: Vector
    ) -> tuple[OptimizerState, Vector]:
        velocity = decay * state.moments[0] + gradient
        next_state = OptimizerState(num_steps=0, moments=(velocity,))
        return next_state, parameters - learning_rate * velocity

    return Optimizer(init=init, apply=apply)


def adam(*, learning_rate_millionths: int) -> Optimizer:
    """Return Adam. Kingma and Ba, "Adam", ICLR 2015, algorithm 1."""
    learning_rate = learning_rate_millionths / 1e6

    def init(num_parameters: int) -> OptimizerState:
        zeros = np.zeros(num_parameters, np.float32)
        return OptimizerState(num_steps=0, moments=(zeros, zeros))

    def apply(
        gradient: Vector, state: OptimizerState, parameters: Vector
    ) -> tuple[OptimizerState, Vector]:
        step = state.num_steps + 1
        first = ADAM_BETA1 * state.moments[0] + (1 - ADAM_BETA1) * gradient
        second = ADAM_BETA2 * state.moments[1] + (1 - ADAM_BETA2) * np.square(gradient)
        # Both bias corrections as scalars: two passes over the vector less.
        correction = math.sqrt(1 - ADAM_BETA2**step)
        rate = learning_rate * correction / (1 - ADAM_BETA1**step)
        change = first / (np.sqrt(second) + ADAM_EPSILON * correction)
        return OptimizerState(num_steps=step, moments=(first, second)), parameters - rate * change

    return Optimizer(init=init, apply=apply)


def build_optimizer(plan: TrainingPlan) -> Optimizer:
    """Return the optimizer that `plan` names."""
    rate = plan.learning_rate_millionths
    if plan.optimizer == OptimizerKind.ADAM:
        return adam(learning_rate_millionths=rate)
    if plan.optimizer == OptimizerKind.MOMENTUM:
        return momentum(
            learning_rate_millionths=rate, momentum_thousandths=plan.momentum_thousandths
        )
    return sgd(learning_rate_millionths=rate)


def add_proximal(
    gradient: Vector, parameters: Vector, base: Vector, *, proximal_millionths: int
) -> Vector:
    """Return the gradient of the loss plus mu / 2 * |parameters - base|^2.

    It pulls a device with unusual data back to the model that all started from.
    Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, equation 2.
    """
    return gradient + (proximal_millionths / 1e6) * (parameters - base)


def clip_gradient(gradient: Vector, *, clip_norm_thousandths: int) -> Vector:
    """Return `gradient`, shortened to the given Euclidean norm if it is longer.

    Pascanu et al., "On the difficulty of training recurrent neural networks", ICML 2013,
    algorithm 1.
    """
    limit = clip_norm_thousandths / 1e3
    norm = math.sqrt(float(np.dot(gradient, gradient)))
    return gradient * np.float32(limit / norm) if norm > limit else gradient
