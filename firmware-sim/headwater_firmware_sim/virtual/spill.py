"""What a large fleet keeps but rarely reads, in an unlinked file in place of memory.

The flash of 100,000 devices holds a gigabyte of error-feedback memory, and their payloads a quarter
more, of which a round reads each byte once. Bytes are written with `pwrite` and read through a
mapping, so that the system decides what stays in memory.
"""

import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Final

from headwater_agent.state import Residual
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.errors import StorageError
from headwater_protocol.identifiers import Digest
from headwater_shard.blobs import MissingBlob

LARGE_FLEET: Final = 20_000
"""Devices from which on a run spills."""
SEGMENT_SLOTS: Final = 4_096


class ResidualSpill:
    """Two slots a device: the residual on flash, and the one that is being written."""

    def __init__(self) -> None:
        self._slot_bytes = 0
        self._segments: dict[int, tuple[int, mmap.mmap]] = {}
        self._turns: dict[int, int] = {}

    def move(self, device: int, residual: Residual) -> None:
        """Move a residual's bytes out of memory, wherever it is referred to.

        The record stays equal to what it was; only the buffer behind it is another one.

        Raises:
            StorageError: If the disk refuses.
        """
        size = len(residual.values)
        if self._slot_bytes == 0:
            self._slot_bytes = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        if size > self._slot_bytes or not isinstance(residual.values, bytes):
            return
        turn = self._turns[device] = 1 - self._turns.get(device, 1)
        segment, slot = divmod(2 * device + turn, SEGMENT_SLOTS)
        offset = slot * self._slot_bytes
        try:
            file, mapping = self._open(segment)
            os.pwrite(file, residual.values, offset)
        except OSError as error:
            raise StorageError(f"the temporary folder: {error}; free space there") from error
        view = memoryview(mapping)[offset : offset + size]
        # The machine refers to the same frozen record, so its buffer is replaced in place.
        object.__setattr__(residual, "values", view)

    def _open(self, segment: int) -> tuple[int, mmap.mmap]:
        known = self._segments.get(segment)
        if known is None:
            size = SEGMENT_SLOTS * self._slot_bytes
            with tempfile.TemporaryFile() as temporary:
                file = os.dup(temporary.fileno())
            os.ftruncate(file, size)
            known = self._segments[segment] = (file, mmap.mmap(file, size, prot=mmap.PROT_READ))
        return known


class SpilledBlobStore:
    """Blobs in an unlinked file, found by digest."""

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as temporary:
            self._file = os.dup(temporary.fileno())
        self._end = 0
        self._places: dict[Digest, tuple[int, int]] = {}

    def put_all(self, blobs: Sequence[bytes]) -> tuple[Digest, ...]:
        """Store blobs; their names, in the same order.

        Raises:
            StorageError: If the disk refuses.
        """
        return tuple(self.put(blob) for blob in blobs)

    def put(self, blob: bytes) -> Digest:
        """Store one blob; errors as `put_all`."""
        digest = blob_digest(blob)
        if digest not in self._places:
            try:
                os.pwrite(self._file, blob, self._end)
            except OSError as error:
                raise StorageError(f"the temporary folder: {error}; free space there") from error
            self._places[digest] = (self._end, len(blob))
            self._end += len(blob)
        return digest

    def get(self, digest: Digest) -> bytes:
        """A blob's bytes.

        Raises:
            MissingBlob: If it is not here.
        """
        place = self._places.get(digest)
        if place is None:
            raise MissingBlob(f"no blob {digest.hex()}")
        return os.pread(self._file, place[1], place[0])

    def digests(self) -> tuple[Digest, ...]:
        """The blobs' names, in order of writing."""
        return tuple(self._places)

    def drop(self, digest: Digest) -> None:
        """Forget a blob; its bytes stay in the file until the run ends."""
        self._places.pop(digest, None)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._file)
