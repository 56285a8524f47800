"""How a device trains in one round, in integers only, so that a task on a ledger can say it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from headwater_protocol.chain.task import Training
from headwater_protocol.errors import OutOfBounds

MAX_LEARNING_RATE_MILLIONTHS: Final = 1_000_000_000
"""A learning rate of 1000."""

MAX_MOMENTUM_THOUSANDTHS: Final = 999
"""A momentum of 1 or more never forgets and diverges."""

MAX_LOCAL_EPOCHS: Final = 1_000
"""More passes than any device has the energy for."""

MAX_STEPS: Final = 1_000_000
"""Bounds the time that a task can take from a device."""

MAX_BATCH_SIZE: Final = 4_096
"""Bounds the memory of activations."""

MAX_PROXIMAL_MILLIONTHS: Final = 1_000_000_000
"""A FedProx factor of 1000."""

MAX_CLIP_NORM_THOUSANDTHS: Final = 1_000_000_000
"""A norm of 1,000,000."""


class OptimizerKind(StrEnum):
    """The local optimizers; the values are part of a task."""

    SGD = "sgd"
    MOMENTUM = "momentum"
    ADAM = "adam"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """The hyperparameters of local training.

    Raises:
        OutOfBounds: If a field is outside its range.
    """

    optimizer: OptimizerKind = OptimizerKind.SGD
    """The rule that turns gradients into steps."""

    learning_rate_millionths: int
    """Learning rate times 1,000,000; 1 to `MAX_LEARNING_RATE_MILLIONTHS`."""

    momentum_thousandths: int = 0
    """Momentum times 1,000, read by `OptimizerKind.MOMENTUM`; 0 to `MAX_MOMENTUM_THOUSANDTHS`."""

    local_epochs: int = 1
    """Passes over the device's examples; 1 to `MAX_LOCAL_EPOCHS`."""

    max_steps: int = 0
    """Ends training early, after so many steps; 0 for no limit but `local_epochs`."""

    batch_size: int
    """Examples a step; 1 to `MAX_BATCH_SIZE`. A device with fewer takes all it has."""

    proximal_millionths: int = 0
    """FedProx factor mu times 1,000,000; 0 is off."""

    clip_norm_thousandths: int = 0
    """Longest gradient of a step, Euclidean norm times 1,000; 0 is off."""

    def __post_init__(self) -> None:
        try:
            OptimizerKind(self.optimizer)
        except ValueError:
            raise OutOfBounds(
                f"optimizer is {self.optimizer!r}, it may be {', '.join(OptimizerKind)}"
            ) from None
        for field, lowest, highest in (
            ("learning_rate_millionths", 1, MAX_LEARNING_RATE_MILLIONTHS),
            ("momentum_thousandths", 0, MAX_MOMENTUM_THOUSANDTHS),
            ("local_epochs", 1, MAX_LOCAL_EPOCHS),
            ("max_steps", 0, MAX_STEPS),
            ("batch_size", 1, MAX_BATCH_SIZE),
            ("proximal_millionths", 0, MAX_PROXIMAL_MILLIONTHS),
            ("clip_norm_thousandths", 0, MAX_CLIP_NORM_THOUSANDTHS),
        ):
            value = getattr(self, field)
            if type(value) is not int or not lowest <= value <= highest:
                raise OutOfBounds(f"{field} is {value!r}, it may be {lowest} to {highest}")

    def num_steps(self, *, num_examples: int) -> int:
        """Return how many steps a device with `num_examples` takes; at most `MAX_STEPS`."""
        steps = self.local_epochs * -(-num_examples // self.batch_size)
        return min(steps, self.max_steps or MAX_STEPS)


def training_plan(training: Training) -> TrainingPlan:
    """Return a task's training as the trainer takes it; a device and a delegate train alike."""
    return TrainingPlan(
        optimizer=OptimizerKind(training.optimizer.value),
        learning_rate_millionths=training.learning_rate_millionths,
        momentum_thousandths=training.momentum_thousandths,
        local_epochs=training.local_epochs,
        max_steps=training.max_steps,
        batch_size=training.batch_size,
        proximal_millionths=training.proximal_millionths,
        clip_norm_thousandths=training.clip_norm_thousandths,
    )
