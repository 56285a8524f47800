"""One training as a value: all that a trainer needs, and what came of it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headwater_firmware_sim.data.examples import Examples
from headwater_models.plan import training_plan
from headwater_models.program import Program
from headwater_models.trainer import Trainer, TrainingResult
from headwater_protocol.chain.task import Training
from headwater_protocol.errors import HeadwaterError, InvalidMessage
from headwater_protocol.identifiers import Digest
from headwater_protocol.reasons import ReasonCode

Seed = int | tuple[int, ...]
"""Of the generator that orders the examples."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Work:
    """A training that somebody wants done."""

    trainee: str
    """Whose examples: `device 17`, `delegate 3fa9...`; it has one training at a time."""
    round: int
    program: bytes
    program_digest: Digest
    parameters: NDArray[np.float32]
    """The base, shape (num_parameters,); shared by all who start from it."""
    training: Training
    seed: Seed
    load: Callable[[], Examples]
    """The examples, which are made or read only if they are needed here."""

    @property
    def base(self) -> bytes:
        """SHA-256 of the program's digest and the base."""
        values = self.parameters.astype("<f4", copy=False)
        return hashlib.sha256(self.program_digest + values.tobytes()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A training that cannot be done: data that do not fit, or a model that diverged."""

    reason: ReasonCode
    detail: str
    """One line."""


Outcome = TrainingResult | Refused


class Trainings(Protocol):
    """Answers trainings; a run asks for each outcome when its virtual time has come."""

    is_early: bool
    """Whether it helps to say what will be asked for."""

    def begin(self, work: Work) -> None:
        """`work` will be asked for, unless it is dropped; a trainee's newest work counts."""

    def outcome(self, work: Work) -> Outcome:
        """What came of `work`."""
        ...

    def drop(self, trainee: str) -> None:
        """Nobody will ask for what was begun for `trainee`."""


@dataclass(frozen=True, slots=True)
class TrainerShelf:
    """The trainers of this process, one a program."""

    trainers: dict[Digest, Trainer] = field(default_factory=dict)

    def get(self, program: bytes, digest: Digest) -> Trainer:
        """The trainer of the program with this digest.

        Raises:
            InvalidProgram: If it is none.
        """
        known = self.trainers.get(digest)
        if known is None:
            known = self.trainers[digest] = Trainer(Program(program))
        return known


def train(shelf: TrainerShelf, work: Work, examples: Examples) -> Outcome:
    """Do `work` here and now; the same arguments give the same bits on the same runtime."""
    try:
        return shelf.get(work.program, work.program_digest).train(
            work.parameters,
            examples.features,
            examples.labels,
            training_plan(work.training),
            np.random.default_rng(work.seed),
        )
    except HeadwaterError as error:
        reason = error.reason if isinstance(error, InvalidMessage) else ReasonCode.OUT_OF_BOUNDS
        return Refused(reason=reason, detail=str(error))


class LocalTrainings:
    """Every training in this process, when it is asked for."""

    is_early = False

    def __init__(self, shelf: TrainerShelf | None = None) -> None:
        self._shelf = shelf or TrainerShelf()

    def begin(self, work: Work) -> None:
        """Nothing is done ahead of time."""

    def outcome(self, work: Work) -> Outcome:
        """Train."""
        return train(self._shelf, work, work.load())

    def drop(self, trainee: str) -> None:
        """Nothing was begun."""
