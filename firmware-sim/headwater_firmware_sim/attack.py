"""What hostile devices do to the delta that they trained."""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Attack(StrEnum):
    """Kinds of hostile updates."""

    NONE = "none"
    SIGN_FLIP = "sign_flip"


def distort(attack: Attack, delta: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the attacker sends in place of `delta`, shape (num_parameters,)."""
    if attack is Attack.SIGN_FLIP:
        return -delta
    return delta
