"""Coordinate-wise robust rules: trimmed mean and median, on integers.

Every device counts once, whatever number of examples it claims: a weight would let an attacker pull
a coordinate without being an outlier.

Work goes in blocks of columns, so that memory is bounded by `MAX_BLOCK_CELLS` and not by devices
times parameters.

Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_protocol.model.bounds import require_range
from headwater_protocol.model.integer_mean import divide_half_even
from headwater_protocol.model.rule import MAX_TRIM_THOUSANDTHS

MAX_BLOCK_CELLS: Final = 2**21
"""int32 cells that are held at a time, 8 MiB."""


BlockReader = Callable[[int, int], NDArray[np.int32]]
"""Reads columns start to stop of all deltas: shape (num_deltas, stop - start)."""


def column_blocks(*, num_rows: int, num_columns: int) -> Iterator[tuple[int, int]]:
    """Yield `(start, stop)` of consecutive blocks of at most `MAX_BLOCK_CELLS` cells."""
    width = max(1, MAX_BLOCK_CELLS // max(1, num_rows))
    for start in range(0, num_columns, width):
        yield start, min(start + width, num_columns)


def compute_trimmed_mean(
    read_block: BlockReader, *, num_deltas: int, num_parameters: int, trim_thousandths: int
) -> NDArray[np.int64]:
    """Average each coordinate without its largest and smallest values, rounding half to even.

    Args:
        read_block: Gives the deltas by columns, in model units.
        num_deltas: At least 1.
        num_parameters: At least 1.
        trim_thousandths: Share dropped at each end, 0 to 499; the count is rounded down.

    Returns:
        Shape (num_parameters,), model units.
    """
    require_range("trim_thousandths", trim_thousandths, low=0, high=MAX_TRIM_THOUSANDTHS)
    trimmed = num_deltas * trim_thousandths // 1000
    return _mean_of_middle(
        read_block, num_deltas=num_deltas, num_parameters=num_parameters, trimmed=trimmed
    )


def compute_median(
    read_block: BlockReader, *, num_deltas: int, num_parameters: int
) -> NDArray[np.int64]:
    """Return each coordinate's median; of an even number the two middles' mean, half to even."""
    trimmed = (num_deltas - 1) // 2
    return _mean_of_middle(
        read_block, num_deltas=num_deltas, num_parameters=num_parameters, trimmed=trimmed
    )


def _mean_of_middle(
    read_block: BlockReader, *, num_deltas: int, num_parameters: int, trimmed: int
) -> NDArray[np.int64]:
    result = np.empty(num_parameters, dtype=np.int64)
    kept = num_deltas - 2 * trimmed
    for start, stop in column_blocks(num_rows=num_deltas, num_columns=num_parameters):
        # Sorted rows are contiguous, which is several times faster than sorting down columns.
        values = np.ascontiguousarray(read_block(start, stop).T)
        values.sort(axis=1)
        sums = values[:, trimmed : num_deltas - trimmed].sum(axis=1, dtype=np.int64)
        result[start:stop] = divide_half_even(sums, kept)
    return result
