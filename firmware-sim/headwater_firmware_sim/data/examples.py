"""Labelled examples, as every source gives them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examples:
    """Features with labels."""

    features: NDArray[np.float32]
    """Shape (n, *input_shape)."""
    labels: NDArray[np.int32]
    """Shape (n,)."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> "Examples":
        """Those at `indices`, shape (m,)."""
        return Examples(features=self.features[indices], labels=self.labels[indices])
