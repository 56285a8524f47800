"""From a scenario and a seed to everything that a run starts from, the same for both modes."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from headwater_firmware_sim.data.fleet import FleetData, make_fleet_data
from headwater_firmware_sim.economy.deposits import lock_deposit
from headwater_firmware_sim.network import NetworkPlan, plan_network
from headwater_firmware_sim.results import HONEST
from headwater_firmware_sim.scenario.model import Attackers, DeviceClass, Scenario
from headwater_firmware_sim.scenario.rules import count_attackers
from headwater_gateway.worker import ValidationData
from headwater_models.errors import InvalidProgram
from headwater_models.initialization import initial_parameters
from headwater_models.program import Program, list_programs
from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.chain.incentives import Incentives
from headwater_protocol.chain.task import Codec, Task, Training
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.errors import ConfigError, InvalidMessage
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    ChainId,
    Digest,
    NumExamples,
    RoundNumber,
    Score,
    TaskId,
    Units,
    ValidatorId,
)
from headwater_protocol.model.fixed_point import encode_model, from_float32
from headwater_protocol.model.norms import compute_noise_cosine
from headwater_protocol.model.rule import AggregationRule

FRACTION_BITS: Final = 20
START_MS: Final = 1_700_000_000_000
"""Virtual time at which a run starts; the first round opens `warm_up_ms` later."""

MAX_TASK_ID: Final = 32
NEXT_KEYS: Final = (
    "model",
    "optimizer",
    "learning_rate",
    "local_epochs",
    "batch_size",
    "bits",
    "rule",
)
"""Of a next task, that stand for those of the first where they are given."""

BYTES_PER_PARAMETER: Final = 20
"""That training takes: parameters, gradient, delta, optimizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Casting:
    """What one device of the fleet is."""

    device_class: DeviceClass
    attack: Attackers | None
    """None for an honest device."""
    speed: float
    """Factor on its class's `steps_per_s`."""
    offset_ms: int
    """Of its clock at boot."""
    drift_ppm: float
    boots_ms: int
    """From the start of the run."""

    @property
    def attack_name(self) -> str:
        """For results."""
        return HONEST if self.attack is None else self.attack.kind.value


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Material:
    """What a task is trained with."""

    task: Task
    program: Program
    initial_model: bytes
    data: FleetData
    validation: dict[ValidatorId, ValidationData]
    after_ms: int
    """From the end of the task before to its opening."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """A run before it begins."""

    scenario: Scenario
    seed: int
    plan: NetworkPlan
    program: Program
    initial_model: bytes
    data: FleetData
    validation: dict[ValidatorId, ValidationData]
    fleet: tuple[Casting, ...]
    """By device."""
    warm_up_ms: int
    """From the start to the first round, for boot and enrolment."""
    later: tuple[Material, ...] = ()
    """Of the tasks after the first, in the order of their opening."""

    def data_of(self, program: Digest) -> FleetData:
        """The fleet's data as a task's program takes them."""
        for material in self.later:
            if material.task.program == program != self.program.digest:
                return material.data
        return self.data

    def program_of(self, program: Digest) -> Program:
        """A task's program."""
        for material in self.later:
            if material.task.program == program:
                return material.program
        return self.program

    def devices_of(self, shard: ChainId) -> range:
        """Indices of a shard's devices."""
        shards = self.plan.genesis.shards
        return range(shards.index(shard), self.scenario.devices, len(shards))

    def lock_deposits(self) -> list[tuple[ChainId, bytes]]:
        """The main chain's transactions that lock what the scenario asks of each device."""
        units = self.scenario.economy.device_deposit
        if not units:
            return []
        return [
            (MAIN_CHAIN, lock_deposit(self.plan, index, units)) for index in range(len(self.fleet))
        ]


