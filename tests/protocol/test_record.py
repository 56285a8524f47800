import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

import pytest

from headwater_protocol.chain.task import Codec
from headwater_protocol.chain.transaction import AttestModel, Transfer
from headwater_protocol.encoding.cbor import encode_canonical
from headwater_protocol.encoding.record import (
    Count,
    Length,
    Pattern,
    Range,
    decode_any_record,
    decode_record,
    encode_record,
    from_items,
    require_valid,
)
from headwater_protocol.errors import BadEncoding, OutOfBounds, TooLarge
from tests.support.records import example_records


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    number: Annotated[int, Range(1, 3)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    KIND: ClassVar[str] = "left/1"
    flag: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    KIND: ClassVar[str] = "right/1"
    flag: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    KIND: ClassVar[str] = "sample/1"

    number: Annotated[int, Range(-5, 5)]
    exact: Annotated[bytes, Length(2)]
    data: Annotated[bytes, Length(1, 3)]
    text: Annotated[str, Pattern("[a-z]+")]
    flag: bool
    colour: Colour
    inner: Inner
    maybe: Inner | None
    either: Left | Right
    several: Annotated[tuple[Inner, ...], Count(1, 2)]


SAMPLE = Sample(
    number=-5,
    exact=b"ab",
    data=b"c",
    text="abc",
    flag=True,
    colour=Colour.RED,
    inner=Inner(number=1),
    maybe=None,
    either=Right(flag=False),
    several=(Inner(number=2),),
)
ITEMS = [-5, b"ab", b"c", "abc", True, "red", [1], None, ["right/1", False], [[2]]]

REFUSED = {
    "number below": (0, -6, OutOfBounds),
    "number above": (0, 6, OutOfBounds),
    "a boolean is no number": (0, True, BadEncoding),
    "text is no number": (0, "1", BadEncoding),
    "short": (1, b"a", OutOfBounds),
    "long": (1, b"abc", OutOfBounds),
    "text is no bytes": (1, "ab", BadEncoding),
    "no data": (2, b"", OutOfBounds),
    "too much data": (2, b"abcd", OutOfBounds),
    "pattern": (3, "ABC", OutOfBounds),
    "pattern with a line end": (3, "abc\n", OutOfBounds),
    "bytes are no text": (3, b"abc", BadEncoding),
    "a number is no boolean": (4, 1, BadEncoding),
    "unknown word": (5, "blue", BadEncoding),
    "a word of another type": (5, 1, BadEncoding),
    "missing field": (6, [], BadEncoding),
    "field too many": (6, [1, 1], BadEncoding),
    "no record": (6, 1, BadEncoding),
    "nested bounds": (6, [4], OutOfBounds),
    "required": (6, None, BadEncoding),
    "optional of another type": (7, 1, BadEncoding),
    "optional bounds": (7, [4], OutOfBounds),
    "union without kind": (8, [True], BadEncoding),
    "union of nothing": (8, [], BadEncoding),
    "union of another kind": (8, ["up/1", True], BadEncoding),
    "union of None": (8, None, BadEncoding),
    "union with a missing field": (8, ["left/1"], BadEncoding),
    "too few": (9, [], OutOfBounds),
    "too many": (9, [[1]] * 3, OutOfBounds),
    "no array": (9, 1, BadEncoding),
    "bounds of one of several": (9, [[1], [4]], OutOfBounds),
}


def test_fields_go_in_order_and_nested_records_omit_their_kind():
    assert encode_record(SAMPLE) == encode_canonical(["sample/1", *ITEMS])
    assert decode_record(Sample, encode_record(SAMPLE)) == SAMPLE


@pytest.mark.parametrize(("index", "item", "error"), REFUSED.values(), ids=REFUSED.keys())
def test_a_field_outside_its_annotation_is_refused(index, item, error):
    items = [*ITEMS[:index], item, *ITEMS[index + 1 :]]
    with pytest.raises(error):
        decode_record(Sample, encode_canonical(["sample/1", *items]))


@pytest.mark.parametrize("value", [None, 1, [], ["sample/2", *ITEMS], [None, *ITEMS], "sample/1"])
def test_another_kind_is_refused(value):
    with pytest.raises(BadEncoding, match="sample/1"):
        decode_record(Sample, encode_canonical(value))


@pytest.mark.parametrize("items", [ITEMS[:-1], [*ITEMS, 1]], ids=["fewer", "more"])
def test_another_number_of_fields_is_refused(items):
    with pytest.raises(BadEncoding, match="10 fields"):
        decode_record(Sample, encode_canonical(["sample/1", *items]))


def test_the_limit_of_the_caller_counts():
    data = encode_record(SAMPLE)
    assert decode_record(Sample, data, max_bytes=len(data)) == SAMPLE
    with pytest.raises(TooLarge):
        decode_record(Sample, data, max_bytes=len(data) - 1)


def test_one_of_several_kinds_is_told_by_its_name():
    kinds = (Left, Right)
    for record in (Left(flag=True), Right(flag=True)):
        assert decode_any_record(kinds, encode_record(record), max_bytes=100) == record
    for data in (encode_record(SAMPLE), encode_canonical([]), encode_canonical(1)):
        with pytest.raises(BadEncoding, match=r"left/1, right/1"):
            decode_any_record(kinds, data, max_bytes=1_000)


def test_no_two_examples_of_the_protocol_share_bytes():
    encoded = [encode_record(record) for record in example_records()]
    assert len(set(encoded)) == len(encoded)


def test_items_of_a_record_restore_it():
    assert encode_record(SAMPLE) == encode_canonical(["sample/1", *ITEMS])
    assert from_items(Sample, ITEMS) == SAMPLE


def test_a_record_built_here_is_held_to_its_own_annotations():
    require_valid(SAMPLE)
    require_valid(Codec(bits=8, keep_thousandths=1_000))
    with pytest.raises(OutOfBounds, match=r"Codec\.bits is 9, allowed 1 to 8"):
        require_valid(Codec(bits=9, keep_thousandths=1_000))
    with pytest.raises(OutOfBounds, match=r"Inner\.number"):
        require_valid(dataclasses.replace(SAMPLE, several=(Inner(number=9),)))
    with pytest.raises(BadEncoding):
        require_valid(dataclasses.replace(SAMPLE, flag=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wide:
    KIND: ClassVar[str] = "wide/1"
    number: Annotated[int, Range(-(2**63), 2**64 - 1)]
    data: Annotated[bytes, Length(0, 70_000)]
    text: Annotated[str, Pattern(".*")]
    numbers: Annotated[tuple[Annotated[int, Range(-(2**63), 2**64 - 1)], ...], Count(0, 70_000)]


SIZES = sorted(
    {max(0, 2**bits + step) for bits in (0, 3, 5, 8, 16) for step in (-1, 0, 1)} | {23, 24}
)


@pytest.mark.parametrize("size", SIZES)
def test_heads_of_every_length_are_as_cbor_has_them(size):
    record = Wide(number=0, data=bytes(size), text="é" * size, numbers=(0,) * size)
    items = ["wide/1", 0, bytes(size), "é" * size, [0] * size]
    assert encode_record(record) == encode_canonical(items)


@pytest.mark.parametrize(
    "number",
    sorted(
        {sign * 2**bits + step for bits in range(64) for sign in (-1, 1) for step in (-1, 0, 1)}
        - {-(2**63) - 1}
        | {2**64 - 1}
    ),
)
def test_integers_of_every_length_are_as_cbor_has_them(number):
    record = Wide(number=number, data=b"", text="", numbers=(number,))
    assert encode_record(record) == encode_canonical(["wide/1", number, b"", "", [number]])


@pytest.mark.parametrize(
    ("field", "value"),
    [("number", 2**64), ("number", -(2**63) - 1), ("number", 1.0), ("data", bytearray(b"a")),
     ("text", {}), ("numbers", (1.0,)), ("numbers", 1)],
)  # fmt: skip
def test_what_has_no_encoding_is_not_written(field, value):
    record = dataclasses.replace(Wide(number=0, data=b"", text="", numbers=()), **{field: value})
    with pytest.raises(TypeError):
        encode_record(record)
    with pytest.raises(BadEncoding):
        require_valid(record)


def test_a_class_without_a_kind_stands_in_no_list_of_its_own():
    with pytest.raises(TypeError, match="Inner has no KIND"):
        encode_record(Inner(number=1))


def test_kinds_are_told_apart_though_their_fields_are_alike():
    data = encode_record(AttestModel(round=1, model=bytes(32)))
    with pytest.raises(BadEncoding):
        decode_record(Transfer, data)


@dataclass(frozen=True)
class Unbounded:
    KIND: ClassVar[str] = "unbounded/1"
    number: int


@dataclass(frozen=True)
class WithFloat:
    KIND: ClassVar[str] = "with-float/1"
    number: float


@dataclass(frozen=True)
class OptionalUnion:
    KIND: ClassVar[str] = "optional-union/1"
    either: Left | Right | None


@pytest.mark.parametrize(
    "record", [Unbounded(1), WithFloat(1.0), OptionalUnion(None)], ids=lambda r: type(r).__name__
)
def test_a_class_that_cannot_be_bounded_is_no_record(record):
    with pytest.raises(TypeError, match=type(record).__name__):
        encode_record(record)
