"""From a trained delta to a signed update, and back where the update never counted.

Error feedback: what quantization leaves out of a delta is kept as the residual and added to the
next delta (Seide et al., "1-Bit Stochastic Gradient Descent", Interspeech 2014).

An update that never counted (too late, never received, payload lost) was taken out of that memory
in vain, so it is given back: the residual becomes what it was plus what the update held. Without a
limit, a device that is late every round would pile up deltas against ever older bases and arrive,
once, with all of them. What is given back is therefore scaled to at most the norm of that round's
own delta: a device carries at most one round's work. An update that the committee refused for its
score is not given back; its direction was what was refused.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_agent.machine.inputs import Trained
from headwater_agent.state import OutboxEntry, Residual
from headwater_protocol.chain.claim import UpdateClaim, update_message
from headwater_protocol.chain.round import Round
from headwater_protocol.chain.task import Task
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import OutOfBounds, TooLarge
from headwater_protocol.identifiers import (
    MAX_UNSIGNED,
    ChainId,
    Network,
    NumExamples,
    TaskId,
    TimeMs,
)
from headwater_protocol.messages.update import MAX_PAYLOAD_BYTES, Update, decode_update
from headwater_protocol.model.payload import decode_payload, encode_payload
from headwater_protocol.model.quantize import compute_residual, quantize
from headwater_protocol.model.quantized_delta import dequantize
from headwater_protocol.reasons import ReasonCode

MAX_NUM_EXAMPLES: Final = 2**24
"""The largest weight in the mean that the protocol can say."""

KEPT_OUT: Final = frozenset(
    {
        ReasonCode.LOW_SCORE,
        ReasonCode.BAD_SIGNATURE,
        ReasonCode.BAD_ENCODING,
        ReasonCode.OUT_OF_BOUNDS,
        ReasonCode.TOO_LARGE,
    }
)
"""Refusals of what an update holds; given back, it would be refused again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """A signed update, and what it leaves behind; to be persisted in one step."""

    entry: OutboxEntry
    residual: Residual


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """On the device's clock."""

    collect_ms: TimeMs
    """The round takes no updates later."""
    verdict_ms: TimeMs
    """No verdict is waited for later."""


def make_contribution(
    trained: Trained,
    *,
    round_: Round,
    task: Task,
    deadlines: Deadlines,
    residual: Residual | None,
    key: SecretKey,
    network: Network,
    shard: ChainId,
    rng: np.random.Generator,
    max_bytes: int,
) -> Contribution:
    """Add the residual, quantize with the task's codec, encode and sign.

    Args:
        trained: The delta, shape (task.num_parameters,), not yet checked.
        round_: The certified round.
        task: Its certified task.
        deadlines: For the outbox.
        residual: Of earlier rounds; one of another task or size counts as zero.
        key: Signs the claim.
        network: Part of what is signed.
        shard: Part of what is signed.
        rng: For the stochastic rounding.
        max_bytes: Limit of the encoded update.

    Raises:
        OutOfBounds: If the delta has another shape than the task's model or is not finite, or there
            are no examples.
        TooLarge: If the update would exceed `max_bytes`.
    """
    if trained.delta.shape != (task.num_parameters,):
        raise OutOfBounds(
            f"the delta has shape {trained.delta.shape}, the task has {task.num_parameters}"
        )
    if trained.num_examples < 1:
        raise OutOfBounds("trained on no examples")
    delta = trained.delta.astype(np.float32, copy=False)
    total = np.add(delta, residual_values(residual, task), dtype=np.float32)
    quantized = quantize(
        total,
        tensor_sizes=task.tensor_sizes,
        bits=task.codec.bits,
        fraction_bits=task.fraction_bits,
        keep_thousandths=task.codec.keep_thousandths,
        rng=rng,
    )
    payload = encode_payload(quantized)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise TooLarge("payload", size=len(payload), limit=MAX_PAYLOAD_BYTES)
    claim = UpdateClaim(
        shard=shard,
        round=round_.number,
        base=round_.base,
        device=key.device,
        payload=blob_digest(payload),
        num_examples=NumExamples(min(trained.num_examples, MAX_NUM_EXAMPLES)),
    )
    update = encode_record(
        Update(
            round=claim.round,
            base=claim.base,
            device=claim.device,
            num_examples=claim.num_examples,
            signature=key.sign(update_message(network, claim)),
            payload=payload,
        )
    )
    if len(update) > max_bytes:
        raise TooLarge("update", size=len(update), limit=max_bytes)
    return Contribution(
        entry=OutboxEntry(
            round=round_.number,
            task=task.task,
            payload=claim.payload,
            update=update,
            deadline_ms=deadlines.collect_ms,
            verdict_until_ms=deadlines.verdict_ms,
            is_held=False,
            tensor_sizes=task.tensor_sizes,
            bits=task.codec.bits,
            fraction_bits=task.fraction_bits,
            delta_norm_units=_norm_units(delta, task.fraction_bits),
        ),
        residual=_encode_residual(task.task, compute_residual(total, quantized)),
    )


def give_back(entry: OutboxEntry, residual: Residual | None) -> Residual | None:
    """The residual after `entry` turned out never to have counted; None leaves it as it is.

    Raises:
        InvalidMessage: If the entry does not decode, which no code path here produces.
    """
    if residual is None or residual.task != entry.task:
        return None
    sent = dequantize(
        decode_payload(
            decode_update(entry.update).payload,
            tensor_sizes=entry.tensor_sizes,
            bits=entry.bits,
            fraction_bits=entry.fraction_bits,
            max_bytes=MAX_PAYLOAD_BYTES,
        )
    )
    values = np.frombuffer(residual.values, dtype="<f4")
    if values.shape != sent.shape:
        return None
    total = np.add(values, sent, dtype=np.float32)
    norm = float(np.linalg.norm(total.astype(np.float64)))
    limit = math.ldexp(entry.delta_norm_units, -entry.fraction_bits)
    if norm > limit:
        total *= np.float32(limit / norm)
    return _encode_residual(residual.task, total)


def residual_values(residual: Residual | None, task: Task) -> NDArray[np.float32]:
    """The residual as float32, shape (num_parameters,); zeros if it is of another task or size."""
    if (
        residual is None
        or residual.task != task.task
        or len(residual.values) != 4 * task.num_parameters
    ):
        return np.zeros(task.num_parameters, dtype=np.float32)
    return np.frombuffer(residual.values, dtype="<f4").astype(np.float32, copy=False)


def _encode_residual(task: str, values: NDArray[np.float32]) -> Residual:
    return Residual(task=TaskId(task), values=values.astype("<f4", copy=False).tobytes())


def _norm_units(delta: NDArray[np.float32], fraction_bits: int) -> int:
    norm = float(np.linalg.norm(delta.astype(np.float64)))
    return min(MAX_UNSIGNED, math.ceil(math.ldexp(norm, fraction_bits)))
