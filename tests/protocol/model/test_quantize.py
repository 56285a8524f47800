import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headwater_protocol.errors import OutOfBounds
from headwater_protocol.model.quantize import NonFiniteDelta, compute_residual, quantize
from headwater_protocol.model.quantized_delta import (
    QuantizedDelta,
    dequantize,
    expand,
    int32_delta,
    max_code,
    max_exponent,
)
from tests.protocol.model.builders import MLP_SIZES, mlp_delta, quantized_deltas


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("bits", range(2, 9))
def test_rounding_is_unbiased(bits):
    delta = np.array([0.013, -0.4, 0.77, 1.0, -1.0, 1e-4, 0.0], dtype=np.float32)
    rng = generator(bits)
    draws = 20_000
    total = np.zeros(7)
    quantized = quantize(delta, tensor_sizes=(7,), bits=bits, rng=rng, saturate=False)
    for _ in range(draws):
        quantized = quantize(delta, tensor_sizes=(7,), bits=bits, rng=rng, saturate=False)
        total += dequantize(quantized)
    step = 2.0 ** quantized.exponents[0]
    # A draw's deviation is at most half a step; six of the mean's allow no false alarm.
    assert np.abs(total / draws - delta).max() < 6 * 0.5 * step / draws**0.5


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("keep_thousandths", [1000, 250])
def test_error_feedback_delivers_the_truth_over_time(bits, keep_thousandths):
    rng = generator(7)
    residual = np.zeros(2410, dtype=np.float32)
    truth = np.zeros(2410)
    sent = np.zeros(2410)
    largest = 0.0
    for step in range(120):
        delta = mlp_delta(step)
        truth += delta
        corrected = delta + residual
        quantized = quantize(
            corrected,
            tensor_sizes=MLP_SIZES,
            bits=bits,
            rng=rng,
            keep_thousandths=keep_thousandths,
        )
        residual = compute_residual(corrected, quantized)
        sent += dequantize(quantized)
        if step >= 60:
            largest = max(largest, float(np.linalg.norm(residual)))
    assert np.abs(truth - sent - residual).max() < 1e-4
    # What is owed stays a bounded multiple of one delta, so its share of the sum vanishes.
    assert largest < 12 * np.linalg.norm(mlp_delta(0))


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_expected_error_is_below_the_delta_itself(bits):
    rng = generator(3)
    for delta in (mlp_delta(1), rng.standard_t(2, 2410).astype(np.float32)):
        errors = [
            np.linalg.norm(
                compute_residual(delta, quantize(delta, tensor_sizes=MLP_SIZES, bits=bits, rng=rng))
            )
            for _ in range(5)
        ]
        assert np.mean(errors) < 0.95 * np.linalg.norm(delta)


