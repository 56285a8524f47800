"""What a task's codec makes of a delta: a payload to send, and what it leaves for the next one.

Error feedback: what quantization leaves out of a delta is kept as the residual and added to the
next delta (Seide et al., "1-Bit Stochastic Gradient Descent", Interspeech 2014).
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headwater_agent.state import Residual
from headwater_protocol.chain.task import Task
from headwater_protocol.identifiers import MAX_UNSIGNED, Digest, TaskId
from headwater_protocol.model.payload import encode_payload
from headwater_protocol.model.quantize import compute_residual, quantize


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """A delta as it is sent, and what that leaves behind."""

    payload: bytes
    residual: bytes
    """float32, little-endian, one a parameter."""
    delta_norm_units: int
    """The norm of the delta without the residual, in the task's fixed-point units, rounded up."""


class Compressor(Protocol):
    """Compresses deltas; a shell may have begun with one elsewhere, ahead of time."""

    def compress(
        self, delta: NDArray[np.float32], *, residual: Residual | None, task: Task, seed: Digest
    ) -> Compressed:
        """As `compress`."""
        ...


class DirectCompressor:
    """Compresses each delta when it is asked to."""

    def compress(
        self, delta: NDArray[np.float32], *, residual: Residual | None, task: Task, seed: Digest
    ) -> Compressed:
        """As `compress`."""
        return compress(delta, residual=residual_values(residual, task), task=task, seed=seed)


def compress(
    delta: NDArray[np.float32], *, residual: NDArray[np.float32], task: Task, seed: Digest
) -> Compressed:
    """Add the residual, quantize with the task's codec and encode.

    Args:
        delta: Shape (task.num_parameters,).
        residual: Shape (task.num_parameters,), of earlier rounds.
        task: Whose codec is used.
        seed: For the stochastic rounding.

    Raises:
        OutOfBounds: If the delta is not finite.
    """
    total = np.add(delta, residual, dtype=np.float32)
    quantized = quantize(
        total,
        tensor_sizes=task.tensor_sizes,
        bits=task.codec.bits,
        fraction_bits=task.fraction_bits,
        keep_thousandths=task.codec.keep_thousandths,
        rng=np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big"))),
    )
    return Compressed(
        payload=encode_payload(quantized),
        residual=encode_values(compute_residual(total, quantized)),
        delta_norm_units=_norm_units(delta, task.fraction_bits),
    )


def residual_values(residual: Residual | None, task: Task) -> NDArray[np.float32]:
    """The residual as float32, shape (num_parameters,); zeros if it is of another task or size."""
    if residual is None or residual.task != task.task:
        return np.zeros(task.num_parameters, dtype=np.float32)
    values = residual.values
    if len(values) != 4 * task.num_parameters:
        return np.zeros(task.num_parameters, dtype=np.float32)
    return np.frombuffer(values, dtype="<f4").astype(np.float32, copy=False)


def make_residual(task: TaskId, values: NDArray[np.float32]) -> Residual:
    """What is persisted of these float32 values, shape (num_parameters,)."""
    return Residual(task=task, values=encode_values(values))


def encode_values(values: NDArray[np.float32]) -> bytes:
    """Float32, little-endian."""
    return values.astype("<f4", copy=False).tobytes()


def _norm_units(delta: NDArray[np.float32], fraction_bits: int) -> int:
    norm = float(np.linalg.norm(delta.astype(np.float64)))
    return min(MAX_UNSIGNED, math.ceil(math.ldexp(norm, fraction_bits)))
