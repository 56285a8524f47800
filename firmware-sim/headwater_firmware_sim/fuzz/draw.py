"""A random scenario from a seed: small, slow devices, and most of what can go wrong."""

import random
from typing import Final

from headwater_firmware_sim.scenario.kinds import (
    AttackKind,
    ByzantineKind,
    FaultKind,
    Placement,
)
from headwater_firmware_sim.scenario.model import (
    Attackers,
    Churn,
    Data,
    Delegates,
    DeviceClass,
    Economy,
    Fault,
    Network,
    Output,
    Scenario,
    Task,
)
from headwater_protocol.model.rule import RuleKind

BYZANTINE: Final = "byzantine"
ATTACKERS: Final = "attackers"
SHARDS: Final = "shards"
CHURN: Final = "churn"
CLOCKS: Final = "clocks"
ECONOMY: Final = "economy"
DRAWN: Final = tuple(kind for kind in FaultKind if kind is not FaultKind.DISCONNECT)
"""Kinds of faults; one more would change what every seed stands for, and a lost broker is a
disconnect of all."""
PARTS: Final = (
    *(kind.value for kind in DRAWN),
    *(BYZANTINE, ATTACKERS, SHARDS, CHURN, CLOCKS, ECONOMY),
)
"""What can be left out to make a failing seed smaller."""

SAFETY_S: Final = 2_400.0
"""Of faults; then there is calm."""


def draw_scenario(seed: int, *, without: frozenset[str] = frozenset()) -> Scenario:
    """The scenario of `seed`; leaving a part out does not change the others."""
    rng = random.Random(seed)  # noqa: S311  # a draw of tests
    faults = [_draw_fault(kind, rng) for kind in DRAWN]
    chosen = tuple(
        fault for fault in faults if rng.random() < 0.5 and fault.kind.value not in without
    )
    num_shards = rng.choice((1, 1, 2))
    num_delegates = rng.choice((1, 3, 4, 4, 4))
    most = (num_delegates - 1) // 3
    byzantine = rng.randint(0, most)
    behaviour = rng.choice(list(ByzantineKind))
    attack = rng.choice(list(AttackKind))
    attackers = rng.randint(0, 2)
    devices, rounds = rng.randint(3, 6), rng.randint(2, 3)
    rule = rng.choice((RuleKind.MEAN, RuleKind.MEDIAN, RuleKind.TRIMMED_MEAN))
    churn = Churn(absent=rng.choice((0.0, 0.2)), late=rng.choice((0.0, 0.3)))
    offset_s, drift_ppm = rng.choice((0.0, 2.0)), rng.choice((0.0, 200.0))
    latency_ms = rng.choice((5, 50, 500))
    steps_per_s = rng.choice((0.002, 0.005, 0.02))
    bits = rng.choice((2, 4, 8))
    interval = rng.choice((1, 1, 2))
    economy = _draw_economy(rng)
    return Scenario(
        name="fuzz",
        seed=seed,
        devices=devices,
        rounds=rounds,
        network=Network(
            shards=1 if SHARDS in without else num_shards,
            delegates=num_delegates,
            gateways=Placement.DELEGATE,
            checkpoint_interval=interval,
        ),
        task=Task(
            collect_s=900.0,
            score_s=60.0,
            attest_s=60.0,
            rule=rule,
            bits=bits,
            max_steps=1,
            min_updates=0.2,
        ),
        data=Data(examples=4, test_examples=10, validation_examples=4),
        fleet=(
            DeviceClass(
                steps_per_s=steps_per_s,
                latency_ms=latency_ms,
                clock_offset_s=0.0 if CLOCKS in without else offset_s,
                clock_drift_ppm=0.0 if CLOCKS in without else drift_ppm,
            ),
        ),
        churn=Churn() if CHURN in without else churn,
        faults=chosen,
        attackers=()
        if ATTACKERS in without or not attackers
        else (Attackers(kind=attack, count=attackers),),
        delegates=Delegates(
            byzantine=0 if BYZANTINE in without else byzantine, behaviour=behaviour
        ),
        economy=Economy() if ECONOMY in without else economy,
        output=Output(device_rounds=False, evaluate=False),
    )


def _draw_economy(rng: random.Random) -> Economy:
    """Deposits, and delegators whose stake leaves even a liar below a third of a committee."""
    deposit = rng.choice((0, 1_000))
    strikes = rng.choice((0, 1, 1, 2))
    penalty = rng.choice((0.25, 1.0))
    return Economy(
        device_deposit=deposit,
        quarantine_strikes=strikes,
        penalty=penalty if strikes else 0.0,
        delegators=rng.randint(0, 2),
        unbonding_blocks=rng.choice((1, 10, 100_000)),
        jail_blocks=rng.choice((1, 1_000)),
    )


def _draw_fault(kind: FaultKind, rng: random.Random) -> Fault:
    rates = {
        FaultKind.LOSS: rng.uniform(0.0, 0.3),
        FaultKind.REPLAY: rng.uniform(0.0, 0.5),
        FaultKind.DUPLICATE: rng.uniform(0.0, 0.3),
        FaultKind.REORDER: rng.uniform(0.0, 0.3),
        FaultKind.TORN_WRITE: rng.uniform(0.0, 0.1),
        FaultKind.WATCHDOG: rng.uniform(0.0, 0.2),
        FaultKind.REBOOT: rng.uniform(0.0, 40.0),
        FaultKind.GATEWAY_CRASH: rng.uniform(0.0, 20.0),
        FaultKind.PARTITION: rng.uniform(0.0, 20.0),
        FaultKind.BROKER_LOSS: rng.uniform(0.0, 10.0),
    }
    return Fault(kind=kind, rate=rates[kind], for_s=rng.uniform(1.0, 60.0))
