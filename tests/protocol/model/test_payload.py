import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headwater_protocol.encoding.cbor import decode_canonical, encode_canonical
from headwater_protocol.errors import (
    BadEncoding,
    InvalidMessage,
    NonCanonicalEncoding,
    OutOfBounds,
    TooLarge,
)
from headwater_protocol.model import payload
from headwater_protocol.model.payload import decode_payload, encode_payload, max_payload_bytes
from headwater_protocol.model.quantize import quantize
from headwater_protocol.model.quantized_delta import QuantizedDelta
from tests.protocol.model.builders import MLP_SIZES, mlp_delta, quantized_deltas


def decode_like(data: bytes, delta: QuantizedDelta, *, max_bytes: int = 10**6) -> QuantizedDelta:
    return decode_payload(
        data,
        tensor_sizes=delta.tensor_sizes,
        bits=delta.bits,
        fraction_bits=delta.fraction_bits,
        max_bytes=max_bytes,
    )


def small_delta(codes: list[int], *, bits: int = 4, exponent: int = -10) -> QuantizedDelta:
    return QuantizedDelta(
        codes=np.array(codes, dtype=np.int8),
        exponents=(exponent,),
        tensor_sizes=(len(codes),),
        bits=bits,
        fraction_bits=20,
    )


def dense_fields(delta: QuantizedDelta) -> list:
    fields = decode_canonical(encode_payload(delta), max_bytes=10**6)
    assert len(fields) == 6
    return fields


@given(quantized_deltas())
@settings(max_examples=300, deadline=None)
def test_round_trip_within_the_stated_size(delta):
    data = encode_payload(delta)
    assert len(data) <= max_payload_bytes(
        num_parameters=delta.num_parameters,
        num_tensors=len(delta.tensor_sizes),
        bits=delta.bits,
    )
    decoded = decode_like(data, delta)
    assert decoded == delta
    assert hash(decoded) == hash(delta)


@given(st.binary(max_size=80))
def test_arbitrary_bytes_raise_only_invalid_message(data):
    try:
        decoded = decode_payload(
            data, tensor_sizes=(5, 3), bits=4, fraction_bits=20, max_bytes=10**6
        )
    except InvalidMessage:
        return
    assert encode_payload(decoded) == data


@given(
    st.integers(-5, 12) | st.binary(max_size=2),
    st.integers(-1, 9),
    st.binary(min_size=1, max_size=3),
    st.integers(-1, 9) | st.just(255) | st.integers(0, 2**64 - 1),
    st.binary(max_size=12),
    st.binary(max_size=12),
    st.none() | st.tuples(st.integers(0, 2**64 - 1) | st.integers(0, 9), st.binary(), st.binary()),
    st.integers(1, 8),
)
@example(1, 8, b"\xf6", 0, bytes(10**5) + b"\x01", b"", None, 8)
@settings(max_examples=500)
def test_arbitrary_fields_raise_only_invalid_message(
    version, sent_bits, exponents, width, unary, low, sparse, bits
):
    data = encode_canonical([version, sent_bits, exponents, width, unary, low, *(sparse or ())])
    try:
        decoded = decode_payload(
            data, tensor_sizes=(8,), bits=bits, fraction_bits=20, max_bytes=10**6
        )
    except InvalidMessage:
        return
    assert encode_payload(decoded) == data


@given(quantized_deltas(), st.data())
@settings(max_examples=300, deadline=None)
def test_a_mutated_payload_is_refused_or_another_canonical_one(delta, data):
    original = bytearray(encode_payload(delta))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(original) - 1))
        match data.draw(st.sampled_from(["flip", "insert", "delete"])):
            case "flip":
                original[place] ^= 1 << data.draw(st.integers(0, 7))
            case "insert":
                original.insert(place, data.draw(st.integers(0, 255)))
            case _ if len(original) > 1:
                del original[place]
    mutated = bytes(original)
    try:
        decoded = decode_like(mutated, delta)
    except InvalidMessage:
        return
    assert encode_payload(decoded) == mutated


@given(quantized_deltas())
@settings(max_examples=50, deadline=None)
def test_trailing_bytes_are_refused(delta):
    with pytest.raises(InvalidMessage):
        decode_like(encode_payload(delta) + b"\0", delta)


def test_the_limit_of_bytes_is_exact():
    delta = small_delta([1, -2, 3, 0, 7])
    data = encode_payload(delta)
    assert decode_like(data, delta, max_bytes=len(data)) == delta
    with pytest.raises(TooLarge):
        decode_like(data, delta, max_bytes=len(data) - 1)


@pytest.mark.parametrize(
    "fields", [1, [], [1] * 5, [1] * 7, ["x"] * 6, [True, 4, b"", 0, b"", b""]]
)
def test_other_records_are_bad_encodings(fields):
    with pytest.raises(BadEncoding):
        decode_like(encode_canonical(fields), small_delta([1]))


@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        (0, 2, BadEncoding),
        (1, 5, OutOfBounds),
        (1, b"", BadEncoding),
        (2, b"\xf6\xf6", OutOfBounds),
        (2, b"", OutOfBounds),
        (2, b"\xeb", OutOfBounds),  # -21, below the grid of 2**-20
        (2, b"\x09", OutOfBounds),  # 9: 7 * 2**29 exceeds int32
        (3, 8, BadEncoding),
        (3, -1, BadEncoding),
        (3, 254, BadEncoding),
    ],
)
def test_fields_outside_the_task_are_refused(place, value, error):
    delta = small_delta([1, -2, 3, 0, 7])
    fields = dense_fields(delta)
    fields[place] = value
    with pytest.raises(error):
        decode_like(encode_canonical(fields), delta)


