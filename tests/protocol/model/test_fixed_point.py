from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headwater_protocol.encoding.cbor import encode_canonical
from headwater_protocol.errors import BadEncoding, InvalidMessage, OutOfBounds, TooLarge
from headwater_protocol.model.fixed_point import (
    FixedPointModel,
    ModelOverflow,
    NonFiniteModel,
    decode_model,
    encode_model,
    from_float32,
    model_digest,
    to_float32,
)

int32_vectors = hnp.arrays(np.int32, st.integers(1, 50))


def model(*parameters: int, fraction_bits: int = 20) -> FixedPointModel:
    return FixedPointModel(
        parameters=np.array(parameters, dtype=np.int32), fraction_bits=fraction_bits
    )


@given(int32_vectors, st.integers(0, 30))
def test_encoding_round_trips(parameters, fraction_bits):
    original = FixedPointModel(parameters=parameters, fraction_bits=fraction_bits)
    data = encode_model(original)
    decoded = decode_model(data, max_parameters=len(parameters))
    assert decoded == original
    assert hash(decoded) == hash(original)
    assert encode_model(decoded) == data


@given(st.binary(max_size=60))
def test_arbitrary_bytes_raise_only_invalid_message(data):
    try:
        decoded = decode_model(data, max_parameters=10)
    except InvalidMessage:
        return
    assert encode_model(decoded) == data


@pytest.mark.parametrize(
    "fields",
    [
        7,
        [1, 20],
        [2, 20, bytes(4)],
        [True, 20, bytes(4)],
        [1, "20", bytes(4)],
        [1, 20, "text"],
        [1, 20, bytes(5)],
    ],
)
def test_other_records_are_bad_encodings(fields):
    with pytest.raises(BadEncoding):
        decode_model(encode_canonical(fields), max_parameters=10)


@pytest.mark.parametrize("fields", [[1, 31, bytes(4)], [1, -1, bytes(4)], [1, 20, b""]])
def test_values_outside_their_range_are_refused(fields):
    with pytest.raises(OutOfBounds):
        decode_model(encode_canonical(fields), max_parameters=10)


def test_the_limit_of_parameters_is_exact():
    data = encode_model(model(*range(10)))
    assert len(decode_model(data, max_parameters=10).parameters) == 10
    with pytest.raises(TooLarge):
        decode_model(data, max_parameters=9)
    with pytest.raises(TooLarge):
        decode_model(bytes(10_000), max_parameters=9)


def test_decoded_parameters_are_read_only():
    decoded = decode_model(encode_model(model(1, 2)), max_parameters=2)
    with pytest.raises(ValueError, match="read-only"):
        decoded.parameters[0] = 3


@given(
    hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(-2000, 2000, width=32)),
    st.integers(0, 20),
)
def test_conversion_rounds_half_to_even(values, fraction_bits):
    converted = from_float32(values, fraction_bits=fraction_bits)
    expected = [round(Fraction(float(v)) * 2**fraction_bits) for v in values]
    assert converted.parameters.tolist() == expected


@given(st.lists(st.integers(-(2**24), 2**24), min_size=1, max_size=20), st.integers(0, 30))
def test_what_float32_holds_survives_the_round_trip(parameters, fraction_bits):
    original = model(*parameters, fraction_bits=fraction_bits)
    assert from_float32(to_float32(original), fraction_bits=fraction_bits) == original


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_refused(value):
    with pytest.raises(NonFiniteModel, match="parameter 1"):
        from_float32(np.array([0, value], dtype=np.float32))


def test_overflow_is_refused_one_step_past_the_limit():
    limit = np.float32(2.0**11)
    below = np.nextafter(limit, np.float32(0))
    assert from_float32(np.array([below, -limit])).parameters[1] == -(2**31)
    for value in (limit, np.nextafter(-limit, np.float32(-np.inf))):
        with pytest.raises(ModelOverflow):
            from_float32(np.array([value], dtype=np.float32))


def test_other_dtypes_are_no_model():
    with pytest.raises(OutOfBounds):
        FixedPointModel(parameters=np.zeros(3, dtype=np.int64))  # type: ignore[arg-type]
    with pytest.raises(OutOfBounds):
        FixedPointModel(parameters=np.zeros((1, 3), dtype=np.int32))
    assert model(1) != 1


def test_a_model_is_named_by_the_plain_digest_of_its_bytes():
    import hashlib

    data = encode_model(model(1, 2, 3))
    assert model_digest(data) == hashlib.sha256(data).digest()
