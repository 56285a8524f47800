"""Memory that two processes see, in which one leaves trainings for the other.

Each slot holds one training: its arrays, some numbers, and how far it is. The flags are single
bytes that are written last; only processors that keep the order of writes (x86-64) may use this.
"""

import mmap
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_protocol.chain.task import Task
from headwater_shard.round_model import payload_limit

MAX_SLOTS: Final = 1_024
"""Trainings under way."""
MAX_SLOTS_BYTES: Final = 16 * 1024 * 1024

_NUMBERS: Final = struct.Struct("<QQQdQQ")


class Progress(IntEnum):
    """How far a training is."""

    WAITING = 0
    STARTED = 1
    DONE = 2
    FAILED = 3
    """It was refused, or called off: there is nothing in the slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What came of a training beside its arrays."""

    num_examples: int
    num_steps: int
    planned_steps: int
    mean_loss: float
    payload_bytes: int
    delta_norm_units: int


class Slots:
    """Room for trainings of tasks of one size."""

    def __init__(self, task: Task) -> None:
        self._array_bytes = 4 * task.num_parameters
        self._payload_bytes = payload_limit(task)
        # Arrays start where their entries are aligned.
        slot_bytes = _NUMBERS.size + 3 * self._array_bytes + self._payload_bytes
        self._slot_bytes = -(-slot_bytes // 8) * 8
        self.count = min(MAX_SLOTS, MAX_SLOTS_BYTES // self._slot_bytes)
        self._flags_bytes = -(-2 * self.count // 8) * 8
        self._memory = mmap.mmap(-1, max(1, self._flags_bytes + self.count * self._slot_bytes))

    def fits(self, task: Task) -> bool:
        """Whether a training of `task` has room."""
        is_size = 4 * task.num_parameters == self._array_bytes
        return is_size and payload_limit(task) <= self._payload_bytes

    def progress(self, slot: int) -> Progress:
        """How far the slot's training is."""
        return Progress(self._memory[slot])

    def set_progress(self, slot: int, progress: Progress) -> None:
        """Say how far it is."""
        self._memory[slot] = progress

    def is_called_off(self, slot: int) -> bool:
        """Whether nobody wants the slot's training any more."""
        return bool(self._memory[self.count + slot])

    def call_off(self, slot: int, *, is_off: bool = True) -> None:
        """Say whether somebody wants it."""
        self._memory[self.count + slot] = is_off

    def residual(self, slot: int) -> NDArray[np.float32]:
        """What is added to the delta; a view."""
        return self._array(slot, 0)

    def delta(self, slot: int) -> NDArray[np.float32]:
        """What was trained; a view."""
        return self._array(slot, 1)

    def left(self, slot: int) -> NDArray[np.float32]:
        """The residual after it; a view."""
        return self._array(slot, 2)

    def write(self, slot: int, numbers: Numbers, payload: bytes) -> None:
        """Leave numbers and a payload of `numbers.payload_bytes`."""
        start = self._start(slot)
        _NUMBERS.pack_into(
            self._memory,
            start,
            numbers.num_examples,
            numbers.num_steps,
            numbers.planned_steps,
            numbers.mean_loss,
            numbers.payload_bytes,
            numbers.delta_norm_units,
        )
        start += _NUMBERS.size + 3 * self._array_bytes
        self._memory[start : start + len(payload)] = payload

    def read(self, slot: int) -> tuple[Numbers, bytes]:
        """What `write` left."""
        start = self._start(slot)
        examples, steps, planned, loss, size, norm = _NUMBERS.unpack_from(self._memory, start)
        start += _NUMBERS.size + 3 * self._array_bytes
        numbers = Numbers(
            num_examples=examples,
            num_steps=steps,
            planned_steps=planned,
            mean_loss=loss,
            payload_bytes=size,
            delta_norm_units=norm,
        )
        return numbers, self._memory[start : start + size]

    def _start(self, slot: int) -> int:
        return self._flags_bytes + slot * self._slot_bytes

    def _array(self, slot: int, position: int) -> NDArray[np.float32]:
        return np.frombuffer(
            self._memory,
            np.float32,
            count=self._array_bytes // 4,
            offset=self._start(slot) + _NUMBERS.size + position * self._array_bytes,
        )
