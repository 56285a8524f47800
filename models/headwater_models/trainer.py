"""Runs a program: local training, evaluation and plain gradients, in a TFLite runtime.

Devices train with it; gateways compute their reference with it. It draws from the generator it is
given and reads no clock, so the same arguments give the same bits on the same runtime and
processor. They do not give the same bits on others: a training result is an input to the ledger,
and nothing recomputes it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_models.errors import InvalidExamples, InvalidProgram, TrainingDiverged
from headwater_models.optimizer import add_proximal, build_optimizer, clip_gradient
from headwater_models.plan import TrainingPlan
from headwater_models.program import Program
from headwater_models.runtime import load_interpreter

EVALUATION_BATCH_SIZE: Final = 256
"""Bounds the memory of an evaluation; the results do not depend on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What a device has learned in one round."""

    delta: NDArray[np.float32]
    """Trained minus given parameters, shape (num_parameters,), finite."""

    num_examples: int
    """Examples that the device has, whether or not `max_steps` reached all of them."""

    num_steps: int
    """Optimizer steps taken, at least 1."""

    planned_steps: int
    """Optimizer steps that the plan asks for."""

    mean_loss: float
    """Mean cross-entropy in nats over the examples seen, each before its step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How well parameters fit examples."""

    num_correct: int
    """Examples whose highest logit is their label's."""

    num_examples: int
    """Examples tried, at least 1."""

    mean_loss: float
    """Mean cross-entropy in nats."""

    @property
    def accuracy(self) -> float:
        """Share of examples that are correct, 0 to 1."""
        return self.num_correct / self.num_examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradient:
    """A gradient and the loss that it belongs to."""

    vector: NDArray[np.float32]
    """Shape (num_parameters,)."""

    loss: float
    """Sum of the examples' losses times their sample weights."""


def _always() -> bool:
    return True


