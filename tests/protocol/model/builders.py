"""Deltas and contributions for the tests of the numeric core."""

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from headwater_protocol.model.aggregate import Contribution
from headwater_protocol.model.quantized_delta import QuantizedDelta, max_code, max_exponent

MLP_SIZES = (64 * 32, 32, 32 * 10, 10)
"""The digits classifier: 2,410 parameters in 4 tensors."""


def mlp_delta(seed: int) -> NDArray[np.float32]:
    """A delta shaped like one of a trained classifier: tensors of unlike scale, heavy tails."""
    rng = np.random.default_rng(seed)
    scales = (0.01, 0.02, 0.03, 0.05)
    parts = [rng.laplace(0, scale, size) for scale, size in zip(scales, MLP_SIZES, strict=True)]
    return np.concatenate(parts).astype(np.float32)


@st.composite
def quantized_deltas(draw: st.DrawFn) -> QuantizedDelta:
    """Any valid delta, dense and sparse, of every number of bits."""
    bits = draw(st.integers(1, 8))
    fraction_bits = draw(st.integers(0, 30))
    tensor_sizes = tuple(draw(st.lists(st.integers(1, 200), min_size=1, max_size=4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    limit = draw(st.integers(1, max_code(bits)))
    codes = rng.integers(-limit, limit + 1, sum(tensor_sizes)).astype(np.int8)
    codes[rng.random(len(codes)) < draw(st.sampled_from([0.0, 0.3, 0.6, 0.9, 0.99, 1.0]))] = 0
    if bits == 1 and draw(st.booleans()):
        codes[codes == 0] = 1
    exponent = st.integers(-fraction_bits, max_exponent(bits=bits, fraction_bits=fraction_bits))
    return QuantizedDelta(
        codes=codes,
        exponents=tuple(draw(exponent) for _ in tensor_sizes),
        tensor_sizes=tensor_sizes,
        bits=bits,
        fraction_bits=fraction_bits,
    )


def contribution(
    device: int, values: list[int] | NDArray[np.int32], *, num_examples: int = 1
) -> Contribution:
    """A dense contribution of the device with that number."""
    return Contribution(
        device_id=device.to_bytes(4, "big"),
        num_examples=num_examples,
        delta=np.array(values, dtype=np.int32),
    )
