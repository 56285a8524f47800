"""Writers: a function a record class that puts a record's canonical bytes together at once.

Whoever signs, hashes or stores encodes, so this is the most frequent work of all. A writer is
made of the class's annotations the first time that it is needed, as `dataclass` makes `__init__`:
each field becomes an expression that writes the field if it has the type that its annotation
names, and otherwise hands it to `encode_canonical`, which writes it too or refuses it. Bounds are
not checked here; `require_valid` and decoding do that.

RFC 8949, section 4.2, "Deterministically Encoded CBOR".
"""

import dataclasses
import types
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final, Union, cast, get_args, get_origin

from headwater_protocol.encoding.cbor import encode_canonical

_ONE_BYTE: Final = 256
_BYTES, _TEXT, _ARRAY = 0x40, 0x60, 0x80
_NULL: Final = b"\xf6"

Writer = Callable[[Any], bytes]


def unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The bare type that an annotation names, and the metadata of all its layers."""
    metadata: tuple[Any, ...] = ()
    while True:
        if hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        elif get_origin(hint) is Annotated:
            base, *extra = get_args(hint)
            hint, metadata = base, (*extra, *metadata)
        else:
            return hint, metadata


def _head(major: int, count: int) -> bytes:
    if count < 24:
        return bytes((major | count,))
    size = 1 if count < 1 << 8 else 2 if count < 1 << 16 else 4 if count < 1 << 32 else 8
    return bytes((major | 23 + size.bit_length(),)) + count.to_bytes(size, "big")


_INTEGERS: Final = tuple(_head(0, count) for count in range(_ONE_BYTE))
_BYTES_HEADS: Final = tuple(_head(_BYTES, count) for count in range(_ONE_BYTE))
_TEXT_HEADS: Final = tuple(_head(_TEXT, count) for count in range(_ONE_BYTE))


def _write_integer(value: int) -> bytes:
    if value >> 32 == 0:
        if value < 1 << 16:
            return b"\x19" + value.to_bytes(2, "big") if value > 255 else _INTEGERS[value]
        return b"\x1a" + value.to_bytes(4, "big")
    if value >> 64 == 0:
        return b"\x1b" + value.to_bytes(8, "big")
    return encode_canonical(value)


def _write_bytes(value: bytes) -> bytes:
    return _head(_BYTES, len(value)) + value


def text(value: str) -> bytes:
    """The encoding of a text."""
    data = value.encode()
    size = len(data)
    return (_TEXT_HEADS[size] if size < _ONE_BYTE else _head(_TEXT, size)) + data


def array_head(count: int) -> bytes:
    """What stands in front of an array of `count` items."""
    return _head(_ARRAY, count)


def _write_array(items: list[bytes]) -> bytes:
    return _head(_ARRAY, len(items)) + b"".join(items)


def derive_writer(fields: list[tuple[str, Any]], *, nested: Writer, tagged: Writer) -> Writer:
    """What writes the bytes of a record's fields, one after the other.

    Args:
        fields: Their names and annotations.
        nested: Writes a record that is a field, without its kind.
        tagged: Writes a record that is a field, with its kind.

    Raises:
        TypeError: If there is no encoding for an annotation.
    """
    scope: dict[str, Any] = {
        "integers": _INTEGERS,
        "bytes_heads": _BYTES_HEADS,
        "write_integer": _write_integer,
        "write_bytes": _write_bytes,
        "write_text": text,
        "write_array": _write_array,
        "write_nested": nested,
        "write_tagged": tagged,
        "write_plain": encode_canonical,
        "null": _NULL,
    }
    lines = ["def write_fields(record):"]
    parts = []
    for position, (name, hint) in enumerate(fields):
        lines.append(f"    v{position} = record.{name}")
        parts.append(_expression(hint, f"v{position}", scope))
    lines.append(f"    return b''.join(({''.join(part + ', ' for part in parts)}))")
    # The text is made of the class's own annotations and nothing that anybody sends.
    exec("\n".join(lines), scope)  # noqa: S102
    return cast(Writer, scope["write_fields"])


def _expression(hint: Any, value: str, scope: dict[str, Any]) -> str:
    """Python for the bytes of the variable `value`; what it needs besides goes into `scope`."""
    hint, _ = unwrap(hint)
    origin = get_origin(hint)
    if origin in {Union, types.UnionType}:
        kinds = [argument for argument in get_args(hint) if argument is not type(None)]
        if len(kinds) > 1:
            return f"write_tagged({value})"
        return f"(null if {value} is None else {_expression(kinds[0], value, scope)})"
    if origin is tuple:
        item = f"i{value}"
        return f"write_array([{_expression(get_args(hint)[0], item, scope)} for {item} in {value}])"
    if hint is bool:
        return (
            f"(b'\\xf5' if {value} is True else b'\\xf4' if {value} is False"
            f" else write_plain({value}))"
        )
    if hint is int:
        return (
            f"(write_plain({value}) if type({value}) is not int or {value} < 0"
            f" else integers[{value}] if {value} < {_ONE_BYTE} else write_integer({value}))"
        )
    if hint is bytes:
        return (
            f"(write_plain({value}) if type({value}) is not bytes"
            f" else bytes_heads[n] + {value} if (n := len({value})) < {_ONE_BYTE}"
            f" else write_bytes({value}))"
        )
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        members = f"members_{hint.__name__}"
        scope[members] = {member: text(member.value) for member in hint}
        return f"({members}.get({value}) or write_plain(str({value})))"
    if hint is str:
        return f"(write_text({value}) if type({value}) is str else write_plain({value}))"
    if dataclasses.is_dataclass(hint):
        return f"write_nested({value})"
    raise TypeError(f"no encoding for {hint!r}")