def make_stage(
    scenario: Scenario, *, folder: Path, seed: int | None = None, start_ms: int = START_MS
) -> Stage:
    """Draw keys, data and fleet.

    Args:
        scenario: Checked.
        folder: What its paths are relative to.
        seed: In place of the scenario's.
        start_ms: The clock at the start.

    Raises:
        ConfigError: If the program or the data cannot be used.
    """
    chosen = scenario.seed if seed is None else seed
    program, initial_model = _load_program("task.model", scenario.task.model, folder, seed=chosen)
    later = [
        _prepare(scenario, number, folder=folder, seed=chosen)
        for number in range(len(scenario.next_task))
    ]
    network, economy = scenario.network, scenario.economy
    warm_up_ms = 2_000 + scenario.devices // 10
    if economy.device_deposit:
        # A device is enrolled once its deposit is on the main chain.
        warm_up_ms *= 2
    plan = plan_network(
        name=scenario.name,
        seed=chosen,
        time_ms=start_ms + warm_up_ms,
        num_shards=network.shards,
        delegates_per_shard=network.delegates,
        num_devices=scenario.devices,
        task=make_task(scenario, program, blob_digest(initial_model)),
        parameters=Parameters(
            checkpoint_interval=network.checkpoint_interval,
            checkpoints_per_epoch=1,
            merge_wait_ms=_milliseconds(network.merge_wait_s),
            epoch_timeout_ms=_milliseconds(network.epoch_timeout_s),
            retention_rounds=2,
            clock_drift_ms=5_000,
            incentives=Incentives(
                device_deposit=Units(economy.device_deposit),
                quarantine_strikes=economy.quarantine_strikes,
                quarantine_rounds=economy.quarantine_rounds,
                penalty_thousandths=round(economy.penalty * 1_000),
            ),
            unbonding_blocks=economy.unbonding_blocks,
            jail_blocks=economy.jail_blocks,
            downtime_window_blocks=economy.downtime_window_blocks,
            max_missed_blocks=round(economy.downtime_missed * economy.downtime_window_blocks),
        ),
        later_budget=sum(
            entry.task.round_budget * entry.task.rounds * network.shards for entry in later
        ),
        device_balance=economy.device_deposit,
        num_delegators=economy.delegators,
        delegator_balance=economy.delegator_stake,
    )
    data = make_fleet_data(scenario, program, seed=chosen, folder=folder)
    return Stage(
        scenario=scenario,
        seed=chosen,
        plan=plan,
        program=program,
        initial_model=initial_model,
        data=data,
        validation=_deal_validation(data, plan),
        fleet=_cast(scenario, chosen),
        warm_up_ms=warm_up_ms,
        later=tuple(
            Material(
                task=entry.task,
                program=entry.program,
                initial_model=entry.initial_model,
                data=entry.data,
                validation=_deal_validation(entry.data, plan),
                after_ms=entry.after_ms,
            )
            for entry in later
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Prepared:
    """A later task before there are delegates."""

    task: Task
    program: Program
    initial_model: bytes
    data: FleetData
    after_ms: int


def _prepare(scenario: Scenario, index: int, *, folder: Path, seed: int) -> _Prepared:
    """The task of `scenario.next_task[index]`.

    Raises:
        ConfigError: If its program or the data cannot be used.
    """
    entry, number = scenario.next_task[index], index + 2
    changes = {name: value for name in NEXT_KEYS if (value := getattr(entry, name)) is not None}
    own = replace(
        scenario,
        name=f"{scenario.name[: MAX_TASK_ID - 1 - len(str(number))]}-{number}",
        rounds=entry.rounds,
        task=replace(scenario.task, **changes),
    )
    # A seed of its own, so that a second task with the same program begins anew.
    program, initial_model = _load_program(
        f"next_task[{index + 1}].model", own.task.model, folder, seed=seed + index + 1
    )
    return _Prepared(
        task=make_task(own, program, blob_digest(initial_model)),
        program=program,
        initial_model=initial_model,
        data=make_fleet_data(own, program, seed=seed, folder=folder),
        after_ms=round(entry.after_s * 1_000),
    )


def _deal_validation(data: FleetData, plan: NetworkPlan) -> dict[ValidatorId, ValidationData]:
    delegates = [key for shard in sorted(plan.delegates) for key in plan.delegates[shard]]
    validation: dict[ValidatorId, ValidationData] = {}
    for index, key in enumerate(delegates):
        own = data.validation(index)
        validation[key.validator] = ValidationData(features=own.features, labels=own.labels)
    return validation


def make_task(scenario: Scenario, program: Program, initial_model: Digest) -> Task:
    """The scenario's task in the ledger's units."""
    task = scenario.task
    smallest = scenario.devices // scenario.network.shards
    cohort = max(1, math.ceil(smallest * task.cohort))
    if task.cohort == 1:
        cohort = math.ceil(scenario.devices / scenario.network.shards)
    return Task(
        task=TaskId(scenario.name),
        program=Digest(program.digest),
        tensor_sizes=program.tensor_sizes,
        fraction_bits=FRACTION_BITS,
        initial_model=initial_model,
        training=Training(
            optimizer=task.optimizer,
            learning_rate_millionths=max(1, round(task.learning_rate * 1_000_000)),
            momentum_thousandths=round(task.momentum * 1_000),
            proximal_millionths=round(task.proximal * 1_000_000),
            clip_norm_thousandths=0,
            local_epochs=task.local_epochs,
            max_steps=task.max_steps,
            batch_size=task.batch_size,
        ),
        codec=Codec(bits=task.bits, keep_thousandths=max(1, round(task.keep * 1_000))),
        rule=AggregationRule(
            kind=task.rule,
            clip_ratio_thousandths=round(task.clip_ratio * 1_000),
            trim_thousandths=round(task.trim * 1_000),
            byzantine_thousandths=round(task.byzantine * 1_000),
        ),
        max_examples=NumExamples(task.max_examples),
        score_threshold=Score(round(task.threshold * 10_000)),
        reputation_thousandths=round(task.reputation * 1_000),
        rounds=RoundNumber(scenario.rounds),
        cohort_size=cohort,
        min_updates=max(1, min(smallest, math.floor(cohort * task.min_updates))),
        collect_ms=_milliseconds(task.collect_s),
        score_ms=_milliseconds(task.score_s),
        attest_ms=_milliseconds(task.attest_s),
        round_budget=Units(task.budget),
        delegate_thousandths=round(task.delegate_share * 1_000),
        reward_floor=compute_noise_cosine(program.num_parameters),
    )


def _cast(scenario: Scenario, seed: int) -> tuple[Casting, ...]:
    rng = np.random.default_rng([seed, 6])
    count = scenario.devices
    ends = np.cumsum([entry.share for entry in scenario.fleet]) * count
    order = rng.permutation(count)
    classes = np.minimum(np.searchsorted(ends, order + 0.5), len(scenario.fleet) - 1).tolist()
    attacks: list[Attackers | None] = [None] * count
    hostile = iter(rng.permutation(count).tolist())
    for entry in scenario.attackers:
        for _ in range(count_attackers(entry, count)):
            attacks[next(hostile)] = entry
    speeds = rng.uniform(0.8, 1.2, count).tolist()
    offsets, drifts = rng.uniform(-1, 1, count).tolist(), rng.uniform(-1, 1, count).tolist()
    is_late = (rng.random(count) < scenario.churn.late).tolist()
    boots = rng.uniform(0, 1, count).tolist()
    cast: list[Casting] = []
    for index in range(count):
        kind = scenario.fleet[classes[index]]
        within_s = scenario.churn.late_within_s if is_late[index] else 1.0
        cast.append(
            Casting(
                device_class=kind,
                attack=attacks[index],
                speed=speeds[index],
                offset_ms=round(offsets[index] * kind.clock_offset_s * 1_000),
                drift_ppm=drifts[index] * kind.clock_drift_ppm,
                boots_ms=round(boots[index] * within_s * 1_000),
            )
        )
    return tuple(cast)


def _load_program(key: str, name: str, folder: Path, *, seed: int) -> tuple[Program, bytes]:
    """A program with the model that it begins with."""
    try:
        if name in list_programs():
            program = Program.load(name)
        else:
            program = Program((folder / name).read_bytes())
    except (OSError, InvalidMessage, InvalidProgram) as error:
        raise ConfigError(key, f"{name}: {error}", fix="try headwater-model check on it") from None
    initial = from_float32(initial_parameters(program, seed), fraction_bits=FRACTION_BITS)
    return program, encode_model(initial)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1_000))
