import time

import pytest

from headwater_protocol.encoding.cbor import (
    MAX_DEPTH,
    MAX_INTEGER,
    MIN_INTEGER,
    decode_canonical,
    encode_canonical,
)
from headwater_protocol.errors import BadEncoding, NonCanonicalEncoding, TooLarge

NON_CANONICAL = {
    "zero in two bytes": "1800",
    "23 in two bytes": "1817",
    "255 in three bytes": "1900ff",
    "65535 in five bytes": "1a0000ffff",
    "a small number in nine bytes": "1b0000000000000001",
    "a long negative": "3800",
    "a long byte string length": "580161",
    "a long text length": "780161",
    "a long array length": "980101",
    "a long integer inside an array": "811801",
}

REFUSED = {
    "nothing": "",
    "trailing bytes": "0101",
    "a second array behind": "810181",
    "an array cut off": "8201",
    "a byte string cut off": "4401",
    "an array without end": "9f01ff",
    "a byte string without end": "5f4101ff",
    "a text without end": "7f6161ff",
    "a map without end": "bf0101ff",
    "a lone break": "ff",
    "an empty map": "a0",
    "a map": "a10102",
    "a map inside": "81a10102",
    "duplicate keys": "a201010102",
    "duplicate keys inside": "81a201010102",
    "an array as a key": "a1810101",
    "half float": "f93c00",
    "single float": "fa3f800000",
    "double float": "fb3ff0000000000000",
    "NaN": "f97e00",
    "infinity": "f97c00",
    "undefined": "f7",
    "simple value": "f0",
    "long simple value": "f820",
    "reserved length": "1c",
    "invalid text": "61ff",
    "half a surrogate pair": "63eda080",
    "array of 2**62 items": "9b4000000000000000",
    "byte string of 2**62 bytes": "5b4000000000000000",
    "map of 2**62 pairs": "bb4000000000000000",
    "an integer of 65 bits, negative": "3b8000000000000000",
}

TAGGED = {
    "date text": "c074323032302d30312d30315430303a30303a30305a",
    "date number": "c100",
    "positive bignum": "c24101",
    "huge bignum": "c2581f" + "ff" * 31,
    "negative bignum": "c34101",
    "decimal fraction": "c4820101",
    "decimal fraction of a huge exponent": "c4821b400000000000000001",
    "big float": "c5820101",
    "big float of a huge exponent": "c5821b400000000000000001",
    "string reference": "d81900",
    "string reference namespace": "d9010080",
    "shareable": "d81c80",
    "shared reference": "d81d00",
    "cycle": "d81c81d81d00",
    "rational by zero": "d81e820100",
    "regular expression": "d8236128",
    "mail": "d8246161",
    "UUID": "d82550" + "00" * 16,
    "day": "d86400",
    "set": "d9010280",
    "set of arrays": "d901028180",
    "address": "d901044401020304",
    "address range": "d90105a14401020304181f",
    "day text": "d903ec6a323032302d30312d3031",
    "complex": "d9a7f8820101",
    "self-described": "d9d9f701",
    "unknown": "d9ffff01",
    "inside an array": "81c24101",
}


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        23,
        24,
        MAX_INTEGER,
        MIN_INTEGER,
        b"",
        b"\xff" * 300,
        "",
        "é",
        [],
        [1, [b"2", ["3", None]]],
    ],
    ids=repr,
)
def test_plain_values_come_back(value):
    data = encode_canonical(value)
    assert decode_canonical(data, max_bytes=len(data)) == value


@pytest.mark.parametrize("data", NON_CANONICAL.values(), ids=NON_CANONICAL.keys())
def test_a_second_form_of_a_value_is_not_canonical(data):
    with pytest.raises(NonCanonicalEncoding):
        decode_canonical(bytes.fromhex(data), max_bytes=100)


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_part_of_the_encoding_is_refused(data):
    with pytest.raises(BadEncoding):
        decode_canonical(bytes.fromhex(data), max_bytes=100)


@pytest.mark.parametrize("data", TAGGED.values(), ids=TAGGED.keys())
def test_tags_are_refused(data):
    with pytest.raises(BadEncoding, match="tag"):
        decode_canonical(bytes.fromhex(data), max_bytes=100)


def test_shared_references_cannot_make_a_few_bytes_cost_a_day():
    levels, width = 12, 20
    rows = [b"\xd8\x1c" + bytes([0x80 + width]) + b"\x01" * width]
    rows += [
        b"\xd8\x1c" + bytes([0x80 + width]) + (b"\xd8\x1d" + bytes([level])) * width
        for level in range(levels)
    ]
    data = bytes([0x80 + len(rows)]) + b"".join(rows)
    started = time.perf_counter()
    with pytest.raises(BadEncoding, match="tag"):
        decode_canonical(data, max_bytes=len(data))
    assert time.perf_counter() - started < 1


def nested(depth: int) -> bytes:
    return b"\x81" * depth + b"\x01"


def test_arrays_nest_to_the_limit_and_no_deeper():
    value = decode_canonical(nested(MAX_DEPTH), max_bytes=100)
    assert encode_canonical(value) == nested(MAX_DEPTH)
    with pytest.raises(BadEncoding):
        decode_canonical(nested(MAX_DEPTH + 1), max_bytes=100)
    with pytest.raises(BadEncoding):
        decode_canonical(nested(100_000), max_bytes=200_000)
    with pytest.raises(TypeError, match="deeper"):
        encode_canonical([value])


def test_a_message_at_its_limit_is_read_and_one_past_it_is_not():
    data = encode_canonical(b"x" * 50)
    assert decode_canonical(data, max_bytes=len(data)) == b"x" * 50
    with pytest.raises(TooLarge) as caught:
        decode_canonical(data, max_bytes=len(data) - 1)
    assert (caught.value.size, caught.value.limit) == (len(data), len(data) - 1)


@pytest.mark.parametrize(
    "value",
    [1.5, {}, {1}, complex(1, 2), 2**64, -(2**63) - 1, [float("nan")], bytearray(b"x")],
    ids=repr,
)
def test_other_types_are_our_own_mistake(value):
    with pytest.raises(TypeError):
        encode_canonical(value)
