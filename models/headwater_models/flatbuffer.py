"""A reader of flatbuffers that trusts nothing: every offset is checked before it is followed.

Programs come from a network, so the generated readers, which follow offsets blindly, are no use.
Offsets may point anywhere, also to one place from many; a budget on what is read in total keeps a
small file from standing for a huge tree. Only what TFLite files need is here: tables, vectors of
tables, int32 and bytes, strings and scalars.

FlatBuffers, "FlatBuffer Internals", https://flatbuffers.dev/internals/.
"""

import struct
from typing import Final

from headwater_models.errors import InvalidProgram

_UINT8: Final = struct.Struct("<B")
_INT8: Final = struct.Struct("<b")
_UINT16: Final = struct.Struct("<H")
_INT32: Final = struct.Struct("<i")
_UINT32: Final = struct.Struct("<I")
_UINT64: Final = struct.Struct("<Q")


class FlatBuffer:
    """The bytes of a flatbuffer and what may still be read of them."""

    def __init__(self, data: bytes, *, max_elements: int) -> None:
        """Wrap `data`.

        Args:
            data: The whole file.
            max_elements: How many tables, integers and characters may be read in total.
        """
        self._data = data
        self._num_left = max_elements

    def root(self, identifier: bytes) -> "Table":
        """Return the root table.

        Raises:
            InvalidProgram: If the file identifier is another, or the root lies outside.
        """
        found = self.slice(4, 4)
        if found != identifier:
            raise InvalidProgram(f"file identifier is {found!r}, not {identifier!r}")
        return Table(self, self.follow(0))

    def slice(self, position: int, size: int) -> bytes:
        """Return `size` bytes at `position`, or raise `InvalidProgram` if they lie outside."""
        if position < 0 or size < 0 or position + size > len(self._data):
            raise InvalidProgram(
                f"{size} bytes at {position} lie outside a file of {len(self._data)} bytes"
            )
        return self._data[position : position + size]

    def scalar(self, layout: struct.Struct, position: int) -> int:
        """Return the integer at `position`."""
        value: int = layout.unpack(self.slice(position, layout.size))[0]
        return value

    def follow(self, position: int) -> int:
        """Return where the unsigned offset at `position` points to."""
        return position + self.scalar(_UINT32, position)

    def charge(self, num_elements: int) -> None:
        """Count what is about to be read; raise `InvalidProgram` past the budget."""
        self._num_left -= num_elements
        if self._num_left < 0:
            raise InvalidProgram("the file stands for more elements than its limit")

    def vector(self, position: int, *, element_bytes: int) -> tuple[int, int]:
        """Return the start and length of the vector at `position`, which lies inside the file."""
        length = self.scalar(_UINT32, position)
        if position + 4 + length * element_bytes > len(self._data):
            raise InvalidProgram(
                f"a vector of {length} elements at {position} exceeds a file of "
                f"{len(self._data)} bytes"
            )
        return position + 4, length


class Table:
    """One table; fields are numbered in the order of the schema."""

    def __init__(self, buffer: FlatBuffer, position: int) -> None:
        buffer.charge(1)
        self._buffer = buffer
        self._position = position
        self._vtable = position - buffer.scalar(_INT32, position)
        self._vtable_bytes = buffer.scalar(_UINT16, self._vtable)

    def _field(self, index: int) -> int | None:
        entry = 4 + 2 * index
        if entry + 2 > self._vtable_bytes:
            return None
        offset = self._buffer.scalar(_UINT16, self._vtable + entry)
        return self._position + offset if offset else None

    def _scalar(self, index: int, layout: struct.Struct, default: int) -> int:
        position = self._field(index)
        return default if position is None else self._buffer.scalar(layout, position)

    def uint8(self, index: int, default: int = 0) -> int:
        """Return an unsigned byte or a bool."""
        return self._scalar(index, _UINT8, default)

    def int8(self, index: int, default: int = 0) -> int:
        """Return a signed byte."""
        return self._scalar(index, _INT8, default)

    def int32(self, index: int, default: int = 0) -> int:
        """Return a signed 32-bit integer."""
        return self._scalar(index, _INT32, default)

    def uint32(self, index: int, default: int = 0) -> int:
        """Return an unsigned 32-bit integer."""
        return self._scalar(index, _UINT32, default)

    def uint64(self, index: int, default: int = 0) -> int:
        """Return an unsigned 64-bit integer."""
        return self._scalar(index, _UINT64, default)

    def bytes_vector(self, index: int) -> bytes:
        """Return a vector of bytes; empty if absent."""
        position = self._field(index)
        if position is None:
            return b""
        start, length = self._buffer.vector(self._buffer.follow(position), element_bytes=1)
        return self._buffer.slice(start, length)

    def string(self, index: int) -> str:
        """Return a string; empty if absent."""
        raw = self.bytes_vector(index)
        self._buffer.charge(len(raw))
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise InvalidProgram(f"a string is not UTF-8: {error.reason}") from None

    def int32_vector(self, index: int) -> tuple[int, ...]:
        """Return a vector of signed 32-bit integers; empty if absent."""
        position = self._field(index)
        if position is None:
            return ()
        start, length = self._buffer.vector(self._buffer.follow(position), element_bytes=4)
        self._buffer.charge(length)
        return struct.unpack(f"<{length}i", self._buffer.slice(start, 4 * length))

    def tables(self, index: int) -> "list[Table]":
        """Return a vector of tables; empty if absent."""
        position = self._field(index)
        if position is None:
            return []
        start, length = self._buffer.vector(self._buffer.follow(position), element_bytes=4)
        return [Table(self._buffer, self._buffer.follow(start + 4 * i)) for i in range(length)]
