"""Splitting an integer in proportion, exactly: the largest-remainder method."""

from collections.abc import Mapping
from typing import TypeVar

K = TypeVar("K", bound=bytes)


def apportion(amount: int, weights: Mapping[K, int]) -> dict[K, int]:
    """Split `amount` in proportion to `weights`; the parts sum to `amount` exactly.

    Each key gets the floor of its share; what is left goes, a unit each, to the largest remainders,
    ties to the smaller key.

    Args:
        amount: At least 0.
        weights: None negative. Where all are 0 nobody gets anything and the result is empty.

    Hamilton's method; Balinski and Young, "Fair Representation", 1982.
    """
    total = sum(weights.values())
    if total == 0:
        return {}
    shares = {key: amount * weights[key] // total for key in sorted(weights)}
    left = amount - sum(shares.values())
    by_remainder = sorted(weights, key=lambda key: (-(amount * weights[key] % total), key))
    for key in by_remainder[:left]:
        shares[key] += 1
    return shares
