"""Large blobs in bounded pieces, each retained on its own topic, so that a transfer resumes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.encoding.record import Length, Range, decode_record
from headwater_protocol.errors import OutOfBounds, TooLarge
from headwater_protocol.identifiers import Digest

CHUNK_BYTES: Final = 32 * 1024
MAX_BLOB_BYTES: Final = 64 * 1024 * 1024
MAX_CHUNKS: Final = MAX_BLOB_BYTES // CHUNK_BYTES
MAX_CHUNK_MESSAGE_BYTES: Final = CHUNK_BYTES + 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One piece of a blob; all but the last have `CHUNK_BYTES`."""

    KIND: ClassVar[str] = "chunk/1"

    blob: Digest
    index: Annotated[int, Range(0, MAX_CHUNKS - 1)]
    blob_bytes: Annotated[int, Range(1, MAX_BLOB_BYTES)]
    data: Annotated[bytes, Length(1, CHUNK_BYTES)]


def count_chunks(blob_bytes: int) -> int:
    """How many pieces a blob of `blob_bytes` has."""
    return -(-blob_bytes // CHUNK_BYTES)


def split_blob(data: bytes) -> Iterator[Chunk]:
    """The pieces of a blob, in order.

    Raises:
        TooLarge: If it exceeds `MAX_BLOB_BYTES`.
        OutOfBounds: If it is empty.
    """
    if len(data) > MAX_BLOB_BYTES:
        raise TooLarge("blob", size=len(data), limit=MAX_BLOB_BYTES)
    if not data:
        raise OutOfBounds("an empty blob has no pieces")
    digest = blob_digest(data)
    for index in range(count_chunks(len(data))):
        start = index * CHUNK_BYTES
        yield Chunk(
            blob=digest,
            index=index,
            blob_bytes=len(data),
            data=data[start : start + CHUNK_BYTES],
        )


def decode_chunk(data: bytes) -> Chunk:
    """The piece that `data` encodes.

    Raises:
        InvalidMessage: If it does not decode, or its length is not that of its place.
    """
    chunk = decode_record(Chunk, data, max_bytes=MAX_CHUNK_MESSAGE_BYTES)
    expected = min(CHUNK_BYTES, chunk.blob_bytes - chunk.index * CHUNK_BYTES)
    if len(chunk.data) != expected:
        raise OutOfBounds(f"piece {chunk.index} has {len(chunk.data)} bytes, not {expected}")
    return chunk


class BlobAssembly:
    """The pieces of one blob as they come, in any order, until the digest holds.

    The announced size is untrusted, so memory grows with what came, never with what was announced.
    """

    def __init__(self, blob: Digest, *, max_bytes: int = MAX_BLOB_BYTES) -> None:
        self._blob = blob
        self._max_bytes = max_bytes
        self._blob_bytes = 0
        self._pieces: dict[int, bytes] = {}

    def add(self, chunk: Chunk) -> bytes | None:
        """Take a piece; the whole blob once it is complete and its digest holds, else None.

        A complete set of pieces with another digest is dropped, so that a retry can heal it.

        Raises:
            OutOfBounds: If the piece is of another blob.
            TooLarge: If the blob would exceed `max_bytes`.
        """
        if chunk.blob != self._blob:
            raise OutOfBounds("the piece is of another blob")
        if chunk.blob_bytes > self._max_bytes:
            raise TooLarge("blob", size=chunk.blob_bytes, limit=self._max_bytes)
        if chunk.blob_bytes != self._blob_bytes:
            self._pieces.clear()
            self._blob_bytes = chunk.blob_bytes
        self._pieces[chunk.index] = chunk.data
        if len(self._pieces) < count_chunks(self._blob_bytes):
            return None
        data = b"".join(self._pieces[index] for index in sorted(self._pieces))
        self._pieces.clear()
        return data if blob_digest(data) == self._blob else None

    @property
    def missing(self) -> list[int]:
        """Indices not yet here; empty before the first piece."""
        return [
            index for index in range(count_chunks(self._blob_bytes)) if index not in self._pieces
        ]
