"""The numeric limits that the model, the codec and the aggregation share.

They are chosen so that no intermediate value leaves int64; each says which product it bounds.
"""

from typing import Final

from headwater_protocol.errors import OutOfBounds

INT32_MIN: Final = -(2**31)
INT32_MAX: Final = 2**31 - 1

MAX_FRACTION_BITS: Final = 30
"""Finest grid: one unit is 2**-30, so 1.0 still fits int32."""

DEFAULT_FRACTION_BITS: Final = 20
"""Values in [-2048, 2048) in steps of about one millionth."""

MAX_PARAMETERS: Final = 2**26
"""Of one model. Bounds sums over parameters: 2**26 * (2**16)**2 < 2**63."""

MAX_TENSORS: Final = 4096
"""Of one model; every tensor costs one byte of exponent in a payload."""

MAX_TOTAL_EXAMPLES: Final = 2**32 - 1
"""Of one mean of deltas: `2**31 * (2**32 - 1) < 2**63`."""


def require_range(name: str, value: int, *, low: int, high: int) -> None:
    """Check that `low <= value <= high`.

    Raises:
        OutOfBounds: Otherwise; the message names the value and its range.
    """
    if not low <= value <= high:
        raise OutOfBounds(f"{name} is {value}, allowed is {low} to {high}")


def require_tensor_sizes(tensor_sizes: tuple[int, ...]) -> int:
    """Check the shape of a model and return its number of parameters.

    Raises:
        OutOfBounds: If there is no tensor, an empty one, or more than the limits.
    """
    require_range("number of tensors", len(tensor_sizes), low=1, high=MAX_TENSORS)
    require_range("smallest tensor size", min(tensor_sizes), low=1, high=MAX_PARAMETERS)
    num_parameters = sum(tensor_sizes)
    require_range("number of parameters", num_parameters, low=1, high=MAX_PARAMETERS)
    return num_parameters
