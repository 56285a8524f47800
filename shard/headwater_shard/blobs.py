"""Blobs by digest, in appended segments: one sync makes a whole batch of them durable.

A segment is a row of batches and a batch a row of blobs, both framed as `length (4 bytes,
big-endian) || SHA-256 of the body || body`. A power cut can tear only the last batch, for which no
promise was made yet, since a promise waits for the sync; it is cut off, and put aside in a file of
its own, when the store is opened for writing. Every byte of a segment is
covered by a digest, so an auditor finds any change.
"""

import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.errors import OutOfBounds, StorageError, TooLarge
from headwater_protocol.identifiers import Digest
from headwater_protocol.messages.chunk import MAX_BLOB_BYTES

SEGMENT_BYTES: Final = 256 * 1024 * 1024
"""A segment that reached this size gets no more records."""

COPY_BYTES: Final = 1024 * 1024
"""Read at a time when a torn tail is put aside."""

MOVE_BYTES: Final = 8 * 1024 * 1024
"""Of blobs that are copied at a time, when a segment is given up."""

LENGTH_BYTES: Final = 4
DIGEST_BYTES: Final = 32
HEADER_BYTES: Final = LENGTH_BYTES + DIGEST_BYTES


class Blobs(Protocol):
    """A store of blobs; `BlobStore` is one, a simulation keeps its own in memory."""

    def put_all(self, blobs: Sequence[bytes]) -> tuple[Digest, ...]:
        """Store blobs durably; their names, in the same order.

        Raises:
            StorageError: If the disk refuses.
        """
        ...

    def put(self, blob: bytes) -> Digest:
        """Store one blob durably."""
        ...

    def get(self, digest: Digest) -> bytes:
        """A blob's bytes, whose digest was checked.

        Raises:
            MissingBlob: If it is not here.
            StorageError: If what is here has another digest or cannot be read.
        """
        ...


