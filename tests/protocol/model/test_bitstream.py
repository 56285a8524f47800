import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_protocol.errors import BadEncoding, NonCanonicalEncoding
from headwater_protocol.model.bitstream import (
    decode_unary,
    encode_unary,
    pack_fields,
    unpack_fields,
)


@given(st.integers(0, 8), st.lists(st.integers(0, 255), max_size=50))
def test_fields_round_trip_in_whole_bytes(width, values):
    fields = np.array([value % 2**width for value in values], dtype=np.uint8)
    data = pack_fields(fields, width)
    assert len(data) == -(-len(values) * width // 8)
    assert unpack_fields(data, width, count=len(values)).tolist() == fields.tolist()
    packed = sum(int(value) << width * place for place, value in enumerate(fields))
    assert int.from_bytes(data, "little") == packed


@given(st.lists(st.integers(0, 255), max_size=50))
def test_unary_round_trips(values):
    data = encode_unary(np.array(values, dtype=np.uint8))
    assert decode_unary(data, count=len(values), max_total=sum(values)).tolist() == values
    text = "".join("0" * value + "1" for value in values)
    assert int.from_bytes(data, "little") == int(text[::-1] or "0", 2)


@pytest.mark.parametrize("data", [b"", b"\x01\x00\x00"])
def test_fields_of_another_length_are_refused(data):
    with pytest.raises(BadEncoding, match="5 fields of 3 bits"):
        unpack_fields(data, 3, count=5)


def test_set_padding_is_refused():
    assert unpack_fields(b"\xff\x7f", 3, count=5).tolist() == [7] * 5
    with pytest.raises(NonCanonicalEncoding):
        unpack_fields(b"\xff\xff", 3, count=5)


def test_another_number_of_unary_values_is_refused():
    assert decode_unary(b"\x05", count=2, max_total=6).tolist() == [0, 1]
    for count in (1, 3):
        with pytest.raises(BadEncoding, match="2 values in unary"):
            decode_unary(b"\x05", count=count, max_total=6)


def test_unary_is_bounded_before_it_is_expanded():
    assert decode_unary(bytes(2) + b"\x80", count=1, max_total=23).tolist() == [23]
    with pytest.raises(BadEncoding, match="unary for 1 values"):
        decode_unary(bytes(2) + b"\x80", count=1, max_total=15)


def test_an_empty_byte_after_unary_is_refused():
    with pytest.raises(NonCanonicalEncoding):
        decode_unary(b"\x01\x00", count=1, max_total=15)
