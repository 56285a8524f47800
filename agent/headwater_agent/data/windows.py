"""Readings in time, cut into windows that no gap runs through.

A model that learns from windows learns what follows what. Readings before and after an outage do
not follow one another, so a window ends at a gap and the next one begins behind it.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Windowing:
    """How rows become windows."""

    length: int
    """Rows of a window, at least 1."""
    stride: int
    """Rows from the start of one window to the start of the next, at least 1."""
    max_gap_ms: int
    """Two rows further apart are never in one window."""


class Windows:
    """Cuts one stream of rows."""

    def __init__(self, windowing: Windowing) -> None:
        self._windowing = windowing
        self._rows: deque[tuple[float, ...]] = deque()
        self._skip = 0
        self._last_ms: int | None = None
        self.num_gaps = 0

    @property
    def num_waiting(self) -> int:
        """Rows of the window that is not full yet."""
        return len(self._rows)

    def add(self, row: tuple[float, ...], time_ms: int) -> NDArray[np.float32] | None:
        """Take a row; the window that it completes, shape (length, len(row)).

        Args:
            row: Always of the same length.
            time_ms: When it was measured. A clock that was set back is a gap too.
        """
        if self._last_ms is not None and not (
            self._last_ms <= time_ms <= self._last_ms + self._windowing.max_gap_ms
        ):
            self.num_gaps += 1
            self._rows.clear()
            self._skip = 0
        self._last_ms = time_ms
        if self._skip:
            self._skip -= 1
            return None
        self._rows.append(row)
        if len(self._rows) < self._windowing.length:
            return None
        window = np.array(self._rows, np.float32)
        for _ in range(min(self._windowing.stride, self._windowing.length)):
            self._rows.popleft()
        self._skip = max(0, self._windowing.stride - self._windowing.length)
        return window

    def break_off(self) -> None:
        """A reading is missing here: the next window begins behind it."""
        if self._rows or self._skip:
            self.num_gaps += 1
        self._rows.clear()
        self._skip = 0
