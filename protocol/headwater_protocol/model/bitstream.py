"""Fields of a fixed width and Rice codes, packed into bytes by whole-array operations.

A Rice code writes `value >> width` in unary and the low `width` bits as they are. It is within
three per cent of Huffman on quantized deltas (measured), and unlike DEFLATE it gives the same bytes
with every library version, has one encoding per sequence, and cannot be a decompression bomb: the
number of symbols is known before anything is expanded.

Unary and low parts go into separate streams, which is what lets numpy decode them without a loop
over symbols. Bits fill each byte from the least significant one; padding is zero.

Rice, "Some Practical Universal Noiseless Coding Techniques", JPL 79-22, 1979.
"""

import numpy as np
from numpy.typing import NDArray

from headwater_protocol.errors import BadEncoding, NonCanonicalEncoding


def pack_fields(fields: NDArray[np.uint8], width: int) -> bytes:
    """Pack the low `width` bits (0 to 8) of each field into `ceil(len * width / 8)` bytes."""
    if width == 0:
        return b""
    if width == 8:
        return fields.tobytes()
    if width == 1:
        return np.packbits(fields & 1, bitorder="little").tobytes()
    if width == 4:
        nibbles = fields & 15
        if len(nibbles) % 2:
            nibbles = np.append(nibbles, np.uint8(0))
        return (nibbles[::2] | nibbles[1::2] << 4).tobytes()
    bits = np.unpackbits(fields[:, None], axis=1, count=width, bitorder="little")
    return np.packbits(bits, bitorder="little").tobytes()


def unpack_fields(data: bytes, width: int, *, count: int) -> NDArray[np.uint8]:
    """Unpack `count` fields of `width` bits (0 to 8).

    Raises:
        BadEncoding: If `data` is not exactly as long as they need.
        NonCanonicalEncoding: If padding is not zero.
    """
    used_bits = count * width
    if len(data) != (used_bits + 7) // 8:
        raise BadEncoding(f"{len(data)} bytes cannot be {count} fields of {width} bits")
    if used_bits % 8 and data[-1] >> used_bits % 8:
        raise NonCanonicalEncoding("padding bits are set")
    if width == 0:
        return np.zeros(count, dtype=np.uint8)
    packed = np.frombuffer(data, dtype=np.uint8)
    if width == 8:
        return packed
    if width == 1:
        return np.unpackbits(packed, count=count, bitorder="little")
    if width == 4:
        nibbles = np.empty((len(packed), 2), dtype=np.uint8)
        np.bitwise_and(packed, 15, out=nibbles[:, 0])
        np.right_shift(packed, 4, out=nibbles[:, 1])
        return nibbles.reshape(-1)[:count]
    bits = np.unpackbits(packed, count=used_bits, bitorder="little").reshape(count, width)
    return np.packbits(bits, axis=1, bitorder="little").reshape(-1)


def encode_unary(values: NDArray[np.uint8] | NDArray[np.int64]) -> bytes:
    """Write each value as that many zero bits and a one."""
    if len(values) == 0:
        return b""
    ends = np.cumsum(values, dtype=np.int64)
    ends += np.arange(len(values))
    bits = np.zeros(int(ends[-1]) + 1, dtype=np.uint8)
    bits[ends] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def decode_unary(data: bytes, *, count: int, max_total: int) -> NDArray[np.int64]:
    """Read `count` values that sum to at most `max_total`.

    Never allocates for more than `count + max_total` bits, whatever `data` says.

    Raises:
        BadEncoding: If `data` holds another number of values, or more bits than allowed.
        NonCanonicalEncoding: If a whole byte follows the last value.
    """
    if len(data) > (count + max_total + 7) // 8:
        raise BadEncoding(f"{len(data)} bytes of unary for {count} values up to {max_total}")
    if data and data[-1] == 0:
        raise NonCanonicalEncoding("unary ends in an empty byte")
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little").view(np.bool_)
    found = int(np.count_nonzero(bits))
    if found != count:
        raise BadEncoding(f"{found} values in unary, expected {count}")
    ends: NDArray[np.int64] = np.flatnonzero(bits).astype(np.int64, copy=False)
    values = ends.copy()
    values[1:] -= ends[:-1]
    values[1:] -= 1
    return values
