"""Data for `own-data.toml`: each device gets features and labels of its own."""

import numpy as np
from numpy.typing import NDArray


def make(*, devices: int, seed: int) -> list[tuple[NDArray[np.float32], NDArray[np.int32]]]:
    """Ten clusters in 64 dimensions, seen by each device with an offset of its own."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(10, 64))
    parts = []
    for _ in range(devices):
        labels = rng.integers(0, 10, 30).astype(np.int32)
        features = centers[labels] + rng.normal(scale=0.5, size=(30, 64)) + rng.normal(scale=0.1)
        parts.append((features.astype(np.float32), labels))
    return parts
