"""Frames: what goes in comes out, in whatever pieces it arrives, and never more than the limit."""

import pytest
from google.protobuf.internal.decoder import _DecodeVarint32  # type: ignore[attr-defined]
from hypothesis import given
from hypothesis import strategies as st

from headwater_protocol.errors import InvalidMessage, TooLarge
from headwater_shard.engine.cometbft.frames import BadFrame, FrameBuffer, encode_frame

LIMIT = 1_000


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, start = [], 0
    for size in sizes:
        pieces.append(data[start : start + size])
        start += size
    return [*pieces, data[start:]]


@given(
    payloads=st.lists(st.binary(max_size=LIMIT), max_size=8),
    sizes=st.lists(st.integers(0, 300), max_size=20),
)
def test_frames_survive_any_cut(payloads: list[bytes], sizes: list[int]) -> None:
    stream = b"".join(encode_frame(payload) for payload in payloads)
    buffer = FrameBuffer(max_bytes=LIMIT)
    found = []
    for piece in cut(stream, sizes):
        buffer.feed(piece)
        found += list(buffer.frames())
    assert found == payloads
    assert buffer.is_empty


@given(st.binary(max_size=2_000))
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    buffer = FrameBuffer(max_bytes=LIMIT)
    buffer.feed(data)
    try:
        for payload in buffer.frames():
            assert len(payload) <= LIMIT
    except InvalidMessage:
        pass


@given(st.integers(0, 2**21))
def test_lengths_are_protobufs_varints(length: int) -> None:
    frame = encode_frame(bytes(length))
    assert _DecodeVarint32(frame, 0) == (length, len(frame) - length)


def test_the_limit_holds_and_one_more_does_not() -> None:
    buffer = FrameBuffer(max_bytes=LIMIT)
    buffer.feed(encode_frame(bytes(LIMIT)))
    assert list(buffer.frames()) == [bytes(LIMIT)]
    buffer.feed(encode_frame(bytes(LIMIT + 1))[:2])
    with pytest.raises(TooLarge):
        list(buffer.frames())


def test_a_length_without_an_end_is_refused() -> None:
    buffer = FrameBuffer(max_bytes=LIMIT)
    buffer.feed(b"\x80" * 5)
    with pytest.raises(BadFrame):
        list(buffer.frames())
