"""The bytes of a quantized delta: what a device publishes and a blob store keeps.

An envelope is the canonical CBOR array

    [version, bits, exponents, width, unary, low]                              dense
    [version, bits, exponents, width, unary, low, count, gap_unary, gap_low]   sparse

`exponents` is one signed byte a tensor. A symbol is a code in zigzag order (0, -1, 1, -2, ...).
Dense bodies hold one symbol a parameter. Sparse ones hold the `count` non-zero codes, the symbol
reduced by one as it cannot be zero, and the zeros in front of each as gaps. Symbols are Rice coded
with `width` low bits; `width` = `PACKED` says that they have no unary part and `bits` low bits.
The width of the gaps follows from `count`, so it is not sent.

Of these layouts the encoder takes the smallest, in a fixed order among equals, and the decoder
insists on it. A delta therefore has one payload per task, and two devices with equal payload
digests sent equal deltas. There is no general-purpose decompressor to bomb: the task gives the
number of parameters, and every stream is checked against it before it is expanded.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headwater_protocol.encoding.cbor import decode_canonical, encode_canonical
from headwater_protocol.errors import BadEncoding, NonCanonicalEncoding, OutOfBounds
from headwater_protocol.model.bitstream import (
    decode_unary,
    encode_unary,
    pack_fields,
    unpack_fields,
)
from headwater_protocol.model.bounds import require_range, require_tensor_sizes
from headwater_protocol.model.quantized_delta import MAX_BITS, MIN_BITS, QuantizedDelta, max_code

PAYLOAD_VERSION: Final = 1

PACKED: Final = 255
"""In place of a Rice width: symbols have a fixed width and no unary part."""

MAX_OVERHEAD_BYTES: Final = 48
"""CBOR heads and small fields of an envelope, without exponents and streams."""

_SYMBOLS: Final = 2**MAX_BITS

_RICE_BITS: Final = (np.arange(_SYMBOLS) >> np.arange(MAX_BITS)[:, None]) + (
    np.arange(MAX_BITS)[:, None] + 1
)
"""Bits of a symbol, by width and symbol; shape (8, 256)."""


class _Layout(NamedTuple):
    sparse: bool
    width: int


def max_payload_bytes(*, num_parameters: int, num_tensors: int, bits: int) -> int:
    """Bound the payload of any delta of this shape; a task's limit need never exceed it.

    The encoder falls back to fixed-width symbols, so no delta needs more than `bits` a parameter,
    or two bits where a one-bit delta has zeros.
    """
    return (num_parameters * max(2, bits) + 7) // 8 + num_tensors + MAX_OVERHEAD_BYTES


def encode_payload(quantized: QuantizedDelta) -> bytes:
    """Encode in the smallest layout; equal deltas give equal bytes on every platform."""
    symbols = _zigzag(quantized.codes)
    layout, indices = _choose_layout(symbols, quantized.bits)
    streams: list[int | bytes] = []
    if layout.sparse:
        gaps = _to_gaps(indices)
        gap_width = _gap_width(count=len(indices), num_parameters=len(symbols))
        streams = [len(indices), encode_unary(gaps >> gap_width), _pack_wide(gaps, gap_width)]
        symbols = symbols[indices] - np.uint8(1)
    elif layout.width == PACKED and quantized.bits == 1:
        # Without zeros the symbols are 1 and 2, one more than their bit.
        symbols = symbols - np.uint8(1)
    if layout.width == PACKED:
        unary, low = b"", pack_fields(symbols, quantized.bits)
    else:
        unary = encode_unary(symbols >> layout.width)
        low = pack_fields(symbols, layout.width)
    exponents = np.array(quantized.exponents, dtype=np.int8).tobytes()
    return encode_canonical(
        [PAYLOAD_VERSION, quantized.bits, exponents, layout.width, unary, low, *streams]
    )


def decode_payload(
    data: bytes,
    *,
    tensor_sizes: tuple[int, ...],
    bits: int,
    fraction_bits: int,
    max_bytes: int,
) -> QuantizedDelta:
    """Decode an untrusted payload against what its task says.

    Args:
        data: Untrusted bytes.
        tensor_sizes: Parameters of each tensor of the task's model.
        bits: The task's bits a code.
        fraction_bits: The task's grid.
        max_bytes: The task's limit of a payload, checked before anything is parsed.

    Raises:
        TooLarge: If `data` exceeds `max_bytes`.
        BadEncoding: If it is no envelope of this version, or its streams do not hold what the
            task's shape needs.
        NonCanonicalEncoding: If the encoder would have written other bytes.
        OutOfBounds: If bits, exponents or codes are outside the task's range.

    No other exception leaves it, whatever `data` holds, and it allocates in proportion to the
    number of parameters and `max_bytes`.
    """
    num_parameters = require_tensor_sizes(tensor_sizes)
    require_range("bits", bits, low=MIN_BITS, high=MAX_BITS)
    fields = decode_canonical(data, max_bytes=max_bytes)
    if not isinstance(fields, list) or len(fields) not in {6, 9}:
        raise BadEncoding("a payload is an array of 6 or 9 fields")
    version, sent_bits, exponents, width, unary, low = fields[:6]
    if type(version) is not int or version != PAYLOAD_VERSION:
        raise BadEncoding(f"payload version is {version!r}, known is {PAYLOAD_VERSION}")
    if (
        type(sent_bits) is not int
        or type(exponents) is not bytes
        or type(width) is not int
        or type(unary) is not bytes
        or type(low) is not bytes
    ):
        raise BadEncoding("a payload's fields are int, int, bytes, int, bytes, bytes")
    require_range("bits", sent_bits, low=bits, high=bits)
    if len(exponents) != len(tensor_sizes):
        raise OutOfBounds(f"{len(exponents)} exponents for {len(tensor_sizes)} tensors")
    if width != PACKED and not 0 <= width < MAX_BITS:
        raise BadEncoding(f"width is {width}, allowed are 0 to {MAX_BITS - 1} and {PACKED}")
    layout = _Layout(sparse=len(fields) == 9, width=width)
    if layout.sparse:
        indices = _decode_indices(fields[6], fields[7], fields[8], num_parameters=num_parameters)
        symbols = np.zeros(num_parameters, dtype=np.uint8)
        reduced = _decode_symbols(unary, low, width=width, bits=bits, count=len(indices), offset=1)
        symbols[indices] = reduced + np.uint8(1)
    else:
        symbols = _decode_symbols(
            unary, low, width=width, bits=bits, count=num_parameters, offset=0
        )
    if _choose_layout(symbols, bits)[0] != layout:
        raise NonCanonicalEncoding(f"{layout} is not the smallest layout")
    return QuantizedDelta(
        codes=_unzigzag(symbols),
        exponents=tuple(np.frombuffer(exponents, dtype=np.int8).tolist()),
        tensor_sizes=tensor_sizes,
        bits=bits,
        fraction_bits=fraction_bits,
    )


def _zigzag(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    return ((codes << 1) ^ (codes >> 7)).view(np.uint8)


def _unzigzag(symbols: NDArray[np.uint8]) -> NDArray[np.int8]:
    # 0 - 1 wraps to 255, the complement that turns 2n + 1 into -n - 1.
    return ((symbols >> 1) ^ (np.uint8(0) - (symbols & 1))).view(np.int8)


def _choose_layout(symbols: NDArray[np.uint8], bits: int) -> tuple[_Layout, NDArray[np.int64]]:
    """Return the smallest layout and, if sparse was considered, the places of the non-zeros."""
    num_parameters = len(symbols)
    num_symbols = 2 * max_code(bits) + 1
    counts = np.bincount(symbols, minlength=num_symbols)
    costs = _RICE_BITS[:bits, :num_symbols] @ counts
    width = int(costs.argmin())
    best, best_bits = _Layout(False, width), int(costs[width])
    zeros = int(counts[0])
    if num_parameters * bits < best_bits and (bits > 1 or zeros == 0):
        best, best_bits = _Layout(False, PACKED), num_parameters * bits
    no_indices = np.empty(0, dtype=np.int64)
    if not (2 * zeros > num_parameters or (bits == 1 and zeros > 0)):
        return best, no_indices
    indices: NDArray[np.int64] = np.flatnonzero(symbols)
    count = len(indices)
    gap_width = _gap_width(count=count, num_parameters=num_parameters)
    gap_bits = count * (gap_width + 1) + int((_to_gaps(indices) >> gap_width).sum())
    costs = _RICE_BITS[:bits, : num_symbols - 1] @ counts[1:]
    width = int(costs.argmin())
    if gap_bits + int(costs[width]) < best_bits:
        best, best_bits = _Layout(True, width), gap_bits + int(costs[width])
    if gap_bits + count * bits < best_bits:
        best = _Layout(True, PACKED)
    return best, indices


def _gap_width(*, count: int, num_parameters: int) -> int:
    """Return the Rice width for gaps: the logarithm of their mean, rounded down."""
    return max(0, ((num_parameters - count) // max(1, count)).bit_length() - 1)


def _to_gaps(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    gaps = indices.copy()
    gaps[1:] -= indices[:-1]
    gaps[1:] -= 1
    return gaps


def _pack_wide(values: NDArray[np.int64], width: int) -> bytes:
    """Pack fields of up to 26 bits as whole low bytes and one narrower field, in that order."""
    return b"".join(
        pack_fields((values >> shift).astype(np.uint8), min(8, width - shift))
        for shift in range(0, width, 8)
    )


def _unpack_wide(data: bytes, width: int, *, count: int) -> NDArray[np.int64]:
    values = np.zeros(count, dtype=np.int64)
    begin = 0
    for shift in range(0, width, 8):
        part_width = min(8, width - shift)
        end = begin + (count * part_width + 7) // 8
        fields = unpack_fields(data[begin:end], part_width, count=count)
        values |= fields.astype(np.int64) << shift
        begin = end
    if begin != len(data):
        raise BadEncoding(f"{len(data) - begin} bytes follow the gaps")
    return values


def _decode_indices(
    count: object, gap_unary: object, gap_low: object, *, num_parameters: int
) -> NDArray[np.int64]:
    if type(count) is not int or type(gap_unary) is not bytes or type(gap_low) is not bytes:
        raise BadEncoding("a sparse payload's fields are int, bytes, bytes")
    require_range("number of non-zero codes", count, low=0, high=num_parameters)
    width = _gap_width(count=count, num_parameters=num_parameters)
    zeros = num_parameters - count
    gaps = decode_unary(gap_unary, count=count, max_total=zeros >> width)
    gaps <<= width
    gaps |= _unpack_wide(gap_low, width, count=count)
    gaps += 1
    np.cumsum(gaps, out=gaps)
    gaps -= 1
    if count and int(gaps[-1]) >= num_parameters:
        raise OutOfBounds(f"index {gaps[-1]} of {num_parameters} parameters")
    return gaps


def _decode_symbols(
    unary: bytes, low: bytes, *, width: int, bits: int, count: int, offset: int
) -> NDArray[np.uint8]:
    """Read `count` symbols; with `offset` 1 they are those of non-zero codes, reduced by one."""
    limit = 2 * max_code(bits) - offset
    if width == PACKED:
        if unary:
            raise BadEncoding("packed symbols have no unary part")
        symbols = unpack_fields(low, bits, count=count)
        if bits == 1 and not offset:
            symbols = symbols + np.uint8(1)
        largest = int(symbols.max(initial=0))
    else:
        high = decode_unary(unary, count=count, max_total=count * (limit >> width))
        # Checked before the shift and the cast, either of which could lose high bits.
        require_range("unary part", int(high.max(initial=0)), low=0, high=limit >> width)
        symbols = high.astype(np.uint8) << np.uint8(width)
        symbols |= unpack_fields(low, width, count=count)
        largest = int(symbols.max(initial=0))
    require_range("symbol", largest, low=0, high=limit)
    return symbols
