"""Centered clipping: move a centre by the mean of the deltas' clipped distances to it.

Each iteration takes the radius from the cohort itself, a multiple of the median distance to the
centre, so that there is no length to tune per model. Every device counts once. The centre starts at
zero, which makes one iteration the same as norm clipping with equal weights.

Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization", ICML 2021.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from headwater_protocol.model.bounds import require_range
from headwater_protocol.model.integer_mean import divide_half_even
from headwater_protocol.model.norms import (
    compute_clip_factor,
    compute_clip_limit,
    scale_by_factor,
    squared_norm,
)
from headwater_protocol.model.rule import MAX_ITERATIONS


def compute_centered_clipping(
    read_delta: Callable[[int], NDArray[np.int32]],
    *,
    num_deltas: int,
    num_parameters: int,
    radius_thousandths: int,
    iterations: int,
) -> NDArray[np.int64]:
    """Return the centre after `iterations`, in model units, shape (num_parameters,).

    Args:
        read_delta: Gives one delta by its row, in model units; called twice an iteration.
        num_deltas: At least 1.
        num_parameters: At least 1.
        radius_thousandths: Multiple of the median distance beyond which a delta is clipped.
        iterations: 1 to `MAX_ITERATIONS`.
    """
    require_range("iterations", iterations, low=1, high=MAX_ITERATIONS)
    centre = np.zeros(num_parameters, dtype=np.int64)
    for _ in range(iterations):
        # The centre stays between the deltas and zero, so a difference needs at most 33 bits.
        squares = [squared_norm(read_delta(row) - centre) for row in range(num_deltas)]
        limit = compute_clip_limit(squares, ratio_thousandths=radius_thousandths)
        sums = np.zeros(num_parameters, dtype=np.int64)
        for row, squared in enumerate(squares):
            factor = compute_clip_factor(squared, limit=limit)
            sums += scale_by_factor(read_delta(row) - centre, factor)
        centre += divide_half_even(sums, num_deltas)
    return centre
