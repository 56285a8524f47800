from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import OutOfBounds, TooLarge
from headwater_protocol.messages.chunk import (
    CHUNK_BYTES,
    MAX_BLOB_BYTES,
    MAX_CHUNK_MESSAGE_BYTES,
    MAX_CHUNKS,
    BlobAssembly,
    Chunk,
    count_chunks,
    decode_chunk,
    split_blob,
)

BLOB = bytes(range(256)) * (3 * CHUNK_BYTES // 256) + b"tail"
PIECES = list(split_blob(BLOB))


@pytest.mark.parametrize(
    ("size", "count"), [(1, 1), (CHUNK_BYTES, 1), (CHUNK_BYTES + 1, 2), (2 * CHUNK_BYTES, 2)]
)
def test_pieces_are_full_but_for_the_last(size, count):
    data = bytes(size)
    pieces = list(split_blob(data))
    assert len(pieces) == count == count_chunks(size)
    assert b"".join(piece.data for piece in pieces) == data
    for piece in pieces:
        encoded = encode_record(piece)
        assert len(encoded) <= MAX_CHUNK_MESSAGE_BYTES
        assert decode_chunk(encoded) == piece


def test_a_blob_at_its_limit_is_split_and_one_past_it_is_not():
    assert next(split_blob(bytes(MAX_BLOB_BYTES))).blob_bytes == MAX_BLOB_BYTES
    assert count_chunks(MAX_BLOB_BYTES) == MAX_CHUNKS
    with pytest.raises(TooLarge):
        next(split_blob(bytes(MAX_BLOB_BYTES + 1)))
    with pytest.raises(OutOfBounds):
        next(split_blob(b""))


SPOILED = {
    "a short piece in the middle": replace(PIECES[0], data=b"x"),
    "a long last piece": replace(PIECES[-1], data=b"tails"),
    "a piece behind the last": replace(PIECES[0], index=4),
    "a piece far behind the last": replace(PIECES[-1], index=MAX_CHUNKS - 1),
    "an index past the limit": replace(PIECES[0], index=MAX_CHUNKS),
    "no data": replace(PIECES[0], data=b""),
    "too much data": replace(PIECES[0], data=bytes(CHUNK_BYTES + 1)),
    "no size": replace(PIECES[0], blob_bytes=0),
    "a size past the limit": replace(PIECES[0], blob_bytes=MAX_BLOB_BYTES + 1),
}


@pytest.mark.parametrize("piece", SPOILED.values(), ids=SPOILED.keys())
def test_a_piece_that_does_not_fit_its_place_is_refused(piece):
    with pytest.raises(OutOfBounds):
        decode_chunk(encode_record(piece))


def test_a_message_past_its_limit_is_not_parsed():
    with pytest.raises(TooLarge):
        decode_chunk(bytes(MAX_CHUNK_MESSAGE_BYTES + 1))


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(len(PIECES))), st.lists(st.integers(0, len(PIECES) - 1), max_size=3))
def test_pieces_make_the_blob_in_any_order_and_however_often(order, again):
    assembly = BlobAssembly(blob_digest(BLOB))
    assert assembly.missing == []
    for index in again:
        assert assembly.add(PIECES[index]) is None
    results = [assembly.add(PIECES[index]) for index in order]
    assert [result for result in results if result is not None] == [BLOB]


def test_what_is_missing_is_known_after_the_first_piece():
    assembly = BlobAssembly(blob_digest(BLOB))
    assembly.add(PIECES[2])
    assert assembly.missing == [0, 1, 3]


def test_a_false_piece_costs_a_retry_and_no_more():
    assembly = BlobAssembly(blob_digest(BLOB))
    assert assembly.add(replace(PIECES[1], data=bytes(CHUNK_BYTES))) is None
    for piece in (PIECES[0], PIECES[2], PIECES[3]):
        assert assembly.add(piece) is None
    assert assembly.missing == [0, 1, 2, 3]
    assert [assembly.add(piece) for piece in PIECES] == [None, None, None, BLOB]


def test_a_piece_that_announces_another_size_starts_over():
    assembly = BlobAssembly(blob_digest(BLOB))
    assembly.add(PIECES[0])
    false = next(split_blob(b"x"))
    assert assembly.add(replace(false, blob=blob_digest(BLOB))) is None
    assert [assembly.add(piece) for piece in PIECES][-1] == BLOB


def test_a_piece_of_another_blob_is_refused():
    assembly = BlobAssembly(blob_digest(b"other"))
    with pytest.raises(OutOfBounds, match="another blob"):
        assembly.add(PIECES[0])


def test_a_blob_past_the_receivers_limit_is_refused_by_its_first_piece():
    at_limit = BlobAssembly(blob_digest(BLOB), max_bytes=len(BLOB))
    assert [at_limit.add(piece) for piece in PIECES][-1] == BLOB
    with pytest.raises(TooLarge):
        BlobAssembly(blob_digest(BLOB), max_bytes=len(BLOB) - 1).add(PIECES[0])


def test_an_announced_size_takes_no_memory():
    assembly = BlobAssembly(blob_digest(BLOB))
    assembly.add(
        Chunk(blob=blob_digest(BLOB), index=0, blob_bytes=MAX_BLOB_BYTES, data=bytes(CHUNK_BYTES))
    )
    assert len(assembly.missing) == MAX_CHUNKS - 1
