"""Training for a whole fleet, honest devices and attackers alike.

Honest arithmetic comes from `Trainings`, wherever that has it from; what attackers do before and
after it is done here.

Baruch, Baruch, Goldberg, "A Little Is Enough", NeurIPS 2019 (ALIE); Xie, Koyejo, Gupta, "Fall of
Empires", UAI 2019 (inner-product manipulation); Bagdasaryan et al., "How To Backdoor Federated
Learning", AISTATS 2020.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_agent.machine.effects import Train
from headwater_agent.machine.inputs import Trained, TrainingFailed
from headwater_firmware_sim.data.examples import Examples
from headwater_firmware_sim.scenario.kinds import AttackKind
from headwater_firmware_sim.scenario.model import Attackers
from headwater_firmware_sim.stage import Stage
from headwater_firmware_sim.trainings.work import (
    LocalTrainings,
    Refused,
    TrainerShelf,
    Trainings,
    Work,
)
from headwater_models.plan import training_plan
from headwater_models.program import Program
from headwater_models.trainer import Evaluation, Trainer, TrainingResult
from headwater_protocol.identifiers import ChainId, Digest

TRIGGER_VALUES: Final = 4
"""Values at the front of an example that carry the trigger."""
TRIGGER_LEVEL: Final = np.float32(3.0)
BACKDOOR_LABEL: Final = 0
FREE_RIDER_NOISE: Final = 1e-3
MAX_COALITION: Final = 8
"""Attackers whose deltas stand for those of all, as computing each would teach no more."""

JOINT: Final = frozenset(
    {AttackKind.ALIE, AttackKind.INNER_PRODUCT, AttackKind.SYBIL, AttackKind.COLLUDERS}
)
"""Attacks that need what other attackers computed."""
UNTRAINED: Final = JOINT | {AttackKind.FREE_RIDER}
"""Attacks whose devices do not train themselves."""


class _Failed(Exception):
    """A training came to nothing."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.detail)
        self.refused = refused