class Trainer:
    """A program in the runtime; serves any number of devices, one call at a time."""

    def __init__(self, program: Program, *, num_threads: int = 1) -> None:
        """Load `program` into the runtime of this machine.

        Args:
            program: Verified.
            num_threads: Of the runtime, for gradients; more than one only helps large programs.

        Raises:
            ConfigError: If no TFLite runtime is installed.
            InvalidProgram: If the runtime refuses the program.
        """
        self._program = program
        self._interpreter = load_interpreter(program, num_threads=num_threads)
        # An interpreter refuses to run its first subgraph while a signature runner holds it.
        self._infer = load_interpreter(program).get_signature_runner("infer")
        grad = program.report.signature("grad")
        self._w = grad.input_index("w")
        self._x = grad.input_index("x")
        self._y = grad.input_index("y")
        self._sample_weights = grad.input_index("sample_weights")
        self._g = grad.output_index("g")
        self._loss = grad.output_index("loss")
        self._batch_size = 0

    @property
    def program(self) -> Program:
        """The program that this trainer runs."""
        return self._program

    def train(
        self,
        parameters: NDArray[np.float32],
        features: NDArray[np.float32],
        labels: NDArray[np.int32],
        plan: TrainingPlan,
        rng: np.random.Generator,
        *,
        may_go_on: Callable[[], bool] = _always,
    ) -> TrainingResult:
        """Train from `parameters` on a device's examples.

        Every local epoch takes the examples in a new order. The last batch of an epoch is filled up
        with examples of weight zero, so the interpreter keeps its shape and the gradient is the
        mean over the real ones.

        Args:
            parameters: Shape (num_parameters,); left as it is.
            features: Shape (n, *input_shape).
            labels: Shape (n,), 0 to num_classes - 1.
            plan: Optimizer, steps and their size.
            rng: Orders the examples.
            may_go_on: Asked before each step but the first; no ends the training there.

        Raises:
            InvalidExamples: If a shape, type or label does not fit the program, or n is 0.
            TrainingDiverged: If the delta has an entry that is NaN or infinite.
            InvalidProgram: If the runtime fails in the program.
        """
        self._verify(parameters, features, labels)
        num_examples = len(labels)
        size = min(plan.batch_size, num_examples)
        planned_steps = plan.num_steps(num_examples=num_examples)
        batch_features = np.empty((size, *self._program.input_shape), np.float32)
        batch_labels = np.empty(size, np.int32)
        full_weights = np.full(size, 1 / size, np.float32)
        optimizer = build_optimizer(plan)
        state = optimizer.init(self._program.num_parameters)
        apply, trained = optimizer.apply, parameters
        loss_sum, num_seen, num_steps, start = 0.0, 0, 0, num_examples
        order = np.empty(0, np.intp)
        # What overflows shows in the delta, which is refused below; a warning would add nothing.
        with np.errstate(over="ignore", invalid="ignore"):
            while num_steps < planned_steps and (num_steps == 0 or may_go_on()):
                num_steps += 1
                if start >= num_examples:
                    order, start = rng.permutation(num_examples), 0
                chosen = order[start : start + size]
                start += size
                count, weights = len(chosen), full_weights
                if count < size:
                    # Any example will do, its weight is zero; a real one keeps values finite.
                    weights = np.zeros(size, np.float32)
                    weights[:count] = 1 / count
                    chosen = np.pad(chosen, (0, size - count), mode="edge")
                # With `out`, the mode "raise" copies once more; the indices are in range anyway.
                np.take(features, chosen, axis=0, out=batch_features, mode="clip")
                np.take(labels, chosen, out=batch_labels, mode="clip")
                gradient, loss = self._run_grad(trained, batch_features, batch_labels, weights)
                loss_sum += loss * count
                num_seen += count
                if plan.proximal_millionths:
                    gradient = add_proximal(
                        gradient, trained, parameters, proximal_millionths=plan.proximal_millionths
                    )
                if plan.clip_norm_thousandths:
                    limit = plan.clip_norm_thousandths
                    gradient = clip_gradient(gradient, clip_norm_thousandths=limit)
                state, trained = apply(gradient, state, trained)
            delta = trained - parameters
        num_finite = int(np.count_nonzero(np.isfinite(delta)))
        if num_finite < len(delta):
            raise TrainingDiverged(
                num_non_finite=len(delta) - num_finite,
                num_parameters=len(delta),
                num_steps=num_steps,
            )
        return TrainingResult(
            delta=delta,
            num_examples=num_examples,
            num_steps=num_steps,
            planned_steps=planned_steps,
            mean_loss=loss_sum / num_seen,
        )

    def evaluate(
        self,
        parameters: NDArray[np.float32],
        features: NDArray[np.float32],
        labels: NDArray[np.int32],
    ) -> Evaluation:
        """Try `parameters` on examples; shapes and errors are those of `train`.

        With parameters that are not finite every example counts as wrong and the loss is NaN.
        """
        self._verify(parameters, features, labels)
        num_correct, loss_sum = 0, 0.0
        for start in range(0, len(labels), EVALUATION_BATCH_SIZE):
            chosen = slice(start, start + EVALUATION_BATCH_SIZE)
            try:
                logits = self._infer(w=parameters, x=features[chosen])["logits"]
            except (ValueError, RuntimeError) as error:
                raise InvalidProgram(f"infer failed: {error}") from error
            expected = labels[chosen]
            # In float64, so that the mean does not depend on the size of the slices.
            scores = logits.astype(np.float64)
            with np.errstate(invalid="ignore"):
                scores -= scores.max(axis=1, keepdims=True)
                target = scores[np.arange(len(expected)), expected]
                loss_sum += float((np.log(np.exp(scores).sum(axis=1)) - target).sum())
            is_finite = np.isfinite(logits).all(axis=1)
            num_correct += int(((logits.argmax(axis=1) == expected) & is_finite).sum())
        return Evaluation(
            num_correct=num_correct, num_examples=len(labels), mean_loss=loss_sum / len(labels)
        )

    def gradient(
        self,
        parameters: NDArray[np.float32],
        features: NDArray[np.float32],
        labels: NDArray[np.int32],
        sample_weights: NDArray[np.float32] | None = None,
    ) -> Gradient:
        """Return the gradient on one batch; shapes and errors are those of `train`.

        Args:
            parameters: Shape (num_parameters,).
            features: Shape (n, *input_shape).
            labels: Shape (n,).
            sample_weights: Shape (n,), a factor for the loss of every example; None for the mean.
        """
        self._verify(parameters, features, labels)
        if sample_weights is None:
            sample_weights = np.full(len(labels), 1 / len(labels), np.float32)
        _verify_array("sample_weights", sample_weights, (len(labels),), np.float32)
        vector, loss = self._run_grad(parameters, features, labels, sample_weights)
        return Gradient(vector=vector, loss=loss)

    def _run_grad(
        self,
        parameters: NDArray[np.float32],
        features: NDArray[np.float32],
        labels: NDArray[np.int32],
        sample_weights: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], float]:
        # Indices and calls on the first subgraph: a signature runner would resize and look up
        # names at every step, which costs as much as the gradient of a small model.
        interpreter = self._interpreter
        try:
            if len(labels) != self._batch_size:
                self._resize(len(labels))
            interpreter.set_tensor(self._w, parameters)
            interpreter.set_tensor(self._x, features)
            interpreter.set_tensor(self._y, labels)
            interpreter.set_tensor(self._sample_weights, sample_weights)
            interpreter.invoke()
            return interpreter.get_tensor(self._g), float(interpreter.get_tensor(self._loss)[0])
        except (ValueError, RuntimeError) as error:
            self._batch_size = 0
            raise InvalidProgram(f"grad failed: {error}") from error

    def _resize(self, batch_size: int) -> None:
        interpreter = self._interpreter
        interpreter.resize_tensor_input(self._x, (batch_size, *self._program.input_shape))
        interpreter.resize_tensor_input(self._y, (batch_size,))
        interpreter.resize_tensor_input(self._sample_weights, (batch_size,))
        interpreter.allocate_tensors()
        self._batch_size = batch_size

    def _verify(
        self,
        parameters: NDArray[np.float32],
        features: NDArray[np.float32],
        labels: NDArray[np.int32],
    ) -> None:
        program = self._program
        _verify_array("parameters", parameters, (program.num_parameters,), np.float32)
        if labels.ndim != 1 or not len(labels):
            raise InvalidExamples(f"labels have shape {labels.shape}, not (n,) with n at least 1")
        _verify_array("labels", labels, (len(labels),), np.int32)
        _verify_array("features", features, (len(labels), *program.input_shape), np.float32)
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= program.num_classes:
            raise InvalidExamples(
                f"labels are {lowest} to {highest}, they may be 0 to {program.num_classes - 1}; "
                "correct them, or the classes' names"
            )


def _verify_array(
    name: str,
    array: NDArray[np.float32] | NDArray[np.int32],
    shape: tuple[int, ...],
    dtype: type[np.float32] | type[np.int32],
) -> None:
    # The runtime converts nothing, and a wrong type or shape raises deep inside it or not at all.
    if array.shape != shape or array.dtype != dtype:
        raise InvalidExamples(
            f"{name} are {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}"
        )
