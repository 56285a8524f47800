"""Multi-Krum: average the deltas that lie closest to their neighbours, on integers.

Distances are exact. Entries are split into 16-bit limbs and multiplied as float64 matrices, in
blocks narrow enough that every sum is an integer below 2**53: float64 holds those exactly in any
order of summation, so the result does not depend on the processor or its BLAS.

Selection costs accuracy where devices' data differ (a far delta may be the only one that knows a
class); prefer norm clipping or a trimmed mean unless many devices collude.

Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
NeurIPS 2017.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_protocol.model.bounds import require_range
from headwater_protocol.model.robust import BlockReader, column_blocks

MAX_EXACT_COLUMNS: Final = 2**20
"""Columns a product: `2**20 * (2**16)**2 = 2**52` is exact in float64."""

MAX_KRUM_DELTAS: Final = 4096
"""Cohort of one selection; its distances take the square of that."""


def select_multi_krum(
    read_block: BlockReader, *, num_deltas: int, num_parameters: int, byzantine_thousandths: int
) -> list[int]:
    """Return the rows that multi-Krum keeps, in rising order.

    With `f = num_deltas * byzantine_thousandths // 1000`, a row's score is the sum of its squared
    distances to the nearest `max(1, num_deltas - f - 2)` others; the `num_deltas - f` rows of the
    lowest scores stay. Of equal scores the earlier row stays.

    Args:
        read_block: Gives the deltas by columns, in model units.
        num_deltas: 1 to `MAX_KRUM_DELTAS`.
        num_parameters: At least 1.
        byzantine_thousandths: Share of devices assumed hostile, 0 to 499.

    Raises:
        OutOfBounds: If the cohort is larger than the limit, or the share outside its range.
    """
    require_range("cohort of multi-Krum", num_deltas, low=1, high=MAX_KRUM_DELTAS)
    require_range("byzantine_thousandths", byzantine_thousandths, low=0, high=499)
    num_byzantine = num_deltas * byzantine_thousandths // 1000
    num_neighbours = max(1, num_deltas - num_byzantine - 2)
    distances = _squared_distances(read_block, num_deltas=num_deltas, num_parameters=num_parameters)
    # A row's own distance of zero is its smallest, so the neighbours start at place 1.
    nearest = np.sort(distances, axis=1)[:, 1 : 1 + num_neighbours]
    scores = [sum(row) for row in nearest.tolist()]
    ranked = sorted(range(num_deltas), key=lambda row: (scores[row], row))
    return sorted(ranked[: num_deltas - num_byzantine])


def _squared_distances(
    read_block: BlockReader, *, num_deltas: int, num_parameters: int
) -> NDArray[np.int64] | NDArray[np.object_]:
    """Return exact squared distances, as Python integers where int64 might not hold them."""
    largest = 0
    high_high = np.zeros((num_deltas, num_deltas), dtype=np.int64)
    high_low = np.zeros_like(high_high)
    low_low = np.zeros_like(high_high)
    for start, stop in column_blocks(num_rows=num_deltas, num_columns=num_parameters):
        for begin in range(start, stop, MAX_EXACT_COLUMNS):
            block = read_block(begin, min(begin + MAX_EXACT_COLUMNS, stop))
            largest = max(largest, int(block.max()), -int(block.min()))
            high = (block >> 16).astype(np.float64)
            low = (block & 0xFFFF).astype(np.float64)
            high_high += (high @ high.T).astype(np.int64)
            high_low += (high @ low.T).astype(np.int64)
            low_low += (low @ low.T).astype(np.int64)
    middle = high_low + high_low.T
    if 4 * num_parameters * largest * largest < 2**63:
        products = (high_high << 32) + (middle << 16) + low_low
        squares = np.diagonal(products)
        distances: NDArray[np.int64] = squares[:, None] + squares[None, :] - 2 * products
        return distances
    exact = (
        high_high.astype(object) * 2**32 + middle.astype(object) * 2**16 + low_low.astype(object)
    )
    exact_squares = np.diagonal(exact)
    result: NDArray[np.object_] = exact_squares[:, None] + exact_squares[None, :] - 2 * exact
    return result
