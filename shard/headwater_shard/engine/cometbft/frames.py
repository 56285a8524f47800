"""Frames of CometBFT's sockets: a message's length as a varint, then its bytes.

ABCI and the remote signer speak alike. Every length is checked before anything is kept, so a peer
can make this process hold no more than one frame of the limit.
"""

from collections.abc import Iterator
from typing import Final

from headwater_protocol.errors import InvalidMessage, TooLarge
from headwater_protocol.reasons import ReasonCode

MAX_ABCI_FRAME_BYTES: Final = 48 * 1024 * 1024
"""A block of `MAX_COMET_BLOCK_BYTES` with its commit, twice over; snapshot chunks are smaller."""

MAX_SIGNER_FRAME_BYTES: Final = 10 * 1024
"""As CometBFT has it; a vote with its extension is below 1 kB."""

MAX_LENGTH_BYTES: Final = 5
"""Of a varint below 2**32."""


class BadFrame(InvalidMessage):
    """The stream is no row of frames; it cannot be read on."""

    reason = ReasonCode.BAD_ENCODING


def encode_frame(payload: bytes) -> bytes:
    """The frame around `payload`."""
    length = len(payload)
    prefix = bytearray()
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + payload


class FrameBuffer:
    """Bytes as they come in, payloads as they are complete."""

    __slots__ = ("_buffer", "_max_bytes")

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    @property
    def is_empty(self) -> bool:
        """Whether no part of a frame is held."""
        return not self._buffer

    def feed(self, data: bytes) -> None:
        """Add what was read."""
        self._buffer += data

    def frames(self) -> Iterator[bytes]:
        """The payloads that are complete, in order.

        Raises:
            TooLarge: If a frame announces more than the limit.
            BadFrame: If a length is no varint of 32 bits.
        """
        start = 0
        try:
            while True:
                header = self._read_length(start)
                if header is None:
                    return
                begin, length = header
                if len(self._buffer) < begin + length:
                    return
                payload = bytes(self._buffer[begin : begin + length])
                start = begin + length
                yield payload
        finally:
            del self._buffer[:start]

    def _read_length(self, start: int) -> tuple[int, int] | None:
        """Where the payload begins and how long it is; None where the length is not there yet."""
        length = 0
        for index in range(MAX_LENGTH_BYTES):
            if start + index >= len(self._buffer):
                return None
            byte = self._buffer[start + index]
            length |= (byte & 0x7F) << (7 * index)
            if length > self._max_bytes:
                raise TooLarge("a frame", size=length, limit=self._max_bytes)
            if byte < 0x80:
                return start + index + 1, length
        raise BadFrame(f"a frame's length takes more than {MAX_LENGTH_BYTES} bytes")