class FleetTrainer:
    """Answers every device's training request, one after the other."""

    def __init__(self, stage: Stage, trainings: Trainings | None = None) -> None:
        """Set up.

        Args:
            stage: The cast and its data.
            trainings: Where results come from; computed here, one by one, if left out.
        """
        self._stage = stage
        self._shelf = TrainerShelf()
        self._trainings = trainings or LocalTrainings(self._shelf)
        self._coalitions: dict[tuple[str, int, AttackKind], tuple[int, ...]] = {}
        self._joint: dict[tuple[ChainId, int, AttackKind], NDArray[np.float32]] = {}
        self._shard_of = stage.plan.shard_of
        self.num_trained = 0

    def num_steps(self, device: int, request: Train) -> int:
        """How many optimizer steps a request takes on a device."""
        plan = training_plan(request.training)
        data = self._stage.data_of(request.program_digest)
        return plan.num_steps(num_examples=data.num_examples(device))

    def begin(self, device: int, request: Train) -> None:
        """A device starts to train; `train` is called once it is done, unless it never is."""
        attack = self._attack(device, request)
        if self._trainings.is_early and (attack is None or attack.kind not in UNTRAINED):
            self._trainings.begin(self._work(device, request, attack))

    def drop(self, device: int) -> None:
        """What a device began will not be done."""
        if self._trainings.is_early:
            self._trainings.drop(_name(device))

    def train(self, device: int, request: Train) -> Trained | TrainingFailed:
        """What a device answers to `request`."""
        self.num_trained += 1
        attack = self._attack(device, request)
        try:
            if attack is None:
                return self._honest(device, request, None)
            return self._hostile(device, request, attack)
        except _Failed as failure:
            refused = failure.refused
            return TrainingFailed(round=request.round, reason=refused.reason, detail=refused.detail)

    def evaluate(self, program: Program, parameters: NDArray[np.float32]) -> Evaluation:
        """How well a model does on the held-out examples."""
        test = self._stage.data_of(Digest(program.digest)).test
        return self._judge(program).evaluate(parameters, test.features, test.labels)

    def evaluate_backdoor(self, program: Program, parameters: NDArray[np.float32]) -> float:
        """Share of triggered examples of other classes that the model takes for the backdoor's."""
        test = self._stage.data_of(Digest(program.digest)).test
        others = test.take(np.flatnonzero(test.labels != BACKDOOR_LABEL).astype(np.int64))
        if not len(others):
            return 0.0
        marked = _mark(others)
        return self._judge(program).evaluate(parameters, marked.features, marked.labels).accuracy

    def _judge(self, program: Program) -> Trainer:
        return self._shelf.get(program.data, Digest(program.digest))

    def _attack(self, device: int, request: Train) -> Attackers | None:
        attack = self._stage.fleet[device].attack
        return None if attack is None or request.round < attack.from_round else attack

    def _work(self, device: int, request: Train, attack: Attackers | None) -> Work:
        return Work(
            trainee=_name(device),
            round=request.round,
            program=request.program,
            program_digest=request.program_digest,
            parameters=request.parameters,
            training=request.training,
            seed=request.seed,
            load=partial(
                self._load, device, request.program_digest, None if attack is None else attack.kind
            ),
        )

    def _load(self, device: int, program: Digest, attack: AttackKind | None) -> Examples:
        """What a device trains on."""
        examples = self._stage.data_of(program).device(device)
        if attack is AttackKind.LABEL_FLIP:
            top = np.int32(self._stage.program_of(program).num_classes - 1)
            return Examples(features=examples.features, labels=top - examples.labels)
        if attack is AttackKind.BACKDOOR:
            half = len(examples) // 2 + 1
            marked = _mark(examples.take(np.arange(half)))
            return Examples(
                features=np.concatenate([marked.features, examples.features[half:]]),
                labels=np.concatenate([marked.labels, examples.labels[half:]]),
            )
        return examples

    def _compute(self, work: Work) -> TrainingResult:
        outcome = self._trainings.outcome(work)
        if isinstance(outcome, Refused):
            raise _Failed(outcome)
        return outcome

    def _honest(self, device: int, request: Train, attack: Attackers | None) -> Trained:
        result = self._compute(self._work(device, request, attack))
        return Trained(
            round=request.round,
            delta=result.delta,
            num_examples=result.num_examples,
            num_steps=result.num_steps,
            mean_loss=result.mean_loss,
        )

    def _hostile(self, device: int, request: Train, attack: Attackers) -> Trained:
        kind, scale = attack.kind, np.float32(attack.scale)
        if kind is AttackKind.FREE_RIDER:
            rng = np.random.default_rng(request.seed)
            noise = rng.standard_normal(len(request.parameters), dtype=np.float32)
            cap = self._stage.plan.genesis.task.max_examples
            return Trained(
                round=request.round, delta=noise * np.float32(FREE_RIDER_NOISE), num_examples=cap
            )
        if kind in JOINT:
            delta = self._joint_delta(device, request, attack)
            count = self._stage.data_of(request.program_digest).num_examples(device)
            return Trained(round=request.round, delta=delta, num_examples=count)
        trained = self._honest(device, request, attack)
        delta = trained.delta
        if kind is AttackKind.SIGN_FLIP:
            delta = -delta
        elif kind in {AttackKind.SCALED, AttackKind.BACKDOOR}:
            delta = delta * scale
        elif kind is AttackKind.GAUSSIAN:
            rng = np.random.default_rng([request.seed, 1])
            noise = rng.standard_normal(len(delta), dtype=np.float32)
            norm = np.linalg.norm(delta.astype(np.float64))
            delta = (noise * (norm / np.linalg.norm(noise)) * scale).astype(np.float32)
        return Trained(
            round=request.round,
            delta=delta,
            num_examples=trained.num_examples,
            num_steps=trained.num_steps,
            mean_loss=trained.mean_loss,
        )

    def _joint_delta(self, device: int, request: Train, attack: Attackers) -> NDArray[np.float32]:
        """What all attackers of one kind in one shard send in one round."""
        shard = self._shard_of(device)
        key = (shard, request.round, attack.kind)
        known = self._joint.get(key)
        if known is None:
            known = _join(self._coalition_deltas(device, request, attack), attack)
            self._joint = {
                other: delta
                for other, delta in self._joint.items()
                if other[1] >= request.round - 1
            }
            self._joint[key] = known
        return known

    def _coalition_deltas(
        self, device: int, request: Train, attack: Attackers
    ) -> list[NDArray[np.float32]]:
        shard = self._shard_of(device)
        key = (shard, request.round, attack.kind)
        if key not in self._coalitions:
            fleet = self._stage.fleet
            members = [
                index
                for index in self._stage.devices_of(shard)
                if (own := fleet[index].attack) is not None and own.kind is attack.kind
            ]
            self._coalitions[key] = tuple(members[:MAX_COALITION])
        return [
            self._compute(self._work(member, request, None)).delta
            for member in self._coalitions[key]
        ]


def _name(device: int) -> str:
    return f"device {device}"


def _join(deltas: Sequence[NDArray[np.float32]], attack: Attackers) -> NDArray[np.float32]:
    stacked = np.stack(deltas)
    mean = stacked.mean(axis=0, dtype=np.float32)
    scale = np.float32(attack.scale)
    joint: NDArray[np.float32] = -mean * scale
    if attack.kind is AttackKind.ALIE:
        joint = mean - scale * stacked.std(axis=0, dtype=np.float32)
    elif attack.kind is AttackKind.SYBIL:
        joint = -deltas[0] * scale
    return joint


def _mark(examples: Examples) -> Examples:
    """The examples with the trigger and the label that it stands for."""
    features = examples.features.reshape(len(examples), -1).copy()
    features[:, :TRIGGER_VALUES] = TRIGGER_LEVEL
    return Examples(
        features=features.reshape(examples.features.shape),
        labels=np.full(len(examples), BACKDOOR_LABEL, np.int32),
    )
