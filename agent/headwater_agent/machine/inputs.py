"""What a shell tells a device."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headwater_protocol.identifiers import RoundNumber
from headwater_protocol.reasons import ReasonCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Connecting:
    """The shell is about to connect; the device answers with `OpenConnection`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The broker took the connection."""

    session: int
    """Of the `OpenConnection` that it came from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """The connection is gone, whoever closed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """The process is about to end; the device says so on its status topic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A message from the broker, wholly untrusted."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """What a `Train` effect led to."""

    round: RoundNumber
    """Of the request."""
    delta: NDArray[np.float32]
    """Shape (num_parameters,): the trained parameters minus the base."""
    num_examples: int
    """That the device holds and trained on, at least 1."""
    num_steps: int = 0
    """Optimizer steps, for the log."""
    mean_loss: float = 0.0
    """Over the steps, for the log."""
    duration_ms: int = 0
    """That the steps took; 0 where nobody measured it."""
    has_finished: bool = True
    """Whether all of the task's steps were taken; `num_examples` is less in proportion if not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFailed:
    """A `Train` effect came to nothing."""

    round: RoundNumber
    """Of the request."""
    reason: ReasonCode
    detail: str
    """One line for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """The answer to `AskPermission`: whether the machine that the device is a guest of lets it."""

    may_train: bool
    reason: str
    """A word for status; `ok` if it may."""
    detail: str
    """One line for people."""
    look_again_ms: int
    """When to ask again, on the device's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSet:
    """The shell's clock was set: what it says jumped, and no time passed."""

    shift_ms: int
    """Forward or, negative, backward."""


Input = (
    Connecting
    | Connected
    | Disconnected
    | Stopping
    | Arrived
    | Trained
    | TrainingFailed
    | Permission
    | ClockSet
)
