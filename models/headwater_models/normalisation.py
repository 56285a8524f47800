"""Puts examples on a task's scale: the one function that devices and delegates share."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_models.errors import InvalidExamples
from headwater_protocol.chain.task import MAX_NORMALISED, Normalisation

MAX_MEASURED_BITS: Final = 24
"""As many as a float32 has."""


def normalise(
    features: NDArray[np.float32], normalisation: Normalisation | None
) -> NDArray[np.float32]:
    """`(features - offset) * scale`, rounded twice in float32; the input stays as it is.

    Args:
        features: Shape (n, *input_shape).
        normalisation: Of the task; None gives `features` themselves.

    Raises:
        InvalidExamples: If the lists do not fit an example, or a value overflows.
    """
    if normalisation is None:
        return features
    unit = 2.0**-normalisation.fraction_bits
    offsets = _spread("offsets", normalisation.offsets, unit, features.shape[1:])
    scales = _spread("scales", normalisation.scales, unit, features.shape[1:])
    with np.errstate(over="ignore"):
        result: NDArray[np.float32] = features - offsets
        result *= scales
    if not bool(np.isfinite(result).all()):
        raise InvalidExamples("a normalised feature is not finite in float32")
    return result


def measure_normalisation(features: NDArray[np.float32]) -> Normalisation:
    """What brings examples to a mean of 0 and a standard deviation of 1.

    For each value where an example is a row, for each entry of the last axis where it is a window
    or an image; for all of them at once where a list would be too long. What never changes is only
    moved to 0.

    Args:
        features: Shape (n, ...), finite, n at least 1.

    Raises:
        InvalidExamples: If the values are beyond what fixed point can say.
    """
    columns = features.shape[-1] if features.shape[-1] <= MAX_NORMALISED else 1
    values = features.reshape(-1, columns).astype(np.float64)
    offsets, spreads = values.mean(axis=0), values.std(axis=0)
    scales = 1 / np.where(spreads > 0, spreads, 1)
    for fraction_bits in range(MAX_MEASURED_BITS, -1, -1):
        scaled = np.rint(np.stack([offsets, scales]) * 2.0**fraction_bits)
        if np.abs(scaled).max() < 2**31 and scaled[1].min() >= 1:
            return Normalisation(
                fraction_bits=fraction_bits,
                offsets=tuple(int(entry) for entry in scaled[0]),
                scales=tuple(int(entry) for entry in scaled[1]),
            )
    raise InvalidExamples(
        f"means to {np.abs(offsets).max():g} and scales to {scales.max():g} do not fit 31 bits "
        "with one unit; bring the features closer together"
    )


def _spread(
    name: str, entries: tuple[int, ...], unit: float, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """A list as an array that fits examples of `shape`."""
    # The product is exact in float64, so there is one rounding, the same on every processor.
    values = (np.array(entries, np.float64) * unit).astype(np.float32)
    if len(entries) == 1 or (shape and len(entries) == shape[-1]):
        return values
    if len(entries) == math.prod(shape):
        return values.reshape(shape)
    raise InvalidExamples(
        f"{len(entries)} {name} for examples of shape {shape}; give 1, one for each of the last "
        "axis, or one a value"
    )
