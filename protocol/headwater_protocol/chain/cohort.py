"""How often a device is drawn: its capability, and what the draws so far still owe it.

The draw of `chain.round` takes integer weights. A fixed weight gives each device its share only on
average, and a device of bad luck waits long. So the shard keeps a clock that runs by the share of
one unit of weight a round, each device a mark on it that runs by what one draw is worth to it, and
a device whose mark is behind the clock weighs more, four times for each draw that it is owed. Marks
follow the clock within a few draws, whatever the seeds: every device reaches its share.

What a device is owed is bounded by `MAX_CREDIT` draws either way, so that one that was away or
quarantined does not come back as the only one drawn.

A device needs three numbers to check its membership: its capability weight, its mark, and the clock
in the announced round. The mark comes with every receipt. A device that missed one knows a mark
that is too low, takes itself to be owed more than it is, and learns better from the answer to an
update that nobody asked for; it never misses a round for which it was drawn.

Goyal, Vin, Cheng, "Start-time Fair Queuing", SIGCOMM 1996, for the clock and the marks; Jain, Chiu,
Hawe, "A Quantitative Measure of Fairness", DEC TR-301, 1984, for the index in the tests.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from headwater_protocol.chain.round import CountField, DeviceWeight
from headwater_protocol.encoding.record import Range
from headwater_protocol.identifiers import MAX_UNSIGNED

DRAW_SCALE: Final = 2**32
"""One draw of a device of weight 1 on the clock; weights go to 10**6, so a draw is never 0."""

MAX_CREDIT: Final = 8
"""Draws that a device is owed, or has had too many, at the most."""

Clock = Annotated[int, Range(0, MAX_UNSIGNED)]
"""Draws for each unit of weight so far, times `DRAW_SCALE`."""


class Capability(StrEnum):
    """What a device can take on, as its registrar knows it."""

    LIGHT = "light"
    STANDARD = "standard"
    STRONG = "strong"


CAPABILITY_WEIGHTS: Final = {
    Capability.LIGHT: 2,
    Capability.STANDARD: 4,
    Capability.STRONG: 8,
}
"""Even, so that a battery halves them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a device's weight in the next draw follows from."""

    weight: DeviceWeight
    """As granted at enrolment."""
    mark: CountField
    """Where it is on the shard's clock."""


def compute_capability_weight(capability: Capability, *, has_battery: bool) -> int:
    """The weight that a registrar writes into an enrolment."""
    weight = CAPABILITY_WEIGHTS[capability]
    return weight // 2 if has_battery else weight


def compute_effective_weight(granted: int, capability: Capability) -> int:
    """The weight of a device in draws: all that it was granted, or its class's part of it.

    A class only ever takes away, so nobody is drawn more often for what he claims.
    """
    strong = CAPABILITY_WEIGHTS[Capability.STRONG]
    return max(1, granted * CAPABILITY_WEIGHTS[capability] // strong)


def compute_draw_weight(standing: Standing, clock: int) -> int:
    """A device's weight in the draw of a round whose clock is `clock`, at least 1."""
    owed = (clock - standing.mark) * standing.weight
    level = 2 * owed // DRAW_SCALE
    return standing.weight << (2 * MAX_CREDIT + max(-2 * MAX_CREDIT, min(2 * MAX_CREDIT, level)))


def advance_clock(clock: int, *, cohort_size: int, total_weight: int) -> int:
    """The clock after a round that drew `cohort_size` devices of `total_weight` in all."""
    return clock + cohort_size * DRAW_SCALE // total_weight


def advance_mark(standing: Standing, clock: int) -> int:
    """A device's mark after it was drawn at `clock`; credit beyond `MAX_CREDIT` lapses."""
    draw = DRAW_SCALE // standing.weight
    return max(standing.mark, clock - MAX_CREDIT * draw) + draw
