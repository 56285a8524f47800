"""Exact norms, inner products and norm clipping of integer vectors.

A squared norm of int32 parameters needs more than 64 bits, so vectors are split into 16-bit limbs
whose sums fit int64 and are joined as Python integers. Where the largest entries show that nothing
can overflow, one int64 product does it.

Clipping scales by a factor of `CLIP_ONE` parts, rounded down, and rounds entries toward zero; with
the norm rounded up this makes it certain that a clipped vector is no longer than its limit.

Sun et al., "Can You Really Backdoor Federated Learning?", 2019 (norm clipping as a defence).
"""

from dataclasses import dataclass
from math import isqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_protocol.errors import OutOfBounds
from headwater_protocol.model.bounds import MAX_PARAMETERS
from headwater_protocol.model.quantized_delta import QuantizedDelta

IntegerVector = NDArray[np.int32] | NDArray[np.int64]
"""Shape (num_parameters,); entries below 2**32 in magnitude."""

CLIP_ONE: Final = 2**30
"""A clip factor of one. 2**30 * 2**32 leaves room in int64 for any entry."""

NOISE_DEVIATIONS: Final = 3
MAX_NOISE_COSINE: Final = 1_000
"""In ten-thousandths: what a tiny model, in which any two directions are alike, takes for noise."""

_INT64_SAFE: Final = 2**63


def squared_norm(vector: QuantizedDelta | IntegerVector) -> int:
    """Return the exact squared L2 norm, in squared model units.

    A `QuantizedDelta` gives the same as its `int32_delta`, in less time.

    Raises:
        OutOfBounds: If the vector is longer than `MAX_PARAMETERS`.
    """
    if isinstance(vector, QuantizedDelta):
        return _squared_norm_of_codes(vector)
    return inner_product(vector, vector)


def inner_product(left: IntegerVector, right: IntegerVector) -> int:
    """Return the exact inner product of two vectors of the same shape.

    Raises:
        OutOfBounds: If the shapes differ or are longer than `MAX_PARAMETERS`.
    """
    if left.shape != right.shape or len(left) > MAX_PARAMETERS:
        raise OutOfBounds(f"shapes {left.shape} and {right.shape}, limit {MAX_PARAMETERS}")
    if len(left) == 0:
        return 0
    a = left.astype(np.int64, copy=False)
    b = a if right is left else right.astype(np.int64, copy=False)
    reach = _largest_magnitude(a)
    return _inner_product(a, b, reaches=reach * (reach if right is left else _largest_magnitude(b)))


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredVector:
    """A vector that is compared with many: what does not depend on them is computed once."""

    values: NDArray[np.int64]
    """Shape (num_parameters,)."""
    squared: int
    """Its squared norm."""
    reach: int
    """The largest magnitude of an entry."""


def measure(vector: IntegerVector) -> MeasuredVector:
    """`vector` with its squared norm and reach.

    Raises:
        OutOfBounds: If it is longer than `MAX_PARAMETERS`.
    """
    values = vector.astype(np.int64)
    reach = _largest_magnitude(values) if len(values) else 0
    return MeasuredVector(values=values, squared=squared_norm(values), reach=reach)


def compute_measured_cosine(left: MeasuredVector, right: MeasuredVector) -> int:
    """As `compute_cosine_ten_thousandths`.

    Raises:
        OutOfBounds: If the shapes differ.
    """
    if left.values.shape != right.values.shape:
        raise OutOfBounds(f"shapes {left.values.shape} and {right.values.shape}")
    product = _inner_product(left.values, right.values, reaches=left.reach * right.reach)
    return compute_cosine(product, left_squared=left.squared, right_squared=right.squared)


def _inner_product(a: NDArray[np.int64], b: NDArray[np.int64], *, reaches: int) -> int:
    if len(a) * reaches < _INT64_SAFE:
        return int(a @ b)
    # |high| <= 2**16 and low < 2**16: each sum stays below MAX_PARAMETERS * 2**32 = 2**58.
    a_high, a_low = a >> 16, a & 0xFFFF
    b_high, b_low = b >> 16, b & 0xFFFF
    high = int(a_high @ b_high)
    middle = int(a_high @ b_low) + int(a_low @ b_high)
    return (high << 32) + (middle << 16) + int(a_low @ b_low)


