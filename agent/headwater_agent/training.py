"""Runs `Train` effects with the TFLite trainer: one thread, one request at work, one waiting.

Training takes seconds to minutes, so it must not hold up the connection. A round that is newer than
the waiting one replaces it. Nothing that goes wrong in a run stops the device: it is reported with
a reason code, and the next round is tried afresh.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from headwater_agent.errors import UnsoundProgram, WrongDigest
from headwater_agent.machine.effects import Train
from headwater_agent.machine.inputs import Trained, TrainingFailed
from headwater_models.dataset import Dataset
from headwater_models.errors import InvalidProgram
from headwater_models.normalisation import normalise
from headwater_models.plan import training_plan
from headwater_protocol.errors import HeadwaterError, InvalidMessage, OutOfBounds
from headwater_protocol.reasons import ReasonCode

STOP_TIMEOUT_S: Final = 2.0
"""How long a stopping process waits for a run; the run is lost, and trained again next time."""

FIX_PROGRAM: Final = "tell the task's sponsor; headwater-model check says what is wrong with it"

Deliver = Callable[[Trained | TrainingFailed], None]


class TrainsPrograms(Protocol):
    """What runs a request; a test or another runtime may stand in."""

    def run(self, request: Train) -> Trained | TrainingFailed:
        """Train once; report what went wrong instead of raising it."""
        ...


class GivesExamples(Protocol):
    """Where examples come from, such as an `ExampleSource`."""

    def dataset(self) -> Dataset:
        """What there is to train on now.

        Raises:
            InvalidMessage: If there is nothing; says why.
        """
        ...


class LocalTraining:
    """Trains on the examples of this device, and keeps the interpreter of the last program.

    Args:
        examples: Fixed ones, or a source that is asked before each training.
        num_threads: Of the runtime.
        trial: Called with a program before this process runs it for the first time; raises
            `InvalidMessage` for one that must not run here. None trusts every program.
        monotonic_s: A clock for the time that training takes.
    """

    def __init__(
        self,
        examples: Dataset | GivesExamples,
        *,
        num_threads: int = 1,
        trial: Callable[[bytes], None] | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        # Imported here, because the runtime is an extra and takes memory.
        from headwater_models.trainer import Trainer  # noqa: PLC0415

        self._examples = examples
        self._num_threads = num_threads
        self._trial = trial
        self._monotonic_s = monotonic_s
        self._make_trainer = Trainer
        self._trainer: Trainer | None = None

    def run(self, request: Train) -> Trained | TrainingFailed:
        """Train once on the dataset.

        Everything that can be wrong with a program, a base, a plan or the data comes back as
        `TrainingFailed`: a failed run must not stop the device.
        """
        try:
            return self._run(request)
        except (InvalidProgram, UnsoundProgram, WrongDigest) as error:
            reason = error.reason
            detail = f"the program cannot be used: {error}; {FIX_PROGRAM}"
        except InvalidMessage as error:
            reason, detail = error.reason, str(error)
        except HeadwaterError as error:
            reason, detail = ReasonCode.OUT_OF_BOUNDS, str(error)
        except (MemoryError, OSError, RuntimeError, ValueError) as error:
            reason, detail = ReasonCode.UNAVAILABLE, f"{type(error).__name__}: {error}"
        return TrainingFailed(round=request.round, reason=reason, detail=detail)

    def _run(self, request: Train) -> Trained:
        from headwater_models.program import Program  # noqa: PLC0415

        if self._trainer is None or self._trainer.program.digest != request.program_digest:
            # Two interpreters at once could be too much for a small device.
            self._trainer = None
            program = Program(request.program)
            if program.digest != request.program_digest:
                raise WrongDigest("the program is another one than the task's")
            if self._trial is not None:
                self._trial(request.program)
            self._trainer = self._make_trainer(program, num_threads=self._num_threads)
        program = self._trainer.program
        if program.tensor_sizes != request.tensor_sizes:
            raise OutOfBounds(
                f"the program has {program.num_parameters} parameters in "
                f"{len(program.tensor_sizes)} tensors, the task says "
                f"{sum(request.tensor_sizes)} in {len(request.tensor_sizes)}; tell its sponsor"
            )
        _require_finite(request.parameters)
        examples = self._examples
        dataset = examples if isinstance(examples, Dataset) else examples.dataset()
        features = normalise(dataset.reshaped(program.input_shape), request.normalisation)
        start_s = self._monotonic_s()
        limit_s = math.inf if request.time_limit_ms is None else request.time_limit_ms / 1_000
        result = self._trainer.train(
            request.parameters,
            features,
            dataset.labels,
            training_plan(request.training),
            np.random.Generator(np.random.PCG64(request.seed)),
            may_go_on=lambda: self._monotonic_s() - start_s < limit_s,
        )
        duration_ms = round((self._monotonic_s() - start_s) * 1_000)
        if not math.isfinite(result.mean_loss):
            raise OutOfBounds(f"the loss became {result.mean_loss}; the training diverged")
        return Trained(
            round=request.round,
            delta=result.delta,
            num_examples=count_work(
                result.num_examples, steps=result.num_steps, planned=result.planned_steps
            ),
            num_steps=result.num_steps,
            mean_loss=result.mean_loss,
            duration_ms=max(1, duration_ms),
            has_finished=result.num_steps == result.planned_steps,
        )


class TrainingWorker:
    """One thread in front of a trainer.

    Args:
        training: Runs the requests, always in the worker's thread.
        deliver: Called in that thread with each outcome.
    """

    def __init__(self, training: TrainsPrograms, *, deliver: Deliver) -> None:
        self._training = training
        self._deliver = deliver
        self._condition = threading.Condition()
        self._waiting: Train | None = None
        self._is_stopping = False
        self._began_s: float | None = None
        self._thread = threading.Thread(target=self._work, name="training", daemon=True)
        self._thread.start()

    def submit(self, request: Train) -> None:
        """Run `request` when the current one is done; a waiting one is replaced."""
        with self._condition:
            self._waiting = request
            self._condition.notify()

    @property
    def busy_s(self) -> float:
        """Since when the request at work is at work, in seconds; 0 if there is none."""
        began_s = self._began_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    def stop(self) -> None:
        """End the thread; a run that does not end in time is left to the process's end."""
        with self._condition:
            self._is_stopping = True
            self._condition.notify()
        self._thread.join(STOP_TIMEOUT_S)

    def _work(self) -> None:
        while True:
            with self._condition:
                while self._waiting is None and not self._is_stopping:
                    self._condition.wait()
                if self._is_stopping:
                    return
                request, self._waiting = self._waiting, None
            if request is not None:
                self._began_s = time.monotonic()
                try:
                    outcome = self._training.run(request)
                finally:
                    self._began_s = None
                self._deliver(outcome)


def count_work(num_examples: int, *, steps: int, planned: int) -> int:
    """The examples that a training counts for: in proportion to its steps, rounded up.

    So a device that had time for half of the steps has half of the weight in the mean and, at the
    same score, half of the reward.
    """
    return -(-num_examples * steps // planned)


def _require_finite(parameters: NDArray[np.float32]) -> None:
    if not bool(np.isfinite(parameters).all()):
        raise OutOfBounds("the base holds NaN or infinity")
