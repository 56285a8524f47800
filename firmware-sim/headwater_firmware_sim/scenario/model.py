"""The sections of a scenario, each a frozen dataclass; `docs/scenarios.md` is written from here.

Users write shares, seconds and rates as they think of them; what reaches a ledger is converted to
integers in `headwater_firmware_sim.stage`.
"""

from dataclasses import dataclass, field
from typing import Annotated

from headwater_firmware_sim.scenario.bounds import SHARE, Between
from headwater_firmware_sim.scenario.kinds import (
    AttackKind,
    ByzantineKind,
    FaultKind,
    PartitionKind,
    Placement,
    SourceKind,
)
from headwater_protocol.chain.task import OptimizerKind
from headwater_protocol.model.rule import RuleKind

MAX_DEVICES: int = 1_000_000
MAX_CLASSES: int = 64
"""Of devices, of attackers, of faults: entries of one list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The fixed side: shards, their delegates, and the wires between gateways."""

    shards: Annotated[int, Between(1, 64)] = 2
    delegates: Annotated[int, Between(1, 32)] = 4
    """Of each shard; all of them together are the main chain's."""
    gateways: Placement = Placement.SHARD
    """Processes that host the delegates."""
    checkpoint_interval: Annotated[int, Between(1, 1_000)] = 1
    """Rounds from one checkpoint to the next; each ends an epoch with a merge."""
    link_ms: Annotated[int, Between(0, 60_000)] = 5
    """Between two gateways, one way; the half again is added at random."""
    merge_wait_s: Annotated[float, Between(0.001, 86_400)] = 5.0
    """How long a shard holds its next round back for a merge."""
    epoch_timeout_s: Annotated[float, Between(0.001, 86_400)] = 120.0
    """How long the main chain waits for the slower shards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is trained, how updates are written, judged, aggregated and paid."""

    model: str = "mlp-64-32-10"
    """A shipped program's name, or a path to a `.tflite` file, relative to the scenario."""
    optimizer: OptimizerKind = OptimizerKind.ADAM
    learning_rate: Annotated[float, Between(0.000001, 1_000)] = 0.02
    momentum: Annotated[float, Between(0, 0.999)] = 0.0
    proximal: Annotated[float, Between(0, 1_000)] = 0.0
    """FedProx's mu."""
    local_epochs: Annotated[int, Between(1, 1_000)] = 1
    max_steps: Annotated[int, Between(1, 1_000_000)] = 1_000
    batch_size: Annotated[int, Between(1, 4_096)] = 16
    bits: Annotated[int, Between(1, 8)] = 8
    """Of a code in an update."""
    keep: Annotated[float, Between(0.001, 1)] = 1.0
    """Share of the largest entries that is sent."""
    rule: RuleKind = RuleKind.MEAN
    """Of aggregation."""
    clip_ratio: Annotated[float, Between(0, 1_000)] = 2.0
    """Norms are clipped to this multiple of the cohort's median norm; 0 is off."""
    trim: Annotated[float, Between(0, 0.499)] = 0.1
    """Share dropped at each end by `trimmed_mean`."""
    byzantine: Annotated[float, Between(0, 0.499)] = 0.2
    """Share of devices that `multi_krum` leaves out."""
    threshold: Annotated[float, Between(-1, 1)] = 0.0
    """Least standing (score plus reputation) of an update that counts."""
    reputation: Annotated[float, SHARE] = 0.5
    """Share of a device's reputation in its standing."""
    max_examples: Annotated[int, Between(1, 16_777_216)] = 1_000
    """Cap on a device's weight in the mean."""
    cohort: Annotated[float, Between(0.000001, 1)] = 1.0
    """Share of a shard's devices that a round draws."""
    min_updates: Annotated[float, SHARE] = 0.3
    """Share of the cohort without which a round closes on its base."""
    collect_s: Annotated[float, Between(0.1, 604_800)] = 60.0
    score_s: Annotated[float, Between(0.1, 86_400)] = 30.0
    attest_s: Annotated[float, Between(0.1, 86_400)] = 30.0
    budget: Annotated[int, Between(0, 1_000_000_000)] = 10_000
    """Units paid out a round and shard."""
    delegate_share: Annotated[float, SHARE] = 0.1
    """Of the budget, for those who scored and attested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextTask:
    """Opened by the sponsor once the task before is settled; what is left out is as in `[task]`."""

    rounds: Annotated[int, Between(1, 100_000)]
    """Of each shard."""
    after_s: Annotated[float, Between(0, 604_800)] = 0.0
    """From the end of the task before to the opening of this one."""
    model: str | None = None
    """As in `[task]`; devices fetch it over the air. A program with other inputs needs
    `data.source = "vibration"`, which fits any."""
    optimizer: OptimizerKind | None = None
    learning_rate: Annotated[float, Between(0.000001, 1_000)] | None = None
    local_epochs: Annotated[int, Between(1, 1_000)] | None = None
    batch_size: Annotated[int, Between(1, 4_096)] | None = None
    bits: Annotated[int, Between(1, 8)] | None = None
    rule: RuleKind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """How examples are split over devices."""

    kind: PartitionKind = PartitionKind.IID
    alpha: Annotated[float, Between(0.001, 1_000_000)] = 0.5
    """Of `dirichlet` and `quantity`; the smaller, the less alike the devices."""
    column: str = "user"
    """Of `user`: the CSV column (by its header) or npz array that says whose an example is. Other
    kinds leave such a column out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Where examples come from."""

    source: SourceKind = SourceKind.VIBRATION
    path: str = ""
    """Of `folder`, relative to the scenario."""
    loader: str = ""
    """Of `loader`: `module:function`; called with `devices=` and `seed=`, it gives a sequence with
    one pair of arrays a device, features (n, ...) and labels (n,). The scenario's folder is on the
    import path."""
    examples: Annotated[int, Between(1, 100_000)] = 16
    """Of each device, for `vibration`; with `quantity` the mean."""
    test_examples: Annotated[int, Between(1, 100_000)] = 400
    """Held out to evaluate models; of a finite source at most a fifth."""
    validation_examples: Annotated[int, Between(1, 100_000)] = 30
    """Of each delegate, its own."""
    bias: Annotated[float, Between(0, 10)] = 0.2
    """Of `vibration`: spread of the devices' own offsets and gains."""
    noise: Annotated[float, Between(0, 10)] = 0.5
    """Of `vibration`: of the sensor."""
    sensor_faults: Annotated[float, SHARE] = 0.0
    """Of `vibration`: share of devices whose sensor sticks, drops out or clips."""
    partition: Partition = field(default_factory=Partition)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceClass:
    """Devices of one kind."""

    name: str = "pi"
    share: Annotated[float, SHARE] = 1.0
    """Of the fleet; all classes together are 1."""
    steps_per_s: Annotated[float, Between(0.001, 1_000_000)] = 50.0
    """Optimizer steps; each device differs by up to a fifth."""
    memory_mb: Annotated[float, Between(0.01, 1_000_000)] = 64.0
    """For training; a program or model that needs more is refused."""
    battery_j: Annotated[float, Between(0, 1_000_000_000)] = 0.0
    """Capacity; 0 is a device on the mains."""
    train_w: Annotated[float, Between(0, 10_000)] = 3.0
    idle_w: Annotated[float, Between(0, 10_000)] = 0.3
    """While awake."""
    send_j: Annotated[float, Between(0, 10_000)] = 0.05
    """A message."""
    charge_w: Annotated[float, Between(0, 10_000)] = 0.0
    """Into the battery, always. An empty one browns the device out; it boots again at a fifth."""
    awake_s: Annotated[float, Between(0, 86_400)] = 0.0
    """Of a duty cycle; 0 is always awake."""
    asleep_s: Annotated[float, Between(0, 604_800)] = 0.0
    """Of a duty cycle."""
    clock_offset_s: Annotated[float, Between(0, 86_400)] = 0.0
    """Largest error of a device's clock at boot, either way."""
    clock_drift_ppm: Annotated[float, Between(0, 100_000)] = 0.0
    """Largest drift, either way."""
    latency_ms: Annotated[int, Between(0, 600_000)] = 20
    """To the broker, one way; up to the half again is added at random."""
    loss: Annotated[float, SHARE] = 0.0
    """Share of this class's messages that is lost."""
    bandwidth_kbps: Annotated[float, Between(0, 100_000_000)] = 0.0
    """0 is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Churn:
    """Devices that come and go."""

    absent: Annotated[float, SHARE] = 0.0
    """Chance that a device drops off the net when it hears of a round, until that is over."""
    late: Annotated[float, SHARE] = 0.0
    """Share of devices that boot for the first time within the run, not at its start."""
    late_within_s: Annotated[float, Between(0, 604_800)] = 300.0
    leave: Annotated[float, Between(0, 1_000)] = 0.0
    """Devices that leave for good: rate a device and hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong."""

    kind: FaultKind
    rate: Annotated[float, Between(0, 100_000)] = 0.0
    """As the kind says; without `at_s`, partitions and losses of the broker happen so often an
    hour."""
    at_s: Annotated[float, Between(0, 604_800)] | None = None
    """When it begins, from the opening of the first round; left out, the whole run."""
    for_s: Annotated[float, Between(0.001, 604_800)] = 10.0
    """How long it lasts: the partition, the absence, or, with `at_s`, the rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attackers:
    """Hostile devices of one kind."""

    kind: AttackKind
    share: Annotated[float, SHARE] | None = None
    """Of the fleet; this or `count`."""
    count: Annotated[int, Between(0, MAX_DEVICES)] | None = None
    scale: Annotated[float, Between(0, 1_000_000)] = 1.0
    """As the kind says."""
    from_round: Annotated[int, Between(1, 1_000_000)] = 1
    """Before it they behave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegates:
    """Delegates that are not as they should be; the rest is honest."""

    crashing: Annotated[int, Between(0, 32)] = 0
    """Of each shard: crash once a minute, and are away for `away_s`. Needs a gateway each."""
    away_s: Annotated[float, Between(0.1, 86_400)] = 10.0
    byzantine: Annotated[int, Between(0, 32)] = 0
    """Of each shard."""
    behaviour: ByzantineKind = ByzantineKind.ALL
    """Of the Byzantine ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Economy:
    """Deposits and penalties of devices, none by default, and the terms of delegates."""

    device_deposit: Annotated[int, Between(0, 1_000_000_000)] = 0
    """Units that each device holds at the start and locks; without them it is not enrolled."""
    quarantine_strikes: Annotated[int, Between(0, 1_000)] = 0
    """Refusals, less accepted updates, at which a device is left out; 0 leaves nobody out."""
    quarantine_rounds: Annotated[int, Between(1, 1_000_000)] = 1
    """Rounds for which it is left out."""
    penalty: Annotated[float, SHARE] = 0.0
    """Of its deposit, what each time after the first one costs."""
    delegators: Annotated[int, Between(0, 1_000)] = 0
    """Accounts that lend stake to a delegate, and move it or take it back after each election; in
    virtual time alone."""
    delegator_stake: Annotated[int, Between(1, 1_000_000_000)] = 100_000
    """Units that each of them holds; a delegate starts with 1,000,000 of its own."""
    unbonding_blocks: Annotated[int, Between(1, 2**32)] = 100_000
    """Of the main chain, for which stake that left a delegate can still be slashed."""
    jail_blocks: Annotated[int, Between(1, 2**32)] = 1_000
    """Of the main chain, for which a jailed delegate cannot ask out."""
    downtime_window_blocks: Annotated[int, Between(1, 2**32)] = 1_000
    """Of the main chain, over which the certificates that a delegate missed are counted."""
    downtime_missed: Annotated[float, SHARE] = 0.6
    """Share of a window that a delegate may miss; more is downtime."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What is kept of a run."""

    device_rounds: bool = True
    """A row for every device of every round."""
    evaluate: bool = True
    """Evaluate every round's model on the held-out examples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A whole scenario; the keys of its first table."""

    name: str
    """Letters, digits and hyphens."""
    title: str = ""
    """One line for the report."""
    seed: Annotated[int, Between(0, 2**53)] = 1
    devices: Annotated[int, Between(1, MAX_DEVICES)]
    rounds: Annotated[int, Between(1, 100_000)]
    """Of each shard, in the first task."""
    length_s: Annotated[float, Between(1, 31_536_000)] = 86_400.0
    """The run ends here in virtual time, complete or not."""
    network: Network = field(default_factory=Network)
    task: Task = field(default_factory=Task)
    next_task: tuple[NextTask, ...] = ()
    data: Data = field(default_factory=Data)
    fleet: tuple[DeviceClass, ...] = (DeviceClass(),)
    churn: Churn = field(default_factory=Churn)
    faults: tuple[Fault, ...] = ()
    attackers: tuple[Attackers, ...] = ()
    delegates: Delegates = field(default_factory=Delegates)
    economy: Economy = field(default_factory=Economy)
    output: Output = field(default_factory=Output)

    @property
    def total_rounds(self) -> int:
        """Of each shard, in all tasks."""
        return self.rounds + sum(entry.rounds for entry in self.next_task)
