"""What a large fleet keeps but rarely reads, in an unlinked file in place of memory.

The flash of 100,000 devices holds a gigabyte of error-feedback memory, and their payloads a quarter
more, of which a round reads each byte once or twice; old blocks, which held their transactions, are
read by gateways that were down. The system's file cache decides what stays in memory.
"""

import mmap
import os
import tempfile
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import fields
from typing import Final, overload

from headwater_agent.state import OutboxEntry, Residual
from headwater_protocol.chain.block import MAX_BLOCK_BYTES, Block, Certificate
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.encoding.record import decode_record, encode_record
from headwater_protocol.errors import StorageError
from headwater_protocol.identifiers import Digest, TaskId
from headwater_shard.blobs import MissingBlob
from headwater_shard.engine.bft.history import MAX_RECENT_BLOCKS, FinalizedBlock

LARGE_FLEET: Final = 20_000
"""Devices from which on a run spills."""
SEGMENT_SLOTS: Final = 4_096
MIN_MESSAGE_BYTES: Final = 512
"""Of messages that are worth a file; the interpreter packs smaller ones well."""


class SpilledResidual(Residual):
    """A residual whose values are read from the file each time they are asked for."""

    __slots__ = ("_device", "_slots", "_turn")

    _slots: "SlotFile"
    _device: int
    _turn: int

    def __init__(self, *, task: TaskId, slots: "SlotFile", device: int, turn: int) -> None:
        # Its fields are frozen, and `values` has none.
        object.__setattr__(self, "task", task)
        object.__setattr__(self, "_slots", slots)
        object.__setattr__(self, "_device", device)
        object.__setattr__(self, "_turn", turn)

    @property
    def values(self) -> bytes:
        """As in memory; errors as `SlotFile.read`."""
        return self._slots.read(self._device, self._turn)


class SpilledOutboxEntry(OutboxEntry):
    """An outbox entry whose update is read from the file each time it is asked for.

    One that `replace` makes of it holds its update in memory, until it is spilled in turn.
    """

    __slots__ = ("_device", "_own", "_slots", "_turn")

    _slots: "SlotFile"
    _device: int
    _turn: int
    _own: bytes | None

    @classmethod
    def of(
        cls, entry: OutboxEntry, *, slots: "SlotFile", device: int, turn: int
    ) -> "SpilledOutboxEntry":
        """`entry`, whose update was written."""
        made = object.__new__(cls)
        for field in fields(entry):
            value = None if field.name == "update" else getattr(entry, field.name)
            object.__setattr__(made, field.name, value)
        object.__setattr__(made, "_slots", slots)
        object.__setattr__(made, "_device", device)
        object.__setattr__(made, "_turn", turn)
        return made

    @property
    def update(self) -> bytes:
        """As in memory; errors as `SlotFile.read`."""
        own = self._own
        return self._slots.read(self._device, self._turn) if own is None else own

    @update.setter
    def update(self, value: bytes | None) -> None:
        object.__setattr__(self, "_own", value)


class FlashSpill:
    """The flash of many devices: for each a slot of its newest residual, and of its update."""

    def __init__(self) -> None:
        self._residuals = SlotFile()
        self._updates = SlotFile()

    def put_residual(self, device: int, residual: Residual) -> Residual:
        """Write a residual in place of the device's older one.

        Returns:
            A record that reads as `residual` does and takes no memory; `residual` itself if it is
            larger than a slot, as those of another program may be.

        Raises:
            StorageError: If the disk refuses.
        """
        turn = self._residuals.write(device, residual.values)
        if turn is None:
            return residual
        return SpilledResidual(task=residual.task, slots=self._residuals, device=device, turn=turn)

    def put_outbox(self, device: int, entry: OutboxEntry) -> OutboxEntry:
        """Write an update in place of the device's older one; the rest as `put_residual`."""
        turn = self._updates.write(device, entry.update)
        if turn is None:
            return entry
        return SpilledOutboxEntry.of(entry, slots=self._updates, device=device, turn=turn)

    def close(self) -> None:
        """Give the files back."""
        self._residuals.close()
        self._updates.close()


