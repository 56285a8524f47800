"""Which source of training results the command line asks for."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from headwater_firmware_sim.trainings.comparison import Agreement, ComparedTrainings
from headwater_firmware_sim.trainings.on_ray import train_on_ray
from headwater_firmware_sim.trainings.recording import open_recording, record_trainings
from headwater_firmware_sim.trainings.work import LocalTrainings, Trainings
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingChoice:
    """Options of `headwater-sim run`."""

    ray: str | None = None
    """Address of a cluster."""
    workers: int | None = None
    """Of a local Ray; None takes all processors."""
    record: Path | None = None
    replay: Path | None = None
    checks: bool = False
    """Whether what is replayed is also computed, and compared."""

    def require_consistent(self) -> None:
        """Check that the options go together.

        Raises:
            ConfigError: If they do not.
        """
        if self.replay is not None:
            for option, is_given in (
                ("--ray", self.ray is not None),
                ("--record-training", self.record is not None),
            ):
                if is_given:
                    raise ConfigError(
                        option, "goes with no --replay-training", fix="leave one of them out"
                    )
        if self.checks and self.replay is None:
            raise ConfigError(
                "--check-training", "has nothing to compare", fix="add --replay-training FILE"
            )
        if self.workers is not None and self.ray is None:
            raise ConfigError("--workers", "are those of a Ray", fix="add --ray local")

    @property
    def is_plain(self) -> bool:
        """Whether trainings are simply computed here."""
        return self == TrainingChoice()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedTrainings:
    """A source, and what there is to say about it afterwards."""

    trainings: Trainings | None
    """None computes here."""
    agreement: Agreement | None = None
    recorded_with: str | None = None
    """The runtime of a recording."""


@contextmanager
def open_trainings(choice: TrainingChoice, network: Network) -> Iterator[OpenedTrainings]:
    """The source that `choice` names, for the length of a run; a recording ends with the block.

    Raises:
        ConfigError: If it cannot be used.
    """
    with ExitStack() as stack:
        if choice.replay is not None:
            recording = stack.enter_context(open_recording(choice.replay, network))
            if not choice.checks:
                yield OpenedTrainings(trainings=recording, recorded_with=recording.runtime)
                return
            compared = ComparedTrainings(recording, LocalTrainings())
            yield OpenedTrainings(
                trainings=compared,
                agreement=compared.agreement,
                recorded_with=recording.runtime,
            )
            return
        source: Trainings | None = None
        if choice.ray is not None:
            workers = choice.workers or os.cpu_count() or 1
            source = stack.enter_context(train_on_ray(choice.ray, workers=workers))
        if choice.record is not None:
            source = stack.enter_context(
                record_trainings(choice.record, source or LocalTrainings(), network)
            )
        yield OpenedTrainings(trainings=source)
