"""A task: which program is trained, how updates are written, scored, aggregated and paid."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Final

from headwater_protocol.encoding.record import Count, Range
from headwater_protocol.identifiers import Digest, NumExamples, Score, TaskId, Units
from headwater_protocol.model.rule import AggregationRule

MAX_TENSORS: Final = 256
MAX_PARAMETERS: Final = 2**24
"""Of a model that a gateway scores and a Pi trains; 64 MB as int32."""

MAX_NORMALISED: Final = 1_024
"""Entries of a normalisation: 10 kB of a task, which travels with every announcement."""

FixedPoint = Annotated[int, Range(-(2**31), 2**31 - 1)]
Thousandths = Annotated[int, Range(0, 1_000_000)]
Millionths = Annotated[int, Range(0, 1_000_000_000)]
DurationMs = Annotated[int, Range(1, 30 * 24 * 3_600_000)]


class OptimizerKind(StrEnum):
    """What a device takes its local steps with."""

    SGD = "sgd"
    MOMENTUM = "momentum"
    ADAM = "adam"


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The local work of one round."""

    optimizer: OptimizerKind
    learning_rate_millionths: Annotated[int, Range(1, 1_000_000_000)]
    momentum_thousandths: Annotated[int, Range(0, 999)]
    proximal_millionths: Millionths
    """FedProx's mu; 0 for none."""
    clip_norm_thousandths: Annotated[int, Range(0, 1_000_000_000)]
    """The L2 norm to which each gradient is clipped; 0 for none."""
    local_epochs: Annotated[int, Range(1, 1_000)]
    """Passes over the device's own data."""
    max_steps: Annotated[int, Range(1, 1_000_000)]
    """Optimizer steps at the most, whatever the data."""
    batch_size: Annotated[int, Range(1, 4_096)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """How a delta is written."""

    bits: Annotated[int, Range(1, 8)]
    keep_thousandths: Annotated[int, Range(1, 1_000)]
    """The share of the largest entries that is sent; 1000 is dense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """What every example goes through before the program: `(x - offset) * scale`.

    A device's and a delegate's examples are on one scale only if one statement puts them there, so
    it stands in the task. A list has one entry for all values of an example, one for each entry of
    its last axis, or one for each value.
    """

    fraction_bits: Annotated[int, Range(0, 30)]
    """Entries are multiples of `2**-fraction_bits`, like a model's parameters."""
    offsets: Annotated[tuple[FixedPoint, ...], Count(1, MAX_NORMALISED)]
    scales: Annotated[tuple[Annotated[int, Range(1, 2**31 - 1)], ...], Count(1, MAX_NORMALISED)]
    """Positive: 0 would erase a feature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Fixed when it is opened; a ledger names it in every round."""

    KIND: ClassVar[str] = "task/2"

    task: TaskId
    program: Digest
    """The `.tflite` file, a blob."""
    tensor_sizes: Annotated[
        tuple[Annotated[int, Range(1, MAX_PARAMETERS)], ...], Count(1, MAX_TENSORS)
    ]
    """Number of parameters of each tensor, in the program's order."""
    fraction_bits: Annotated[int, Range(8, 30)]
    initial_model: Digest
    """The base of the first round, a blob."""
    training: Training
    codec: Codec
    rule: AggregationRule
    max_examples: NumExamples
    """The cap on a device's weight in the mean."""
    score_threshold: Score
    """The least standing that is accepted, in ten-thousandths: the update's median score plus a
    share of its device's reputation."""
    reputation_thousandths: Annotated[int, Range(0, 1_000)]
    """That share. A device's local data pull its update aside by chance, an attacker's do so in
    every round: its history tells them apart where one score cannot."""
    rounds: Annotated[int, Range(1, 1_000_000)]
    """Rounds of each shard."""
    cohort_size: Annotated[int, Range(1, 10_000_000)]
    """Devices drawn a round and shard; all, if there are fewer."""
    min_updates: Annotated[int, Range(1, 10_000_000)]
    """With fewer accepted, a round closes on its base."""
    collect_ms: DurationMs
    """From a round's opening to the last commit that it takes."""
    score_ms: DurationMs
    attest_ms: DurationMs
    round_budget: Units
    """Paid out a round and shard, when anything was accepted."""
    delegate_thousandths: Annotated[int, Range(0, 1_000)]
    """The share of the budget that goes to the delegates who scored and attested."""
    normalisation: Normalisation | None = None
    """Of the examples; None where they are used as they come."""
    reward_floor: Annotated[int, Range(0, 10_000)] = 0
    """A cosine in ten-thousandths up to which an update is taken for noise, and earns nothing."""

    @property
    def num_parameters(self) -> int:
        """The length of the flat parameter vector."""
        return sum(self.tensor_sizes)
