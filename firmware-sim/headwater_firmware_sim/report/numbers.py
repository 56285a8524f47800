"""Numbers as people read them, and the ticks of an axis."""

import math
from collections.abc import Callable
from typing import Final

Format = Callable[[float], str]

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

TIME_STEPS_MS: Final = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500),
    *(n * SECOND_MS for n in (1, 2, 5, 10, 15, 30)),
    *(n * MINUTE_MS for n in (1, 2, 5, 10, 15, 30)),
    *(n * HOUR_MS for n in (1, 2, 3, 6, 12)),
    *(n * DAY_MS for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)),
)


def format_count(value: float) -> str:
    """`12,345`; a fraction keeps three digits."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def format_share(value: float) -> str:
    """`93.4 %`."""
    text = f"{value * 100:.1f}"
    return f"{text.removesuffix('.0')} %"


def format_index(value: float) -> str:
    """A number from 0 to 1 with three digits."""
    return f"{value:.3f}"


def format_bytes(value: float) -> str:
    """`1.25 MB`, by powers of a thousand."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{format_count(value)} B"


def format_time(value: float) -> str:
    """`1 h 30 min`: the two largest units of a duration in milliseconds."""
    rest = round(value)
    if rest < SECOND_MS:
        return "0" if rest == 0 else f"{rest} ms"
    if rest < MINUTE_MS:
        return f"{rest / SECOND_MS:.3g} s"
    parts = []
    for unit, size in (("d", DAY_MS), ("h", HOUR_MS), ("min", MINUTE_MS), ("s", SECOND_MS)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts)


def make_ticks(highest: float, *, at_most: int, steps: tuple[int, ...] = ()) -> tuple[float, ...]:
    """Round values from 0 to at least `highest`, or a little less than `at_most` cover it.

    Args:
        highest: Of the values, at least 0.
        at_most: Ticks, 2 or more.
        steps: Allowed distances, ascending; 1, 2 and 5 times a power of ten if left out.
    """
    rough = max(highest, 1e-9) / (at_most - 1)
    if steps:
        step: float = next((s for s in steps if s >= rough), steps[-1])
    else:
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough * (1 - 1e-9))
    count = math.ceil(highest / step - 1e-9)
    return tuple(step * index for index in range(max(1, count) + 1))