def compute_norm(vector: QuantizedDelta | IntegerVector) -> int:
    """Return the L2 norm in model units, rounded down."""
    return isqrt(squared_norm(vector))


def compute_cosine_ten_thousandths(left: IntegerVector, right: IntegerVector) -> int:
    """Return the cosine of two vectors in ten-thousandths, rounded toward zero.

    Exact: it depends on no processor. A zero vector has a cosine of 0 with everything.
    """
    return compute_cosine(
        inner_product(left, right),
        left_squared=squared_norm(left),
        right_squared=squared_norm(right),
    )


def compute_cosine(product: int, *, left_squared: int, right_squared: int) -> int:
    """Return the cosine in ten-thousandths from an inner product and two squared norms.

    For who compares one vector with many: norms are computed once.
    """
    squares = left_squared * right_squared
    if squares == 0:
        return 0
    magnitude = isqrt(product * product * 10_000**2 // squares)
    return magnitude if product > 0 else -magnitude


def compute_noise_cosine(num_parameters: int) -> int:
    """The cosine, in ten-thousandths, that noise hardly ever reaches.

    The cosine of a random direction with any other has a mean of 0 and a deviation of one over the
    root of the number of parameters; three deviations are exceeded once in 740 times.

    Args:
        num_parameters: Positive.
    """
    return min(MAX_NOISE_COSINE, NOISE_DEVIATIONS * 10_000 // isqrt(num_parameters))


def compute_clip_limit(squared_norms: list[int], *, ratio_thousandths: int) -> int:
    """Return the longest norm that a cohort's deltas keep: a multiple of their median norm.

    Of an even number the lower middle is taken, so the limit follows a norm that was really sent.
    The result is rounded down, to model units. It is 0 if more than half of the deltas are zero.

    Raises:
        OutOfBounds: If there are no norms.
    """
    if not squared_norms:
        raise OutOfBounds("a median needs at least one norm")
    median = sorted(squared_norms)[(len(squared_norms) - 1) // 2]
    return isqrt(median * ratio_thousandths**2 // 1000**2)


def compute_clip_factor(squared: int, *, limit: int) -> int:
    """Return the factor, in parts of `CLIP_ONE`, that brings a vector down to `limit`.

    Args:
        squared: The squared norm of the vector.
        limit: The longest norm allowed, at least 0.
    """
    if squared <= limit * limit:
        return CLIP_ONE
    norm_rounded_up = isqrt(squared - 1) + 1
    return limit * CLIP_ONE // norm_rounded_up


def scale_by_factor(vector: IntegerVector, factor: int) -> NDArray[np.int64]:
    """Multiply by `factor / CLIP_ONE`, rounding every entry toward zero.

    Args:
        vector: Entries of magnitude at most 2**32.
        factor: 0 to `CLIP_ONE`.
    """
    scaled: NDArray[np.int64] = vector.astype(np.int64)
    if factor == CLIP_ONE:
        return scaled
    scaled *= factor
    # A shift rounds down; negative entries are lifted so that it rounds them up.
    scaled += (scaled < 0) * np.int64(CLIP_ONE - 1)
    scaled >>= 30
    return scaled


def _largest_magnitude(vector: NDArray[np.int64]) -> int:
    return max(int(vector.max()), -int(vector.min()))


def _squared_norm_of_codes(quantized: QuantizedDelta) -> int:
    codes = quantized.codes.astype(np.int64)
    total = 0
    begin = 0
    for size, exponent in zip(quantized.tensor_sizes, quantized.exponents, strict=True):
        part = codes[begin : begin + size]
        total += int(part @ part) << 2 * (exponent + quantized.fraction_bits)
        begin += size
    return total
