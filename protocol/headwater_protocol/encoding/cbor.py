"""Canonical CBOR over a closed set of types.

Whatever is hashed or signed has exactly one encoding. cbor2 decodes more than one form (long
integers, indefinite lengths, duplicate keys, trailing bytes, tags), so decoding re-encodes and
compares. Maps, floats and tags are left out: records are arrays, and no float may reach a digest.

RFC 8949, section 4.2, "Deterministically Encoded CBOR".
"""

from typing import Final, NoReturn

import cbor2

from headwater_protocol.errors import BadEncoding, NonCanonicalEncoding, TooLarge

MAX_DEPTH: Final = 16
"""Nesting of arrays; the deepest record of the protocol needs 8."""

MAX_INTEGER: Final = 2**64 - 1
MIN_INTEGER: Final = -(2**63)

# cbor2 acts on these tags while it parses: it compiles patterns, parses mail and follows shared
# references, by which 250 bytes can stand for a list of more items than any machine can walk.
_ACTIVE_TAGS: Final = (
    0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 55799,
)  # fmt: skip

TYPE_NAMES: Final = "int, bytes, str, bool, None and lists of these"


def encode_canonical(value: object) -> bytes:
    """Encode `value`, made of int, bytes, str, bool, None, lists and tuples of these.

    Raises:
        TypeError: If `value` holds anything else; that is our own mistake, not a peer's.
    """
    _require_plain(value, MAX_DEPTH)
    return cbor2.dumps(value, canonical=True)


def decode_canonical(data: bytes, *, max_bytes: int) -> object:
    """Decode `data` to plain values; arrays come back as lists.

    Args:
        data: Untrusted bytes.
        max_bytes: The limit of this kind of message, checked before anything is parsed.

    Raises:
        TooLarge: If `data` exceeds `max_bytes`.
        NonCanonicalEncoding: If what it decodes to encodes differently.
        BadEncoding: If it does not decode, nests too deep or holds another type.
    """
    if len(data) > max_bytes:
        raise TooLarge("message", size=len(data), limit=max_bytes)
    try:
        value: object = cbor2.loads(
            data,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            tag_hook=_refuse_tag,
            semantic_decoders=_REFUSED_TAGS,
        )
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise BadEncoding(f"not CBOR: {error}") from error
    try:
        _require_plain(value, MAX_DEPTH)
    except TypeError as error:
        raise BadEncoding(str(error)) from error
    if cbor2.dumps(value, canonical=True) != data:
        raise NonCanonicalEncoding(f"{len(data)} bytes decode to what encodes to other bytes")
    return value


def _refuse_tag(*_: object) -> NoReturn:
    raise ValueError("tags are not part of the encoding")


_REFUSED_TAGS: Final = dict.fromkeys(_ACTIVE_TAGS, _refuse_tag)


def _require_plain(value: object, depth: int) -> None:
    kind = type(value)
    if kind is bytes or kind is str or kind is bool or value is None:
        return
    if kind is int:
        if not MIN_INTEGER <= value <= MAX_INTEGER:  # type: ignore[operator]
            raise TypeError("an integer needs more than 64 bits")
        return
    if kind is list or kind is tuple:
        if depth == 0:
            raise TypeError(f"arrays nest deeper than {MAX_DEPTH}")
        for item in value:  # type: ignore[attr-defined]
            # Most items are leaves, and a call for each would take longer than encoding it.
            kind_of_item = type(item)
            if kind_of_item is bytes or kind_of_item is str or item is None:
                continue
            if kind_of_item is int and 0 <= item <= MAX_INTEGER:
                continue
            _require_plain(item, depth - 1)
        return
    raise TypeError(f"{kind.__name__} is not one of {TYPE_NAMES}")
