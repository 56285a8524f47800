"""A clock that waits cannot be fooled by: UTC as far as is known, and jumps told apart from time.

A Pi without a battery boots with a wrong time and is set minutes later; a laptop sleeps. Time that
passed, asleep or not, comes from `CLOCK_BOOTTIME`; what UTC is comes from the system, and when the
two disagree by more than a drift, the difference is a jump.
"""

import time
from collections.abc import Callable
from typing import Final

MAX_DRIFT_MS: Final = 2_000
"""Less is followed silently: a time service slews, and two clocks are not read at once."""
MIN_SLEEP_S: Final = 15.0
"""A pause that is told of and after which a connection is not trusted any more."""


def utc_ms() -> int:
    """Milliseconds since 1970-01-01 UTC, as far as this machine knows."""
    return time.time_ns() // 1_000_000


def elapsed_ms() -> int:
    """Milliseconds since some start, time asleep included; never set."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def awake_ms() -> int:
    """Milliseconds since some start, time asleep left out."""
    return time.monotonic_ns() // 1_000_000


class SteadyClock:
    """UTC that moves only forward, except where `take_jump` says otherwise.

    Args:
        utc: What the system says, in milliseconds; may jump.
        elapsed: Never jumps, goes on asleep.
        awake: Never jumps, stands still asleep.
    """

    def __init__(
        self,
        *,
        utc: Callable[[], int] = utc_ms,
        elapsed: Callable[[], int] = elapsed_ms,
        awake: Callable[[], int] = awake_ms,
    ) -> None:
        self._utc = utc
        self._elapsed = elapsed
        self._awake = awake
        self._offset_ms = utc() - elapsed()
        self._asleep_ms = elapsed() - awake()

    def now_ms(self) -> int:
        """UTC."""
        return self._elapsed() + self._offset_ms

    def take_jump(self) -> int:
        """Milliseconds by which the system's clock was set since the last call; mostly 0."""
        difference_ms = self._utc() - self.now_ms()
        self._offset_ms += difference_ms
        return difference_ms if abs(difference_ms) > MAX_DRIFT_MS else 0

    def take_sleep(self) -> int:
        """Milliseconds that the machine slept since the last call; mostly 0."""
        asleep_ms = self._elapsed() - self._awake()
        slept_ms, self._asleep_ms = asleep_ms - self._asleep_ms, asleep_ms
        return slept_ms if slept_ms > MIN_SLEEP_S * 1_000 else 0