def test_exponents_at_their_limits_are_taken():
    for exponent in (-20, 8):
        delta = small_delta([1, -7, 7], exponent=exponent)
        assert decode_like(encode_payload(delta), delta) == delta


def test_the_asymmetric_code_is_refused():
    data = encode_canonical([1, 4, b"\xf6", payload.PACKED, b"", bytes([0xF1])])
    with pytest.raises(OutOfBounds, match="symbol"):
        decode_like(data, small_delta([1, -1]))


def test_another_layout_than_the_smallest_is_refused():
    delta = small_delta([0] * 50 + [7])
    packed = (delta.codes << 1).view(np.uint8)
    nibbles = [*packed.tolist(), 0]
    low = bytes(a | b << 4 for a, b in zip(nibbles[::2], nibbles[1::2], strict=True))
    data = encode_canonical([1, 4, b"\xf6", payload.PACKED, b"", low])
    with pytest.raises(NonCanonicalEncoding, match="smallest"):
        decode_like(data, delta)


def test_packed_symbols_with_a_unary_part_are_refused():
    data = encode_canonical([1, 4, b"\xf6", payload.PACKED, b"\x01", b"\x21"])
    with pytest.raises(BadEncoding, match="no unary part"):
        decode_like(data, small_delta([1, -1]))


def test_set_padding_is_refused():
    delta = small_delta([7, -7, 7, -7, 5])
    fields = dense_fields(delta)
    assert fields[3] == payload.PACKED
    fields[5] = fields[5][:-1] + bytes([fields[5][-1] | 0x80])
    with pytest.raises(NonCanonicalEncoding, match="padding"):
        decode_like(encode_canonical(fields), delta)


def test_a_sparse_index_past_the_end_is_refused():
    delta = small_delta([0] * 99 + [1])
    fields = decode_canonical(encode_payload(delta), max_bytes=100)
    assert len(fields) == 9
    count, gap_unary, gap_low = fields[6:]
    assert count == 1
    fields[6:] = [count, gap_unary, bytes([gap_low[0] + 1])]
    with pytest.raises(OutOfBounds, match="index 100 of 100"):
        decode_like(encode_canonical(fields), delta)


def test_a_long_run_in_unary_is_refused_before_it_is_expanded():
    bomb = encode_canonical([1, 8, b"\xf6", 0, bytes(10**6) + b"\x01", b""])
    with pytest.raises(BadEncoding, match="unary for 4 values"):
        decode_payload(bomb, tensor_sizes=(4,), bits=8, fraction_bits=20, max_bytes=10**7)


def test_a_compressed_bomb_is_just_bad_encoding():
    bomb = encode_canonical([1, 8, b"\xf6", 0, b"", zlib.compress(bytes(10**7))])
    with pytest.raises(BadEncoding):
        decode_payload(bomb, tensor_sizes=(4,), bits=8, fraction_bits=20, max_bytes=10**7)


def test_a_claimed_count_beyond_the_model_is_refused():
    bomb = encode_canonical([1, 4, b"\xf6", 0, b"", b"", 2**63, b"", b""])
    with pytest.raises(OutOfBounds, match="non-zero"):
        decode_payload(bomb, tensor_sizes=(4,), bits=4, fraction_bits=20, max_bytes=10**7)


def test_refusals_allocate_in_proportion_to_their_input():
    import tracemalloc

    bombs = [
        [1, 8, b"\xf6", 0, bytes([255]) * 10**5, b""],
        [1, 8, b"\xf6", 0, b"", b"", 4, bytes(10**5), b""],
        [1, 8, b"\xf6", payload.PACKED, b"", bytes(10**5)],
    ]
    for bomb in bombs:
        data = encode_canonical(bomb)
        tracemalloc.start()
        with pytest.raises(InvalidMessage):
            decode_payload(data, tensor_sizes=(4,), bits=8, fraction_bits=20, max_bytes=10**6)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 8 * len(data)


@pytest.mark.parametrize(("bits", "limit_bytes"), [(8, 2000), (4, 1000), (2, 620), (1, 400)])
def test_the_digits_classifier_fits_its_budget(bits, limit_bytes):
    for seed in range(3):
        quantized = quantize(
            mlp_delta(seed), tensor_sizes=MLP_SIZES, bits=bits, rng=np.random.default_rng(seed)
        )
        assert len(encode_payload(quantized)) < limit_bytes


def test_wide_gaps_round_trip():
    codes = np.zeros(300_000, dtype=np.int8)
    codes[[5, 200_000, 299_999]] = [1, -3, 7]
    delta = small_delta(codes.tolist())
    data = encode_payload(delta)
    assert len(data) < 60
    assert decode_like(data, delta) == delta
    fields = decode_canonical(data, max_bytes=100)
    fields[8] += b"\0"
    with pytest.raises(BadEncoding, match="follow the gaps"):
        decode_like(encode_canonical(fields), delta)
