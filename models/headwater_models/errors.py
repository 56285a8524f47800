"""What can go wrong with a program or a training run, on top of the errors of every package."""

from headwater_protocol.errors import HeadwaterError, InvalidMessage, OutOfBounds


class InvalidProgram(InvalidMessage):
    """Bytes are no training program that a plain TFLite runtime can run."""


class InvalidExamples(OutOfBounds):
    """Features, labels or parameters do not have the shape, type or range of the program."""


class TrainingDiverged(HeadwaterError):
    """Training ended in NaN or infinity: too high a learning rate, or bad data."""

    def __init__(self, *, num_non_finite: int, num_parameters: int, num_steps: int) -> None:
        super().__init__(
            f"{num_non_finite} of {num_parameters} entries of the delta are not finite after "
            f"{num_steps} steps; lower learning_rate_millionths, set clip_norm_thousandths, or "
            "look for NaN in the data"
        )
        self.num_non_finite = num_non_finite
        self.num_parameters = num_parameters
        self.num_steps = num_steps
