"""The virtual clock: a heap of what is to happen, in order of time and of planning."""

import heapq
from collections.abc import Callable

Action = Callable[..., None]


class Clock:
    """Time goes from event to event; equal times go in the order in which they were planned."""

    __slots__ = ("_heap", "_sequence", "now_ms", "num_events")

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.num_events = 0
        """Events that have happened."""
        self._heap: list[tuple[int, int, Action, tuple[object, ...]]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, time_ms: int, action: Action, *arguments: object) -> None:
        """Plan `action` for `time_ms`, or for now if that is past."""
        self._sequence += 1
        at_ms = time_ms if time_ms > self.now_ms else self.now_ms
        heapq.heappush(self._heap, (at_ms, self._sequence, action, arguments))

    def after(self, delay_ms: int, action: Action, *arguments: object) -> None:
        """Plan `action` for `delay_ms` from now."""
        self.at(self.now_ms + delay_ms, action, *arguments)

    def step(self, until_ms: int) -> bool:
        """Let the next event happen; False, and the clock at `until_ms`, if none is due by then."""
        heap = self._heap
        if not heap or heap[0][0] > until_ms:
            self.now_ms = max(self.now_ms, until_ms)
            return False
        self.now_ms, _, action, arguments = heapq.heappop(heap)
        self.num_events += 1
        action(*arguments)
        return True