class MissingBlob(OutOfBounds):
    """A blob is not in the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobDamage:
    """A place in a segment where the bytes are not what was written."""

    segment: str
    offset: int
    problem: str


Mark = tuple[int, int]
"""A segment and an offset in it: what was stored before, and what after."""


@dataclass(frozen=True, slots=True)
class _Place:
    segment: int
    offset: int
    size: int


def _frame(body: bytes) -> bytes:
    return len(body).to_bytes(LENGTH_BYTES, "big") + hashlib.sha256(body).digest() + body


def _read_frame(file: BinaryIO | io.BytesIO) -> tuple[int, bytes | None]:
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return 0, None
    return int.from_bytes(header[:LENGTH_BYTES], "big"), header[LENGTH_BYTES:]


class BlobStore:
    """The blobs of one folder; one writer, any number of readers of what is there."""

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        """Open the store, making the folder where it is missing.

        Raises:
            StorageError: If the folder cannot be used.
        """
        self._folder = folder
        self._read_only = read_only
        self._places: dict[bytes, _Place] = {}
        self._touched: dict[bytes, Mark] = {}
        """Where the store was when a blob that it had was given to it once more."""
        self._total_bytes = 0
        self._damage: list[BlobDamage] = []
        self._readers: dict[int, BinaryIO] = {}
        self._writer: BinaryIO | None = None
        # Intake and computation share a store from threads of their own.
        self._lock = threading.Lock()
        self._segment = 0
        self._end = 0
        try:
            if not read_only:
                folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.glob("segment-*.blobs")):
                self._segment = int(path.stem.removeprefix("segment-"))
                self._end = self._scan(path)
        except (OSError, ValueError) as error:
            raise StorageError(f"{folder}: {error}; check the disk and its permissions") from error

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def total_bytes(self) -> int:
        """Bytes of all blobs, without framing."""
        return self._total_bytes

    @property
    def damage(self) -> Sequence[BlobDamage]:
        """What opening the store found: batches whose bytes or frames are not what was written."""
        return tuple(self._damage)

    def digests(self) -> Iterator[Digest]:
        """The blobs' names, in order of writing."""
        return (Digest(digest) for digest in list(self._places))

    def put_all(self, blobs: Sequence[bytes]) -> tuple[Digest, ...]:
        """Store blobs durably; their names, in the same order. Known ones are not written again.

        Raises:
            TooLarge: If one exceeds `MAX_BLOB_BYTES`.
            StorageError: If the disk refuses; none of the new ones counts as stored then.
        """
        digests = tuple(blob_digest(blob) for blob in blobs)
        for blob in blobs:
            if len(blob) > MAX_BLOB_BYTES:
                raise TooLarge("blob", size=len(blob), limit=MAX_BLOB_BYTES)
        with self._lock:
            new: dict[Digest, bytes] = {}
            for digest, blob in zip(digests, blobs, strict=True):
                if digest in self._places:
                    self._touched[digest] = (self._segment, self._end)
                else:
                    new[digest] = blob
            if new:
                self._append(new)
        return digests

    def put(self, blob: bytes) -> Digest:
        """Store one blob durably; errors as `put_all`."""
        return self.put_all([blob])[0]

    def get(self, digest: Digest) -> bytes:
        """A blob's bytes, whose digest was checked.

        Raises:
            MissingBlob: If it is not here.
            StorageError: If what is here has another digest or cannot be read.
        """
        with self._lock:
            place = self._places.get(digest)
            if place is None:
                raise MissingBlob(f"no blob {digest.hex()} in {self._folder}")
            data = self._read(place)
        if blob_digest(data) != digest:
            raise StorageError(
                f"{self._path(place.segment).name} offset {place.offset}: "
                f"the bytes are not blob {digest.hex()}"
            )
        return data

    def size_of(self, digest: Digest) -> int | None:
        """A blob's size in bytes; None if it is not here."""
        place = self._places.get(digest)
        return None if place is None else place.size

    @property
    def mark(self) -> Mark:
        """Where the store is now; what is stored or given again from now on is after it."""
        with self._lock:
            return (self._segment, self._end)

    def evict(self, is_needed: Callable[[Digest], bool], *, before: Mark, target_bytes: int) -> int:
        """Drop blobs that nobody needs, oldest segments first, until `target_bytes` are left.

        A segment with such blobs is given up whole; what else is in it moves to the end, and is on
        disk there before the file is removed.

        Args:
            is_needed: What stays in any case.
            before: Only blobs that were stored, and given last, before this mark are dropped.
            target_bytes: Of all blobs; nothing is dropped where there are no more.

        Returns:
            Bytes of the blobs dropped.

        Raises:
            StorageError: If the disk refuses; nothing is lost then.
        """
        freed = 0
        for segment in sorted({place.segment for place in list(self._places.values())}):
            if self.total_bytes <= target_bytes or segment > before[0]:
                break
            with self._lock:
                dead = {
                    digest: place
                    for digest, place in self._places.items()
                    if place.segment == segment
                    and max((segment, place.offset), self._touched.get(digest, (0, 0))) < before
                    and not is_needed(Digest(digest))
                }
                if not dead:
                    continue
                for digest, place in dead.items():
                    del self._places[digest]
                    self._touched.pop(digest, None)
                    self._total_bytes -= place.size
                    freed += place.size
                if segment == self._segment:
                    self._begin_segment()
            self._give_up(segment)
        with self._lock:
            for digest in [known for known, at in self._touched.items() if at < before]:
                del self._touched[digest]
        return freed

    def verify(self) -> Iterator[BlobDamage | None]:
        """Check every record's bytes; one item a record, None where it holds."""
        yield from self._damage
        for digest, place in list(self._places.items()):
            try:
                self.get(Digest(digest))
            except StorageError as error:
                yield BlobDamage(
                    segment=self._path(place.segment).name,
                    offset=place.offset,
                    problem=str(error),
                )
            else:
                yield None

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _path(self, segment: int) -> Path:
        return self._folder / f"segment-{segment:06d}.blobs"

    def _read(self, place: _Place) -> bytes:
        try:
            reader = self._reader(place.segment)
            reader.seek(place.offset)
            return reader.read(place.size)
        except OSError as error:
            raise StorageError(f"{self._path(place.segment)}: {error}") from error

    def _give_up(self, segment: int) -> None:
        """Move what is left in a segment to the end, then remove the file."""
        while True:
            with self._lock:
                moving: dict[Digest, bytes] = {}
                moving_bytes = 0
                for digest, place in self._places.items():
                    if place.segment == segment and moving_bytes < MOVE_BYTES:
                        moving[Digest(digest)] = self._read(place)
                        moving_bytes += place.size
                if not moving:
                    break
                self._append(moving)
        try:
            with self._lock:
                if (reader := self._readers.pop(segment, None)) is not None:
                    reader.close()
                self._path(segment).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{self._path(segment)}: {error}") from error

    def _begin_segment(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._segment += 1
        self._end = 0

    def _reader(self, segment: int) -> BinaryIO:
        if segment not in self._readers:
            # Unbuffered: a buffer could hold bytes from before the writer appended.
            self._readers[segment] = self._path(segment).open("rb", buffering=0)
        return self._readers[segment]

    def _scan(self, path: Path) -> int:
        """Read the framing of a segment; where its last whole batch ends."""
        size = path.stat().st_size
        offset = 0
        with path.open("rb") as file:
            while offset < size:
                length, digest = _read_frame(file)
                end = offset + HEADER_BYTES + length
                # No batch is empty, but a file that grew before its bytes came reads as zeros.
                if digest is None or length == 0 or end > size:
                    self._cut(path, offset, size)
                    return offset
                is_last = end == size
                body = file.read(length)
                # Hashing every batch would read the whole store at each start; only the last one
                # can be torn, and a reader checks each blob anyway.
                if (is_last or self._read_only) and hashlib.sha256(body).digest() != digest:
                    if self._read_only:
                        self._report(path, offset, "the batch has another digest")
                    else:
                        self._cut(path, offset, size)
                        return offset
                self._index(path, body, offset + HEADER_BYTES)
                offset = end
        return offset

    def _index(self, path: Path, body: bytes, start: int) -> None:
        position = 0
        with io.BytesIO(body) as file:
            while position < len(body):
                length, digest = _read_frame(file)
                end = position + HEADER_BYTES + length
                if digest is None or end > len(body):
                    self._report(path, start + position, "a blob's frame leaves its batch")
                    return
                # A move that a crash cut short leaves a blob in two places.
                if (known := self._places.get(digest)) is not None:
                    self._total_bytes -= known.size
                self._places[digest] = _Place(
                    self._segment, start + position + HEADER_BYTES, length
                )
                self._total_bytes += length
                file.seek(length, os.SEEK_CUR)
                position = end

    def _report(self, path: Path, offset: int, problem: str) -> None:
        self._damage.append(BlobDamage(segment=path.name, offset=offset, problem=problem))

    def _cut(self, path: Path, offset: int, size: int) -> None:
        if self._read_only:
            problem = f"{size - offset} bytes are no whole batch"
            self._report(path, offset, f"{problem}; if a crash tore it, start its gateway once")
            return
        # A flipped bit in an old frame looks like a torn tail; so nothing is thrown away for good.
        with path.open("r+b") as file:
            file.seek(offset)
            with path.with_suffix(f".torn-{offset}").open("wb") as aside:
                while piece := file.read(COPY_BYTES):
                    aside.write(piece)
                aside.flush()
                os.fsync(aside.fileno())
            file.truncate(offset)
            os.fsync(file.fileno())

    def _append(self, blobs: dict[Digest, bytes]) -> None:
        if self._read_only:
            raise StorageError(f"{self._folder} is open for reading only")
        try:
            writer = self._open_writer()
            offset = self._end + HEADER_BYTES
            parts: list[bytes] = []
            places: dict[bytes, _Place] = {}
            for digest, blob in blobs.items():
                parts.append(_frame(blob))
                places[digest] = _Place(self._segment, offset + HEADER_BYTES, len(blob))
                offset += HEADER_BYTES + len(blob)
            writer.seek(self._end)
            writer.write(_frame(b"".join(parts)))
            writer.flush()
            os.fdatasync(writer.fileno())
        except OSError as error:
            self._drop_writer()
            raise StorageError(
                f"{self._path(self._segment)}: {error}; free space on the disk"
            ) from error
        for name, place in places.items():
            if name not in self._places:
                self._total_bytes += place.size
            self._places[name] = place
        self._end = offset

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            # It tries to write once more what was refused; the next writer cuts that off.
            with suppress(OSError):
                writer.close()

    def _open_writer(self) -> BinaryIO:
        if self._writer is not None and self._end < SEGMENT_BYTES:
            return self._writer
        if self._segment == 0 or self._end >= SEGMENT_BYTES:
            self._begin_segment()
        path = self._path(self._segment)
        is_new = not path.exists()
        self._writer = path.open("w+b" if is_new else "r+b")
        # What a refused write left behind must not be read as a batch after the next one.
        self._writer.truncate(self._end)
        if is_new:
            # The name must survive a power cut as well as the bytes.
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return self._writer
