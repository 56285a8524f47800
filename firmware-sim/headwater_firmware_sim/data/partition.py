"""Splitting examples over devices.

Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", 2019, for the Dirichlet split.
"""

import numpy as np
from numpy.typing import NDArray


def split_dirichlet(
    labels: NDArray[np.int32], *, num_devices: int, alpha: float, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Give each device its own mix of classes, drawn from Dirichlet(alpha).

    Every device gets the same number of examples, give or take one, and at least one; the smaller
    `alpha`, the fewer classes it sees.

    Args:
        labels: Shape (n,), n at least `num_devices`.
        num_devices: At least 1.
        alpha: Concentration, positive.
        rng: Draws the mixes and the order.

    Returns:
        For each device the indices of its examples; together they are all indices, each once.

    Raises:
        ValueError: If there are fewer examples than devices.
    """
    if len(labels) < num_devices:
        raise ValueError(f"{len(labels)} examples for {num_devices} devices")
    classes = np.unique(labels)
    pools = {
        int(label): list(rng.permutation(np.flatnonzero(labels == label))) for label in classes
    }
    sizes = np.full(num_devices, len(labels) // num_devices)
    sizes[: len(labels) % num_devices] += 1
    parts: list[NDArray[np.int64]] = []
    for size in sizes:
        mix = rng.dirichlet(np.full(len(classes), alpha))
        chosen: list[int] = []
        while len(chosen) < size:
            left = np.array([len(pools[int(label)]) > 0 for label in classes])
            weights = np.where(left, mix + 1e-9, 0.0)
            label = int(rng.choice(classes, p=weights / weights.sum()))
            chosen.append(int(pools[label].pop()))
        parts.append(np.array(sorted(chosen), dtype=np.int64))
    return parts