class SlotFile:
    """Unlinked files with a slot a device, which holds what was written there last."""

    def __init__(self) -> None:
        self._slot_bytes = 0
        self._segments: dict[int, int] = {}
        self._turns = array("L")
        """How often each device has written."""
        self._sizes = array("L")
        """Of what each device wrote last, in bytes."""

    def write(self, device: int, values: bytes) -> int | None:
        """Put values into the device's slot; what to read them with, None if they do not fit.

        Raises:
            StorageError: If the disk refuses.
        """
        if self._slot_bytes == 0:
            self._slot_bytes = -(-len(values) // mmap.PAGESIZE) * mmap.PAGESIZE
        num_new = device + 1 - len(self._turns)
        if num_new > 0:
            self._turns.frombytes(bytes(num_new * self._turns.itemsize))
            self._sizes.frombytes(bytes(num_new * self._sizes.itemsize))
        self._turns[device] += 1
        turn = self._turns[device]
        if len(values) > self._slot_bytes:
            return None
        file, offset = self._place(device)
        try:
            os.pwrite(file, values, offset)
        except OSError as error:
            raise StorageError(f"the temporary folder: {error}; free space there") from error
        self._sizes[device] = len(values)
        return turn

    def read(self, device: int, turn: int) -> bytes:
        """What was written at the device's turn.

        Raises:
            StorageError: If the disk refuses.
            LookupError: If something newer has taken the place; a bug of the caller.
        """
        if self._turns[device] != turn:
            raise LookupError(f"device {device} has written something newer")
        file, offset = self._place(device)
        size = self._sizes[device]
        try:
            values = os.pread(file, size, offset)
        except OSError as error:
            raise StorageError(f"the temporary folder: {error}; check the disk") from error
        if len(values) != size:
            raise StorageError("the temporary folder: a file was cut short; check the disk")
        return values

    def close(self) -> None:
        """Give the files back."""
        for file in self._segments.values():
            os.close(file)
        self._segments.clear()

    def _place(self, device: int) -> tuple[int, int]:
        """File and offset of a device's slot."""
        segment, slot = divmod(device, SEGMENT_SLOTS)
        if segment not in self._segments:
            try:
                with tempfile.TemporaryFile() as temporary:
                    self._segments[segment] = os.dup(temporary.fileno())
            except OSError as error:
                raise StorageError(f"the temporary folder: {error}; free space there") from error
        return self._segments[segment], slot * self._slot_bytes


class AppendedFile:
    """An unlinked file that grows, with as many records as its user remembers the places of."""

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as temporary:
            self._file = os.dup(temporary.fileno())
        self._end = 0

    def append(self, data: bytes) -> tuple[int, int]:
        """Write a record; its place.

        Raises:
            StorageError: If the disk refuses.
        """
        place = (self._end, len(data))
        try:
            os.pwrite(self._file, data, self._end)
        except OSError as error:
            raise StorageError(f"the temporary folder: {error}; free space there") from error
        self._end += len(data)
        return place

    def read(self, place: tuple[int, int]) -> bytes:
        """The record at `place`; errors as `append`."""
        offset, size = place
        try:
            return os.pread(self._file, size, offset)
        except OSError as error:
            raise StorageError(f"the temporary folder: {error}") from error

    def rewind(self) -> None:
        """Begin anew; no place is good any more."""
        self._end = 0

    def close(self) -> None:
        """Give the file back."""
        os.close(self._file)


class MessageSpill:
    """Messages under way, in an unlinked file that begins anew whenever there are none.

    The updates of a round are on the air at once, and what they take in memory is of no use to the
    small objects that come after them.
    """

    def __init__(self) -> None:
        self._file = AppendedFile()
        self._num_under_way = 0

    def put(self, payload: bytes) -> tuple[int, int]:
        """Write a message; what to take it out with, once.

        Raises:
            StorageError: If the disk refuses.
        """
        self._num_under_way += 1
        return self._file.append(payload)

    def take(self, place: tuple[int, int]) -> bytes:
        """The message at `place`, which arrives."""
        payload = self._file.read(place)
        self._num_under_way -= 1
        if self._num_under_way == 0:
            self._file.rewind()
        return payload

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


class SpilledBlobStore:
    """Blobs in an unlinked file, found by digest."""

    def __init__(self) -> None:
        self._file = AppendedFile()
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
            self._places[digest] = self._file.append(blob)
        return digest

    def get(self, digest: Digest) -> bytes:
        """A blob's bytes.

        Raises:
            MissingBlob: If it is not here.
        """
        place = self._places.get(digest)
        if place is None:
            raise MissingBlob(f"no blob {digest.hex()}")
        return self._file.read(place)

    def digests(self) -> tuple[Digest, ...]:
        """The blobs' names, in order of writing."""
        return tuple(self._places)

    def drop(self, digest: Digest) -> None:
        """Forget a blob; its bytes stay in the file until the run ends."""
        self._places.pop(digest, None)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


class SpilledBlocks(Sequence[FinalizedBlock]):
    """A chain's blocks in an unlinked file; the newest, which consensus holds too, in memory."""

    def __init__(self) -> None:
        self._file = AppendedFile()
        self._places: list[tuple[tuple[int, int], tuple[int, int]]] = []
        """Of each block and of its certificate."""
        self._recent: deque[FinalizedBlock] = deque(maxlen=MAX_RECENT_BLOCKS)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> FinalizedBlock: ...

    @overload
    def __getitem__(self, index: slice) -> list[FinalizedBlock]: ...

    def __getitem__(self, index: int | slice) -> FinalizedBlock | list[FinalizedBlock]:
        wanted = range(len(self))[index]
        return self._load(wanted) if isinstance(wanted, int) else [*map(self._load, wanted)]

    def append(self, final: FinalizedBlock) -> None:
        """Keep the next block.

        Raises:
            StorageError: If the disk refuses.
        """
        self._places.append(
            (
                self._file.append(encode_record(final.block)),
                self._file.append(encode_record(final.certificate)),
            )
        )
        self._recent.append(final)

    def _load(self, index: int) -> FinalizedBlock:
        age = len(self) - index
        if age <= len(self._recent):
            return self._recent[-age]
        block, certificate = self._places[index]
        return FinalizedBlock(
            block=decode_record(Block, self._file.read(block), max_bytes=MAX_BLOCK_BYTES),
            certificate=decode_record(
                Certificate, self._file.read(certificate), max_bytes=MAX_BLOCK_BYTES
            ),
        )
