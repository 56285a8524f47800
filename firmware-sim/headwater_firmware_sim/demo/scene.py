"""The demo's cast: digits split over devices and delegates, the task, keys and genesis."""

import time
from dataclasses import dataclass

import numpy as np

from headwater_firmware_sim.attack import Attack
from headwater_firmware_sim.data.digits import load_digits
from headwater_firmware_sim.data.examples import Examples
from headwater_firmware_sim.data.partition import split_dirichlet
from headwater_firmware_sim.demo.options import DemoOptions
from headwater_firmware_sim.economy.deposits import lock_deposit
from headwater_firmware_sim.network import NetworkPlan, plan_network
from headwater_gateway.worker import ValidationData
from headwater_models.initialization import initial_parameters
from headwater_models.program import Program
from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.chain.incentives import Incentives
from headwater_protocol.chain.task import Codec, OptimizerKind, Task, Training
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import (
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
from headwater_protocol.model.rule import AggregationRule, RuleKind

PROGRAM = "mlp-64-32-10"
FRACTION_BITS = 20
TEST_SHARE = 0.2
"""Of all digits, held out from devices and delegates."""
DEVICE_BALANCE = 5_000
"""Units of each device at the start."""
DEPOSIT = 2_000
"""Of these, what it locks."""
VALIDATION_EXAMPLES = 30
"""Of each delegate, its own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """Everything that the run starts from."""

    plan: NetworkPlan
    program: Program
    initial_model: bytes
    test: Examples
    validation: dict[ValidatorId, ValidationData]
    devices: tuple[Examples, ...]
    """By device."""
    attacks: tuple[Attack, ...]
    """By device."""
    traitors: tuple[SecretKey, ...]
    """Delegates that cheat."""
    absences: tuple[tuple[tuple[RoundNumber, float], ...], ...]
    """By device, the rounds that it misses and for how many seconds it is away."""

    def lock_deposits(self) -> list[bytes]:
        """Each device's transaction that locks its deposit."""
        plan = self.plan
        return [lock_deposit(plan, index, DEPOSIT) for index in range(len(plan.devices))]


def make_task(options: DemoOptions, program: Program, initial_model: Digest) -> Task:
    """The demo's task."""
    return Task(
        task=TaskId("digits"),
        program=Digest(program.digest),
        tensor_sizes=program.tensor_sizes,
        fraction_bits=FRACTION_BITS,
        initial_model=initial_model,
        training=Training(
            optimizer=OptimizerKind.ADAM,
            learning_rate_millionths=20_000,
            momentum_thousandths=0,
            proximal_millionths=0,
            clip_norm_thousandths=0,
            local_epochs=10,
            max_steps=1_000,
            batch_size=8,
        ),
        codec=Codec(bits=options.bits, keep_thousandths=1_000),
        rule=AggregationRule(kind=RuleKind.MEAN, clip_ratio_thousandths=2_000),
        max_examples=NumExamples(1_000),
        score_threshold=Score(0),
        reputation_thousandths=500,
        rounds=options.rounds,
        cohort_size=options.devices,
        min_updates=max(1, options.devices // options.shards // 3),
        collect_ms=options.collect_ms,
        score_ms=10_000,
        attest_ms=10_000,
        round_budget=Units(10_000),
        delegate_thousandths=100,
        reward_floor=compute_noise_cosine(program.num_parameters),
    )


def make_scene(options: DemoOptions) -> Scene:
    """Draw the scene of a seed; the clock alone is not drawn from it."""
    rng = np.random.default_rng(options.seed)
    digits = load_digits()
    order = rng.permutation(len(digits))
    num_test = int(len(digits) * TEST_SHARE)
    num_validation = VALIDATION_EXAMPLES * options.delegates * options.shards
    test = digits.take(order[:num_test])
    validation = digits.take(order[num_test : num_test + num_validation])
    training = digits.take(order[num_test + num_validation :])
    program = Program.load(PROGRAM)
    initial = from_float32(initial_parameters(program, options.seed), fraction_bits=FRACTION_BITS)
    initial_model = encode_model(initial)
    plan = plan_network(
        name="demo",
        seed=options.seed,
        time_ms=time.time_ns() // 1_000_000,
        num_shards=options.shards,
        delegates_per_shard=options.delegates,
        num_devices=options.devices,
        task=make_task(options, program, blob_digest(initial_model)),
        parameters=Parameters(
            checkpoint_interval=options.checkpoint_interval,
            checkpoints_per_epoch=1,
            merge_wait_ms=5_000,
            epoch_timeout_ms=60_000,
            retention_rounds=4,
            clock_drift_ms=5_000,
            incentives=Incentives(
                device_deposit=Units(DEPOSIT),
                quarantine_strikes=3,
                quarantine_rounds=4,
                penalty_thousandths=250,
            ),
        ),
        device_balance=DEVICE_BALANCE,
    )
    delegates = [key for shard in sorted(plan.delegates) for key in plan.delegates[shard]]
    parts = split_dirichlet(
        training.labels,
        num_devices=options.devices,
        alpha=options.alpha_thousandths / 1_000,
        rng=rng,
    )
    hostile = set(rng.permutation(options.devices)[: options.attackers].tolist())
    return Scene(
        plan=plan,
        program=program,
        initial_model=initial_model,
        test=test,
        validation={
            key.validator: _own_share(validation, index) for index, key in enumerate(delegates)
        },
        devices=tuple(training.take(part) for part in parts),
        attacks=tuple(
            Attack.SIGN_FLIP if index in hostile else Attack.NONE
            for index in range(options.devices)
        ),
        traitors=tuple(
            key
            for shard in sorted(plan.delegates)
            for key in plan.delegates[shard][options.delegates - options.byzantine_delegates :]
        ),
        absences=tuple(
            tuple(
                (RoundNumber(number), options.collect_ms / 1_000)
                for number in range(1, options.rounds + 1)
                if rng.random() * 1_000 < options.absent_thousandths
            )
            for _ in range(options.devices)
        ),
    )


def _own_share(validation: Examples, index: int) -> ValidationData:
    start = index * VALIDATION_EXAMPLES
    own = slice(start, start + VALIDATION_EXAMPLES)
    return ValidationData(features=validation.features[own], labels=validation.labels[own])
