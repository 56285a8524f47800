"""Models as int32 vectors: `value = parameters * 2**-fraction_bits`.

The ledger, the aggregation and every digest see only the integers. float32 appears on two edges:
`to_float32` in front of the trainer and the evaluator, and `from_float32` where a sponsor brings an
initial model. Rounding there is half to even; what does not fit int32 is refused and not saturated,
because an initial model that was silently changed would look like a bad one.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.encoding.cbor import decode_canonical, encode_canonical
from headwater_protocol.errors import BadEncoding, OutOfBounds, TooLarge
from headwater_protocol.identifiers import Digest
from headwater_protocol.model.bounds import (
    DEFAULT_FRACTION_BITS,
    INT32_MAX,
    INT32_MIN,
    MAX_FRACTION_BITS,
    MAX_PARAMETERS,
    require_range,
)

MODEL_VERSION: Final = 1

MAX_MODEL_OVERHEAD_BYTES: Final = 16
"""CBOR around the parameters: array head, version, fraction bits, byte string head."""


class NonFiniteModel(OutOfBounds):
    """A model to be converted holds NaN or infinity."""


class ModelOverflow(OutOfBounds):
    """A model to be converted holds a value outside the fixed-point range."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FixedPointModel:
    """A model's parameters on the grid of `2**-fraction_bits`."""

    parameters: NDArray[np.int32]
    """Shape (num_parameters,), in units of `2**-fraction_bits`."""

    fraction_bits: int = DEFAULT_FRACTION_BITS
    """A constant of the task, 0 to 30."""

    def __post_init__(self) -> None:
        require_range("fraction_bits", self.fraction_bits, low=0, high=MAX_FRACTION_BITS)
        if self.parameters.dtype != np.int32 or self.parameters.ndim != 1:
            raise OutOfBounds(
                f"parameters are {self.parameters.dtype} of {self.parameters.ndim} dimensions, "
                "expected int32 of 1"
            )
        require_range("number of parameters", len(self.parameters), low=1, high=MAX_PARAMETERS)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FixedPointModel):
            return NotImplemented
        return self.fraction_bits == other.fraction_bits and np.array_equal(
            self.parameters, other.parameters
        )

    def __hash__(self) -> int:
        return hash((self.fraction_bits, self.parameters.tobytes()))


def to_float32(model: FixedPointModel) -> NDArray[np.float32]:
    """Convert a model to the nearest float32 values, for a trainer or an evaluator.

    An int32 has up to 31 significant bits and a float32 24, so large parameters are rounded (half
    to even). The result is shape (num_parameters,) and is the same on every IEEE 754 processor.
    """
    # Scaling by a power of two is exact, so the conversion rounds once.
    return model.parameters.astype(np.float32) * np.float32(2.0**-model.fraction_bits)


def from_float32(
    values: NDArray[np.float32], *, fraction_bits: int = DEFAULT_FRACTION_BITS
) -> FixedPointModel:
    """Round float32 values to the grid, half to even.

    Args:
        values: Shape (num_parameters,), finite.
        fraction_bits: 0 to 30.

    Raises:
        NonFiniteModel: If any value is NaN or infinite.
        ModelOverflow: If any rounded value does not fit int32.
    """
    require_range("fraction_bits", fraction_bits, low=0, high=MAX_FRACTION_BITS)
    if not bool(np.isfinite(values).all()):
        index = int(np.argmin(np.isfinite(values)))
        raise NonFiniteModel(f"parameter {index} is {values[index]}")
    # float64 holds both the scaled value and every int32 exactly.
    scaled = np.rint(values.astype(np.float64) * 2.0**fraction_bits)
    outside = (scaled < INT32_MIN) | (scaled > INT32_MAX)
    if bool(outside.any()):
        index = int(np.argmax(outside))
        raise ModelOverflow(
            f"parameter {index} is {values[index]}, the limit is {2.0 ** (31 - fraction_bits)}"
        )
    return FixedPointModel(parameters=scaled.astype(np.int32), fraction_bits=fraction_bits)


def encode_model(model: FixedPointModel) -> bytes:
    """Encode as the canonical CBOR array `[version, fraction_bits, little-endian int32 bytes]`."""
    parameters = model.parameters.astype("<i4", copy=False).tobytes()
    return encode_canonical([MODEL_VERSION, model.fraction_bits, parameters])


def decode_model(data: bytes, *, max_parameters: int) -> FixedPointModel:
    """Decode a model; its parameters are a read-only view of the bytes.

    Args:
        data: Untrusted bytes.
        max_parameters: The task's size, or the most that the caller will hold.

    Raises:
        TooLarge: If `data` is longer than `max_parameters` can be.
        BadEncoding: If it is not the array of this version.
        OutOfBounds: If the fraction bits or the number of parameters are outside their range.
    """
    limit = 4 * max_parameters + MAX_MODEL_OVERHEAD_BYTES
    fields = decode_canonical(data, max_bytes=limit)
    if not isinstance(fields, list) or len(fields) != 3:
        raise BadEncoding("a model is an array of 3 fields")
    version, fraction_bits, parameter_bytes = fields
    if type(version) is not int or version != MODEL_VERSION:
        raise BadEncoding(f"model version is {version!r}, known is {MODEL_VERSION}")
    if type(fraction_bits) is not int or type(parameter_bytes) is not bytes:
        raise BadEncoding("a model's fields are int, int, bytes")
    if len(parameter_bytes) % 4:
        raise BadEncoding(f"{len(parameter_bytes)} bytes are no whole number of int32")
    if len(parameter_bytes) > 4 * max_parameters:
        raise TooLarge("model", size=len(parameter_bytes), limit=4 * max_parameters)
    parameters = np.frombuffer(parameter_bytes, dtype="<i4").astype(np.int32, copy=False)
    return FixedPointModel(parameters=parameters, fraction_bits=fraction_bits)


def model_digest(data: bytes) -> Digest:
    """Name an encoded model: the plain SHA-256 of its bytes, as of any blob."""
    return blob_digest(data)
