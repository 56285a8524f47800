"""What a device asks its shell to do, in order: a `Persist` is durable before the next starts."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from headwater_agent.state import Changes
from headwater_protocol.chain.task import Normalisation, Training
from headwater_protocol.identifiers import Digest, RoundNumber
from headwater_protocol.reasons import ReasonCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Persist:
    """Make `changes` durable, all or none, before the next effect."""

    changes: Changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Send a message."""

    topic: str
    payload: bytes
    qos: int
    is_retained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenConnection:
    """Connect with this will, and report `Connected` with the same session."""

    session: int
    will: Publish


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    """Listen to these topic filters at QoS 1; retained messages are wanted anew."""

    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsubscribe:
    """Stop listening to these topic filters."""

    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Train:
    """Train once; a request that waits is replaced by a newer one."""

    round: RoundNumber
    program_digest: Digest
    """SHA-256 of `program`, verified."""
    program: bytes
    """The `.tflite` file."""
    tensor_sizes: tuple[int, ...]
    """What the task says of the program, to be compared with what the program says."""
    parameters: NDArray[np.float32]
    """The base, shape (sum of `tensor_sizes`,)."""
    training: Training
    """The task's plan."""
    seed: int
    """For the order of the examples, 0 to 2**63 - 1; a function of the device's entropy and the
    round, so a retry after a crash trains the same."""
    normalisation: Normalisation | None = None
    """Of the task, for the features."""
    time_limit_ms: int | None = None
    """After which no further step begins; the steps that were taken count. None for no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskPermission:
    """Find out whether the device may train now, and answer with `Permission`."""

    round: RoundNumber
    needed_bytes: int
    """Of memory, for the training."""


class Event(StrEnum):
    """What there is to tell people."""

    SKIPPED = "skipped"
    WAITING = "waiting"
    DECLINED = "declined"
    FETCHING = "fetching"
    TRAINING = "training"
    ABANDONED = "abandoned"
    SIGNED = "signed"
    HELD = "held"
    REFUSED = "refused"
    VERDICT = "verdict"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something worth a line in a log."""

    event: Event
    round: int
    reason: ReasonCode
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """An input was refused.

    Emitted for the 1st, 2nd, 4th, 8th and so on of a reason, so that a flood fills no log; the
    counters count all.
    """

    reason: ReasonCode
    count: int
    detail: str


Effect = (
    Persist
    | Publish
    | OpenConnection
    | Subscribe
    | Unsubscribe
    | AskPermission
    | Train
    | Notice
    | Rejected
)