@given(
    hnp.arrays(np.float32, 12, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    st.integers(1, 8),
    st.integers(0, 30),
    st.integers(1, 1000),
    st.booleans(),
)
@settings(max_examples=300)
def test_any_finite_delta_quantizes_within_int32(delta, bits, fraction_bits, keep, saturate):
    quantized = quantize(
        delta,
        tensor_sizes=(4, 8),
        bits=bits,
        rng=generator(),
        fraction_bits=fraction_bits,
        keep_thousandths=keep,
        saturate=saturate,
    )
    wide = quantized.codes.astype(np.int64)
    shifts = np.repeat([e + fraction_bits for e in quantized.exponents], (4, 8))
    assert int32_delta(quantized).tolist() == (wide << shifts).tolist()
    assert np.isfinite(compute_residual(delta, quantized)).all()
    kept = np.count_nonzero(quantized.codes)
    assert kept <= -(-12 * keep // 1000)
    assert not (np.sign(quantized.codes) * np.sign(delta) < 0).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_deltas_are_refused(value):
    delta = np.zeros(2410, dtype=np.float32)
    delta[2100] = value
    with pytest.raises(NonFiniteDelta, match="entry 2100 of 2410"):
        quantize(delta, tensor_sizes=MLP_SIZES, bits=4, rng=generator())


def test_the_largest_finite_values_are_no_non_finite_delta():
    delta = np.full(4, np.finfo(np.float32).max)
    quantized = quantize(delta, tensor_sizes=(1, 3), bits=8, rng=generator())
    assert int32_delta(quantized).tolist() == [127 << 24] * 4


@pytest.mark.parametrize(
    "arguments",
    [
        {"bits": 0},
        {"bits": 9},
        {"fraction_bits": 31},
        {"fraction_bits": -1},
        {"keep_thousandths": 0},
        {"keep_thousandths": 1001},
        {"tensor_sizes": ()},
        {"tensor_sizes": (5, 0)},
        {"tensor_sizes": (4,)},
        {"tensor_sizes": (1,) * 4097},
    ],
)
def test_arguments_outside_their_range_are_refused(arguments):
    valid = {"tensor_sizes": (5,), "bits": 4, "rng": generator()}
    with pytest.raises(OutOfBounds):
        quantize(np.ones(5, dtype=np.float32), **{**valid, **arguments})


def test_sparsification_keeps_the_largest():
    delta = np.array([0.1, -5, 0.2, 3, -0.3], dtype=np.float32)
    quantized = quantize(delta, tensor_sizes=(5,), bits=8, rng=generator(), keep_thousandths=400)
    assert np.flatnonzero(quantized.codes).tolist() == [1, 3]
    residual = compute_residual(delta, quantized)
    assert residual[[0, 2, 4]].tolist() == delta[[0, 2, 4]].tolist()


def test_a_zero_delta_has_zero_codes_at_every_width():
    for bits in range(1, 9):
        quantized = quantize(
            np.zeros(5, dtype=np.float32), tensor_sizes=(5,), bits=bits, rng=generator()
        )
        assert quantized.exponents == (-20,)
        assert not quantized.codes.any()


def test_the_same_seed_gives_the_same_codes():
    delta = mlp_delta(1)
    first, second = (
        quantize(delta, tensor_sizes=MLP_SIZES, bits=4, rng=generator(5)) for _ in range(2)
    )
    assert first == second
    assert first != 1


def test_an_outlier_saturates_instead_of_drowning_the_rest():
    delta = np.full(1000, 0.01, dtype=np.float32)
    delta[0] = 1.0
    covering = quantize(delta, tensor_sizes=(1000,), bits=4, rng=generator(), saturate=False)
    chosen = quantize(delta, tensor_sizes=(1000,), bits=4, rng=generator())
    assert covering.exponents == (-2,)
    assert chosen.exponents[0] < -2
    assert np.linalg.norm(compute_residual(delta, chosen)) < np.linalg.norm(delta)


@given(quantized_deltas())
@settings(max_examples=100, deadline=None)
def test_dequantizing_agrees_with_model_units(delta):
    units = int32_delta(delta).astype(np.float64) * 2.0**-delta.fraction_bits
    assert (dequantize(delta) == units).all()


@given(quantized_deltas(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_part_expands_like_the_whole(delta, data):
    start = data.draw(st.integers(0, delta.num_parameters))
    stop = data.draw(st.integers(start, delta.num_parameters))
    whole = int32_delta(delta)
    assert expand(delta, start, stop).tolist() == whole[start:stop].tolist()
    assert expand(whole, start, stop).tolist() == whole[start:stop].tolist()


@pytest.mark.parametrize("bits", range(1, 9))
def test_exponents_stop_where_int32_does(bits):
    highest = max_exponent(bits=bits, fraction_bits=20)
    limit = max_code(bits)

    def build(code: int, exponent: int) -> QuantizedDelta:
        return QuantizedDelta(
            codes=np.array([code], dtype=np.int8),
            exponents=(exponent,),
            tensor_sizes=(1,),
            bits=bits,
            fraction_bits=20,
        )

    assert int32_delta(build(limit, highest))[0] == limit << (highest + 20) < 2**31
    assert int32_delta(build(-limit, highest))[0] == -(limit << (highest + 20))
    assert limit << (highest + 21) >= 2**31
    for code, exponent in ((limit, highest + 1), (limit, -21)):
        with pytest.raises(OutOfBounds, match="exponent"):
            build(code, exponent)
    if limit < 127:
        with pytest.raises(OutOfBounds, match="code"):
            build(limit + 1, 0)
    with pytest.raises(OutOfBounds, match="code"):
        build(-limit - 1, 0)


def test_a_delta_of_another_shape_is_refused():
    valid = {
        "codes": np.zeros(3, dtype=np.int8),
        "exponents": (0,),
        "tensor_sizes": (3,),
        "bits": 4,
        "fraction_bits": 20,
    }
    QuantizedDelta(**valid)
    for change in (
        {"exponents": (0, 0)},
        {"tensor_sizes": (4,)},
        {"codes": np.zeros(3, dtype=np.int16)},
        {"codes": np.zeros((3, 1), dtype=np.int8)},
    ):
        with pytest.raises(OutOfBounds):
            QuantizedDelta(**{**valid, **change})
