"""Records: frozen dataclasses as canonical CBOR arrays, checked against their own annotations.

A record class is a frozen dataclass whose fields are annotated with integers in a `Range`, byte
strings of a `Length`, text of a `Pattern`, booleans, other records, `X | None`, tuples of a
`Count`, string enums, or a union of records with a `KIND`. The annotation is the whole schema:
there is no second list of limits that could drift from it.

A top-level record is the array `[KIND, field, field, ...]`, where KIND names the record and its
version (`"update/1"`); nested records omit the kind unless a union has to tell them apart. Fields
go in order of declaration. Adding a field is a new version of the kind.
"""

import dataclasses
import re
import types
from collections.abc import Callable
from enum import StrEnum
from functools import cache
from typing import (
    Any,
    Final,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from headwater_protocol.encoding.cbor import decode_canonical
from headwater_protocol.encoding.writer import Writer, array_head, derive_writer, text, unwrap
from headwater_protocol.errors import BadEncoding, OutOfBounds

MAX_RECORD_BYTES: Final = 8 * 1024 * 1024
"""The largest record of all; callers pass the smaller limit of what they expect."""


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """Inclusive bounds of an integer."""

    lowest: int
    highest: int


@dataclasses.dataclass(frozen=True, slots=True)
class Length:
    """Inclusive bounds of a byte string's length; one number means exactly that."""

    lowest: int
    highest: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression that a text matches in full."""

    expression: str


@dataclasses.dataclass(frozen=True, slots=True)
class Count:
    """Inclusive bounds of a tuple's number of items."""

    lowest: int
    highest: int


Plain = int | bytes | str | bool | list[Any] | None
R = TypeVar("R")

_Decoder = Callable[[Any, str], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class _Schema:
    """What is derived of a record's annotations, laid out so that little is done a record."""

    names: tuple[str, ...]
    head: bytes
    """Of the array of a record without its kind."""
    head_with_kind: bytes
    """Of the array of a record with its kind, and the kind; empty where the class has none."""
    write_fields: Writer
    """The bytes of all fields, which follow either head."""
    read_plain: Callable[[list[Any]], Any]
    """The record of these items, or None where a plain one lies outside its annotation."""
    decoders: tuple[tuple[_Decoder, str], ...]
    """Of every field, with the name for errors."""


def encode_record(record: object) -> bytes:
    """The canonical bytes of `record`, with its kind in front.

    Raises:
        TypeError: If a value has no encoding or the class no kind; our own mistake.
    """
    schema = _schema(type(record))
    if not schema.head_with_kind:
        raise TypeError(f"{type(record).__name__} has no KIND")
    return schema.head_with_kind + schema.write_fields(record)


def decode_record(kind: type[R], data: bytes, *, max_bytes: int = MAX_RECORD_BYTES) -> R:
    """The record of class `kind` that `data` encodes.

    Raises:
        TooLarge: If `data` exceeds `max_bytes`.
        NonCanonicalEncoding: If another byte string is the encoding of the same record.
        BadEncoding: If `data` is not an encoding of `kind`.
        OutOfBounds: If a field lies outside what its annotation allows.
    """
    items = decode_canonical(data, max_bytes=max_bytes)
    if not isinstance(items, list) or not items or items[0] != _kind(kind):
        raise BadEncoding(f"expected a record of kind {_kind(kind)}")
    return from_items(kind, items[1:])


def decode_any_record(kinds: tuple[type[R], ...], data: bytes, *, max_bytes: int) -> R:
    """The record of one of `kinds` that `data` encodes; errors as `decode_record`."""
    items = decode_canonical(data, max_bytes=max_bytes)
    if isinstance(items, list) and items:
        for kind in kinds:
            if items[0] == _kind(kind):
                return from_items(kind, items[1:])
    raise BadEncoding("expected one of " + ", ".join(_kind(kind) for kind in kinds))


def from_items(kind: type[R], items: object) -> R:
    """The record of class `kind` with the fields `items`; errors as `decode_record`."""
    schema = _schema(kind)
    if type(items) is not list or len(items) != len(schema.names):
        raise BadEncoding(f"{kind.__name__} has {len(schema.names)} fields")
    record: R | None = schema.read_plain(items)
    if record is not None:
        return record
    # The decoders say what is wrong with which field.
    values = [
        decode(item, where) for (decode, where), item in zip(schema.decoders, items, strict=True)
    ]
    return kind(**dict(zip(schema.names, values, strict=True)))


def require_valid(record: object) -> None:
    """Check a record that was built here against its own annotations.

    Raises:
        OutOfBounds: If a field lies outside what its annotation allows.
        BadEncoding: If a field has another type.
    """
    try:
        data = _encode_nested(record)
    except TypeError as error:
        raise BadEncoding(str(error)) from error
    from_items(type(record), decode_canonical(data, max_bytes=MAX_RECORD_BYTES))


def _encode_nested(record: object) -> bytes:
    schema = _schema(type(record))
    return schema.head + schema.write_fields(record)


def _kind(kind: type) -> str:
    name: str = cast(Any, kind).KIND
    return name


def _derive_schema(kind: type) -> _Schema:
    hints = get_type_hints(kind, include_extras=True)
    names = tuple(field.name for field in dataclasses.fields(kind))
    wheres = [f"{kind.__name__}.{name}" for name in names]
    decoders = [_decoder(hints[name], where) for name, where in zip(names, wheres, strict=True)]
    named = cast("str | None", getattr(kind, "KIND", None))
    return _Schema(
        names=names,
        head=array_head(len(names)),
        head_with_kind=b"" if named is None else array_head(1 + len(names)) + text(named),
        write_fields=derive_writer(
            [(name, hints[name]) for name in names], nested=_encode_nested, tagged=encode_record
        ),
        read_plain=_derive_reader(kind, [hints[name] for name in names], decoders, wheres),
        decoders=tuple(zip(decoders, wheres, strict=True)),
    )


def _derive_reader(
    kind: type, hints: list[Any], decoders: list[_Decoder], wheres: list[str]
) -> Callable[[list[Any]], Any]:
    """As a writer, a function made of the annotations: a call a field would be felt."""
    scope: dict[str, Any] = {"kind": kind}
    conditions, arguments = ["True"], []
    for position, (hint, field) in enumerate(zip(hints, dataclasses.fields(kind), strict=True)):
        value = f"v{position}"
        bare, metadata = unwrap(hint)
        if bare is int:
            bounds = _only(metadata, Range, wheres[position])
            conditions += [
                f"type({value}) is int",
                f"{bounds.lowest} <= {value} <= {bounds.highest}",
            ]
        elif bare is bytes:
            size = _only(metadata, Length, wheres[position])
            highest = size.lowest if size.highest is None else size.highest
            conditions += [f"type({value}) is bytes", f"{size.lowest} <= len({value}) <= {highest}"]
        else:
            scope[f"decode_{value}"], scope[f"where_{value}"] = decoders[position], wheres[position]
            arguments.append(f"{field.name}=decode_{value}({value}, where_{value})")
            continue
        arguments.append(f"{field.name}={value}")
    names = "".join(f"v{position}, " for position in range(len(hints)))
    lines = [
        "def read_plain(items):",
        f"    [{names}] = items",
        f"    return kind({', '.join(arguments)}) if {' and '.join(conditions)} else None",
    ]
    # The text is made of the class's own annotations and nothing that anybody sends.
    exec("\n".join(lines), scope)  # noqa: S102
    return cast("Callable[[list[Any]], Any]", scope["read_plain"])


# At 100 records a device and round, a second function around the cache would be felt.
_schema: Final = cast("Callable[[type], _Schema]", cache(_derive_schema))


def _decoder(hint: Any, where: str) -> _Decoder:
    hint, metadata = unwrap(hint)
    origin = get_origin(hint)
    if origin in {Union, types.UnionType}:
        return _union_decoder(get_args(hint), where)
    if origin is tuple:
        return _tuple_decoder(get_args(hint), _only(metadata, Count, where), where)
    if hint is bool:
        return _decode_bool
    if hint is int:
        return _integer_decoder(_only(metadata, Range, where))
    if hint is bytes:
        return _bytes_decoder(_only(metadata, Length, where))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _enum_decoder(hint)
    if hint is str:
        return _text_decoder(_only(metadata, Pattern, where))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return lambda item, _: from_items(hint, item)
    raise TypeError(f"{where}: no encoding for {hint!r}")


def _only(metadata: tuple[Any, ...], kind: type[R], where: str) -> R:
    for item in metadata:
        if isinstance(item, kind):
            return item
    raise TypeError(f"{where}: the annotation needs a {kind.__name__}")


def _decode_bool(item: Any, where: str) -> bool:
    if type(item) is not bool:
        raise BadEncoding(f"{where} is not a boolean")
    return item


def _integer_decoder(bounds: Range) -> _Decoder:
    def decode(item: Any, where: str) -> int:
        if type(item) is not int:
            raise BadEncoding(f"{where} is not an integer")
        if not bounds.lowest <= item <= bounds.highest:
            raise OutOfBounds(f"{where} is {item}, allowed {bounds.lowest} to {bounds.highest}")
        return item

    return decode


def _bytes_decoder(bounds: Length) -> _Decoder:
    highest = bounds.lowest if bounds.highest is None else bounds.highest

    def decode(item: Any, where: str) -> bytes:
        if type(item) is not bytes:
            raise BadEncoding(f"{where} is not a byte string")
        if not bounds.lowest <= len(item) <= highest:
            raise OutOfBounds(
                f"{where} has {len(item)} bytes, allowed {bounds.lowest} to {highest}"
            )
        return item

    return decode


def _text_decoder(pattern: Pattern) -> _Decoder:
    compiled = re.compile(pattern.expression)

    def decode(item: Any, where: str) -> str:
        if type(item) is not str:
            raise BadEncoding(f"{where} is not a text")
        if not compiled.fullmatch(item):
            raise OutOfBounds(f"{where} does not match {pattern.expression}")
        return item

    return decode


def _enum_decoder(kind: type[StrEnum]) -> _Decoder:
    members = {member.value: member for member in kind}

    def decode(item: Any, where: str) -> StrEnum:
        if type(item) is not str or item not in members:
            raise BadEncoding(f"{where} is not one of {', '.join(members)}")
        return members[item]

    return decode


def _tuple_decoder(arguments: tuple[Any, ...], count: Count, where: str) -> _Decoder:
    if len(arguments) != 2 or arguments[1] is not Ellipsis:
        raise TypeError(f"{where}: only tuples of one item type are records' fields")
    decode_item = _decoder(arguments[0], where)

    def decode(items: Any, where: str) -> tuple[Any, ...]:
        if type(items) is not list:
            raise BadEncoding(f"{where} is not an array")
        if not count.lowest <= len(items) <= count.highest:
            raise OutOfBounds(
                f"{where} has {len(items)} items, allowed {count.lowest} to {count.highest}"
            )
        return tuple([decode_item(item, where) for item in items])

    return decode


def _union_decoder(arguments: tuple[Any, ...], where: str) -> _Decoder:
    kinds = [argument for argument in arguments if argument is not type(None)]
    if len(kinds) == 1:
        decode_one = _decoder(kinds[0], where)
        return lambda item, where: None if item is None else decode_one(item, where)
    if len(kinds) != len(arguments):
        raise TypeError(f"{where}: a union of records cannot be None")
    by_name = {_kind(kind): kind for kind in kinds}

    def decode(item: Any, where: str) -> Any:
        if type(item) is not list or not item or type(item[0]) is not str:
            raise BadEncoding(f"{where} is not a tagged record")
        if item[0] not in by_name:
            raise BadEncoding(f"{where} is of the unknown kind {item[0][:40]!r}")
        return from_items(by_name[item[0]], item[1:])

    return decode
