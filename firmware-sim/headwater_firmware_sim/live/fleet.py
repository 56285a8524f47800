"""A fleet over a real broker: one trainer on one thread serves all devices."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from headwater_agent.machine.effects import Train
from headwater_agent.machine.inputs import Trained, TrainingFailed
from headwater_firmware_sim.attack import Attack, distort
from headwater_firmware_sim.data.examples import Examples
from headwater_firmware_sim.live.device import LiveDevice
from headwater_models.plan import training_plan
from headwater_models.program import Program
from headwater_models.trainer import Trainer
from headwater_protocol.errors import HeadwaterError, InvalidMessage
from headwater_protocol.identifiers import Digest
from headwater_protocol.reasons import ReasonCode


class SharedTrainer:
    """Trains for every device of a process, one request after the other, off the event loop."""

    def __init__(self) -> None:
        self._trainers: dict[Digest, Trainer] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="training")

    async def train(
        self, request: Train, examples: Examples, attack: Attack
    ) -> Trained | TrainingFailed:
        """What a device with these examples answers to `request`."""
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, self.train_now, request, examples, attack
        )

    def train_now(
        self, request: Train, examples: Examples, attack: Attack
    ) -> Trained | TrainingFailed:
        """As `train`, on this thread."""
        try:
            trainer = self._trainers.get(request.program_digest)
            if trainer is None:
                trainer = Trainer(Program(request.program))
                self._trainers[request.program_digest] = trainer
            result = trainer.train(
                request.parameters,
                examples.features,
                examples.labels,
                training_plan(request.training),
                np.random.default_rng(request.seed),
            )
        except HeadwaterError as error:
            reason = error.reason if isinstance(error, InvalidMessage) else ReasonCode.OUT_OF_BOUNDS
            return TrainingFailed(round=request.round, reason=reason, detail=str(error))
        return Trained(
            round=request.round,
            delta=distort(attack, result.delta),
            num_examples=result.num_examples,
            num_steps=result.num_steps,
            mean_loss=result.mean_loss,
        )

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()


async def run_fleet(devices: Sequence[LiveDevice]) -> None:
    """Run all devices until cancelled."""
    async with asyncio.TaskGroup() as group:
        for device in devices:
            group.create_task(device.run())
