"""The first parameters of a model.

He et al., "Delving Deep into Rectifiers", ICCV 2015, equation 10: a tensor that sums n inputs
starts with standard deviation sqrt(2 / n), biases at zero.
"""

import math

import numpy as np
from numpy.typing import NDArray

from headwater_models.program import Program


def initial_parameters(program: Program, seed: int) -> NDArray[np.float32]:
    """Return float32 parameters of shape (num_parameters,) for a new model of `program`.

    The last bits may differ between processors. A sponsor draws them once and publishes the
    quantized result; nobody draws them again to compare.

    Args:
        program: Gives the layout and the fan-in of every tensor.
        seed: Not negative.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    pieces = [
        rng.standard_normal(tensor.size) * math.sqrt(2.0 / tensor.fan_in)
        if tensor.fan_in
        else np.zeros(tensor.size)
        for tensor in program.parameter_layout.tensors
    ]
    return np.concatenate(pieces, dtype=np.float32, casting="same_kind")
