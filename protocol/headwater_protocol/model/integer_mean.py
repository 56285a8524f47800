"""Exact means of integer vectors: sums in integers, one division, round half to even.

`MeanAccumulator` takes one delta at a time and holds one int64 vector, however large the cohort. It
bounds the examples of a mean instead of watching the sums: with at most `MAX_TOTAL_EXAMPLES` no sum
of int32 entries can leave int64, whatever the deltas hold.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
AISTATS 2017 (the example-weighted mean).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_protocol.errors import OutOfBounds
from headwater_protocol.model.bounds import (
    INT32_MAX,
    INT32_MIN,
    MAX_PARAMETERS,
    MAX_TOTAL_EXAMPLES,
    require_range,
)

MAX_MERGED_EXAMPLES: Final = 2**46
"""Of one merge of models, which sums 16-bit limbs: `2**46 * 2**16 + 2**46 * 2**16 <= 2**63`."""


class AggregateOverflow(OutOfBounds):
    """More examples than the sums of a mean have room for."""

    def __init__(self, *, total_examples: int, limit: int) -> None:
        super().__init__(f"{total_examples} examples in one mean, the limit is {limit}")
        self.total_examples = total_examples
        self.limit = limit


def divide_half_even(dividend: NDArray[np.int64], divisor: int) -> NDArray[np.int64]:
    """Divide every entry by `divisor`, rounding to the nearest integer and halves to even.

    Args:
        dividend: Any int64 entries.
        divisor: 1 to 2**62.
    """
    require_range("divisor", divisor, low=1, high=2**62)
    if divisor == 1:
        return dividend.copy()
    quotient = dividend // divisor
    # Twice the remainder, compared with the divisor; the remainder has the divisor's sign.
    twice = dividend - quotient * divisor
    twice <<= 1
    quotient += (twice > divisor) | ((twice == divisor) & ((quotient & 1) == 1))
    return quotient


def saturate_int32(values: NDArray[np.int64]) -> NDArray[np.int32]:
    """Move every entry to the nearest int32."""
    return np.clip(values, INT32_MIN, INT32_MAX).astype(np.int32)


class MeanAccumulator:
    """The example-weighted mean of a stream of deltas, independent of their order."""

    __slots__ = ("_scratch", "_sums", "_total_examples")

    def __init__(self, *, num_parameters: int) -> None:
        require_range("number of parameters", num_parameters, low=1, high=MAX_PARAMETERS)
        self._sums = np.zeros(num_parameters, dtype=np.int64)
        self._scratch = np.empty(num_parameters, dtype=np.int64)
        self._total_examples = 0

    @property
    def total_examples(self) -> int:
        """Examples added so far."""
        return self._total_examples

    def add(self, delta: NDArray[np.int32] | NDArray[np.int64], *, num_examples: int) -> None:
        """Add one delta; a refused one leaves the sums as they were.

        Args:
            delta: Shape (num_parameters,), entries inside the int32 range.
            num_examples: Its weight, at least 1, already capped.

        Raises:
            OutOfBounds: If the shape differs or `num_examples` is below 1.
            AggregateOverflow: If the total would exceed `MAX_TOTAL_EXAMPLES`.
        """
        if delta.shape != self._sums.shape:
            raise OutOfBounds(f"delta has shape {delta.shape}, expected {self._sums.shape}")
        total = self._total_examples + num_examples
        if total > MAX_TOTAL_EXAMPLES:
            raise AggregateOverflow(total_examples=total, limit=MAX_TOTAL_EXAMPLES)
        require_range("num_examples", num_examples, low=1, high=MAX_TOTAL_EXAMPLES)
        # Without a dtype numpy 1 would multiply in int32 where the weight happens to fit it.
        np.multiply(delta, num_examples, out=self._scratch, dtype=np.int64)
        self._sums += self._scratch
        self._total_examples = total

    def mean(self) -> NDArray[np.int64]:
        """Return the mean in model units, shape (num_parameters,); zeros if nothing was added."""
        if self._total_examples == 0:
            return np.zeros_like(self._sums)
        return divide_half_even(self._sums, self._total_examples)


def merge_models(models: Sequence[tuple[int, NDArray[np.int32]]]) -> NDArray[np.int32]:
    """Return the example-weighted mean of shard models, rounded half to even.

    Args:
        models: `(num_examples, parameters)` of each shard, in any order; parameters have shape
            (num_parameters,). Shards without examples do not count.

    Raises:
        OutOfBounds: If no shard has examples, one has a negative number, or shapes differ.
        AggregateOverflow: If there are more than `MAX_MERGED_EXAMPLES` in total.
    """
    if not models:
        raise OutOfBounds("a merge needs at least one model")
    total = 0
    shape = models[0][1].shape
    high = np.zeros(shape, dtype=np.int64)
    low = np.zeros(shape, dtype=np.int64)
    for num_examples, parameters in models:
        if parameters.shape != shape or parameters.dtype != np.int32:
            raise OutOfBounds(f"{parameters.dtype} of {parameters.shape}, expected int32 {shape}")
        require_range("num_examples", num_examples, low=0, high=2**63 - 1)
        total += num_examples
        if total > MAX_MERGED_EXAMPLES:
            raise AggregateOverflow(total_examples=total, limit=MAX_MERGED_EXAMPLES)
        wide = parameters.astype(np.int64)
        high += (wide >> 16) * num_examples
        low += (wide & 0xFFFF) * num_examples
    if total == 0:
        raise OutOfBounds("no shard has examples to weigh its model with")
    # Long division by limbs: the first remainder is below `total`, so the second dividend is
    # below 2**63 and the joined quotient is that of the full sum.
    quotient = high // total
    remainder = high - quotient * total
    merged = (quotient << 16) + divide_half_even((remainder << 16) + low, total)
    return saturate_int32(merged)
