"""A quantized delta: signed codes of 1 to 8 bits and one power-of-two exponent per tensor.

`delta = code * 2**exponent`. With exponents no finer than the model's grid a delta is an integer in
model units, `code << (exponent + fraction_bits)`, which is what makes aggregation exact. The codes
are symmetric, so that a delta and its negation are equally likely to be representable.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_protocol.errors import OutOfBounds
from headwater_protocol.model.bounds import MAX_FRACTION_BITS, require_range, require_tensor_sizes

MIN_BITS: Final = 1
MAX_BITS: Final = 8


def max_code(bits: int) -> int:
    """Largest magnitude of a code: `2**(bits - 1) - 1`, and 1 for the sign codes of 1 bit."""
    return max(1, (1 << (bits - 1)) - 1)


def max_exponent(*, bits: int, fraction_bits: int) -> int:
    """Largest exponent with which every code still fits int32 in model units."""
    return min(30, 32 - bits) - fraction_bits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedDelta:
    """A device's delta as it is sent, stored and aggregated."""

    codes: NDArray[np.int8]
    """Shape (num_parameters,); magnitude at most `max_code(bits)`. With 1 bit: -1, 0 or 1."""

    exponents: tuple[int, ...]
    """One per tensor, `-fraction_bits` to `max_exponent(bits, fraction_bits)`."""

    tensor_sizes: tuple[int, ...]
    """Parameters of each tensor, in the order of the program; at least 1 each."""

    bits: int
    """Bits a code, sign included, 1 to 8."""

    fraction_bits: int
    """The task's grid, 0 to 30."""

    def __post_init__(self) -> None:
        require_range("bits", self.bits, low=MIN_BITS, high=MAX_BITS)
        require_range("fraction_bits", self.fraction_bits, low=0, high=MAX_FRACTION_BITS)
        num_parameters = require_tensor_sizes(self.tensor_sizes)
        if len(self.exponents) != len(self.tensor_sizes):
            raise OutOfBounds(
                f"{len(self.exponents)} exponents for {len(self.tensor_sizes)} tensors"
            )
        highest = max_exponent(bits=self.bits, fraction_bits=self.fraction_bits)
        require_range("exponent", min(self.exponents), low=-self.fraction_bits, high=highest)
        require_range("exponent", max(self.exponents), low=-self.fraction_bits, high=highest)
        if self.codes.dtype != np.int8 or self.codes.shape != (num_parameters,):
            raise OutOfBounds(
                f"codes are {self.codes.dtype} of shape {self.codes.shape}, "
                f"expected int8 of ({num_parameters},)"
            )
        limit = max_code(self.bits)
        require_range("code", int(self.codes.min()), low=-limit, high=limit)
        require_range("code", int(self.codes.max()), low=-limit, high=limit)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QuantizedDelta):
            return NotImplemented
        return (
            self.bits == other.bits
            and self.fraction_bits == other.fraction_bits
            and self.exponents == other.exponents
            and self.tensor_sizes == other.tensor_sizes
            and np.array_equal(self.codes, other.codes)
        )

    def __hash__(self) -> int:
        return hash((self.bits, self.exponents, self.tensor_sizes, self.codes.tobytes()))

    @property
    def num_parameters(self) -> int:
        """Total over the tensors."""
        return len(self.codes)


def int32_delta(
    quantized: QuantizedDelta, *, start: int = 0, stop: int | None = None
) -> NDArray[np.int32]:
    """Expand parameters `start` to `stop` to model units, `code << (exponent + fraction_bits)`.

    Exact: `max_exponent` keeps every product inside int32. A part is expanded without the rest, so
    that a rule over thousands of deltas can work in column blocks.

    Returns:
        Shape (stop - start,), in units of `2**-fraction_bits`.
    """
    stop = quantized.num_parameters if stop is None else min(stop, quantized.num_parameters)
    values: NDArray[np.int32] = quantized.codes[start:stop].astype(np.int32)
    begin = 0
    for size, exponent in zip(quantized.tensor_sizes, quantized.exponents, strict=True):
        end = begin + size
        if end > start and begin < stop:
            part = values[max(begin - start, 0) : end - start]
            np.left_shift(part, exponent + quantized.fraction_bits, out=part)
        begin = end
    return values


def dequantize(quantized: QuantizedDelta) -> NDArray[np.float32]:
    """Return the delta as float32, shape (num_parameters,); exact, as codes have 7 bits at most."""
    values: NDArray[np.float32] = quantized.codes.astype(np.float32)
    begin = 0
    for size, exponent in zip(quantized.tensor_sizes, quantized.exponents, strict=True):
        part = values[begin : begin + size]
        np.multiply(part, np.float32(2.0**exponent), out=part)
        begin += size
    return values


def expand(delta: QuantizedDelta | NDArray[np.int32], start: int, stop: int) -> NDArray[np.int32]:
    """Return parameters `start` to `stop` of a delta in model units."""
    if isinstance(delta, QuantizedDelta):
        return int32_delta(delta, start=start, stop=stop)
    return delta[start:stop]
