"""The round that a device works on, from the announcement to the trainer's answer."""

from dataclasses import dataclass
from typing import Final

from headwater_agent.machine.contribution import Deadlines
from headwater_agent.machine.effects import Train
from headwater_agent.machine.limits import DeviceLimits
from headwater_agent.machine.reading import Reader
from headwater_protocol.chain.round import Round
from headwater_protocol.chain.task import Task
from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.errors import TooLarge
from headwater_protocol.identifiers import MAX_UNSIGNED, Digest, RoundNumber, TimeMs
from headwater_protocol.model.fixed_point import MAX_MODEL_OVERHEAD_BYTES

TRAINING_COPIES: Final = 5
"""Vectors of the model's size that a training holds: base, gradient, two moments, delta."""

TRAINING_SHARE_THOUSANDTHS: Final = 850
"""Of what is left of a round; the rest is for writing the update, sending it and sending again."""


@dataclass(slots=True)
class Job:
    """One round in work."""

    round: Round
    task: Task
    deadlines: Deadlines
    is_training: bool = False
    """Whether the trainer has it; before, blobs are fetched."""
    look_again_ms: int | None = None
    """When to ask again for permission to train; None while nothing has to be asked."""
    is_asked: bool = False
    """Whether an answer to `AskPermission` is due."""
    refusal: str = ""
    """The last reason not to train, so that each is told once."""


def compute_deadlines(round_: Round, task: Task, *, block_time_ms: int, now_ms: int) -> Deadlines:
    """When a round ends on the device's clock; not after `now_ms` if it is over.

    The remaining time goes by the ledger's own clock, so that a device whose clock is behind does
    not hold an update for days; and by the device's, because a retained announcement may be old.
    """
    remaining_ms = max(0, round_.collect_until_ms - block_time_ms)
    collect_ms = min(round_.collect_until_ms, max(0, now_ms) + remaining_ms)
    verdict_ms = min(collect_ms + 2 * (task.score_ms + task.attest_ms), MAX_UNSIGNED)
    return Deadlines(collect_ms=TimeMs(collect_ms), verdict_ms=TimeMs(verdict_ms))


def list_blobs(job: Job, limits: DeviceLimits) -> dict[Digest, int]:
    """The blobs that a job needs, each with its largest size in bytes.

    Raises:
        TooLarge: If the model is more than the device takes on.
    """
    num_parameters = job.task.num_parameters
    if num_parameters > limits.max_parameters:
        raise TooLarge("model", size=4 * num_parameters, limit=4 * limits.max_parameters)
    return {
        job.round.base: 4 * num_parameters + MAX_MODEL_OVERHEAD_BYTES,
        job.task.program: limits.max_program_bytes,
    }


def compute_needed_bytes(job: Job) -> int:
    """The memory that training takes, about."""
    return TRAINING_COPIES * 4 * job.task.num_parameters


def make_request(
    job: Job, *, base: bytes, program: bytes, entropy: bytes, reader: Reader, now_ms: int
) -> Train:
    """What the trainer is asked for.

    Raises:
        InvalidMessage: If the base does not decode to the task's model.
    """
    task = job.task
    return Train(
        round=job.round.number,
        program_digest=task.program,
        program=program,
        tensor_sizes=task.tensor_sizes,
        parameters=reader.base(base, task),
        training=task.training,
        seed=int.from_bytes(derive_seed(entropy, job.round.number, b"train")[:8], "big") >> 1,
        normalisation=task.normalisation,
        time_limit_ms=(job.deadlines.collect_ms - now_ms) * TRAINING_SHARE_THOUSANDTHS // 1_000,
    )


def derive_seed(entropy: bytes, round_: RoundNumber, purpose: bytes) -> Digest:
    """A secret seed for one purpose in one round, the same after a restart."""
    return hash_bytes(Domain.SEED, entropy, round_.to_bytes(8, "big"), purpose)
