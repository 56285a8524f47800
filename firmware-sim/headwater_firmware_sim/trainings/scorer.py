"""Delegates' scoring with references that come from `Trainings`, as devices' deltas do."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_firmware_sim.data.examples import Examples
from headwater_firmware_sim.stage import Material
from headwater_firmware_sim.trainings.work import Refused, Trainings, Work
from headwater_gateway.machine.effects import ScoreBatch
from headwater_gateway.worker import (
    DecodeUpdate,
    Scorer,
    Unscorable,
    ValidationData,
    reference_seed,
)
from headwater_protocol.identifiers import ValidatorId
from headwater_shard.blobs import Blobs

NAME_BYTES: Final = 8
"""Of a delegate's key, in the name of its trainings."""


class FleetScorer(Scorer):
    """A gateway's scorer whose references may come from elsewhere."""

    def __init__(
        self,
        *,
        blobs: Blobs,
        data: Mapping[ValidatorId, ValidationData],
        later: Sequence[Material],
        decode: DecodeUpdate,
        trainings: Trainings | None,
    ) -> None:
        """Set up.

        Args:
            blobs: Of the gateways.
            data: Of the delegates, as the first task's program takes it.
            later: Of the tasks after it.
            decode: As a gateway's.
            trainings: Where references come from.
        """
        super().__init__(blobs=blobs, data=data, decode=decode)
        self._programs = blobs
        self._later = {material.task.task: material.validation for material in later}
        self._trainings = trainings

    def train_reference(
        self, work: ScoreBatch, base: NDArray[np.float32], data: ValidationData
    ) -> NDArray[np.float32]:
        """As a gateway's; errors as there."""
        data = self._later.get(work.task.task, {}).get(work.validator, data)
        if self._trainings is None:
            return super().train_reference(work, base, data)
        outcome = self._trainings.outcome(
            Work(
                trainee=f"delegate {work.validator[:NAME_BYTES].hex()}",
                round=work.round,
                program=self._programs.get(work.task.program),
                program_digest=work.task.program,
                parameters=base,
                training=work.task.training,
                seed=reference_seed(work),
                load=lambda: Examples(features=data.features, labels=data.labels),
            )
        )
        if isinstance(outcome, Refused):
            raise Unscorable(outcome.detail)
        return outcome.delta
