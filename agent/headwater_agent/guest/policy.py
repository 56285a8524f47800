"""May this device train now? A pure answer to what the probes found.

Where a probe found nothing, there is nothing to respect: a device without a battery is never on
battery. Every refusal has a reason, a line for people, and a time to look again.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from headwater_agent.guest.config import MINUTES_OF_A_DAY, GuestConfig, PowerRule

MAX_BACKOFF_MS: Final = 15 * 60_000
"""Longest wait between two looks while the machine is throttled or too hot."""
MAX_DOUBLINGS: Final = 16
MINUTE_MS: Final = 60_000


class GuestReason(StrEnum):
    """Why training has to wait; part of what status shows, so a value is never renamed."""

    OK = "ok"
    HOURS = "hours"
    POWER = "power"
    BATTERY = "battery"
    TEMPERATURE = "temperature"
    LOAD = "load"
    THROTTLED = "throttled"
    MEMORY = "memory"


STRAINED: Final = frozenset({GuestReason.TEMPERATURE, GuestReason.THROTTLED})
"""Reasons to wait longer each time: what heats the machine may be this device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What the probes found; None where there is nothing to be found."""

    local_minute: int
    """Of the day, in local time."""
    local_ms: int = 0
    """Of that minute, 0 to 59,999."""
    is_on_battery: bool | None = None
    battery_percent: int | None = None
    """The lowest, where there are several."""
    temperature_c: float | None = None
    """The highest of the thermal zones."""
    load_per_core: float | None = None
    throttled_now: int | None = None
    """The Pi firmware's four lowest bits: under-voltage, capped, throttled, soft limit."""
    resident_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer."""

    reason: GuestReason
    detail: str
    """One line for people; empty if it may."""
    look_again_ms: int
    """From now."""

    @property
    def may_train(self) -> bool:
        """Whether nothing stands against it."""
        return self.reason is GuestReason.OK


def decide(
    config: GuestConfig, found: Readings, *, needed_bytes: int, num_strained: int
) -> Decision:
    """Whether to train now.

    Args:
        config: What is asked.
        found: By the probes.
        needed_bytes: Of memory, for the training.
        num_strained: Refusals in a row because the machine is under strain; each doubles the wait.
    """
    reason, detail = _find_reason(config, found, needed_bytes)
    wait_ms = config.look_again_ms
    if reason is GuestReason.HOURS:
        wait_ms = compute_wait_for_hours_ms(config, found)
    elif reason in STRAINED:
        longest_ms = max(MAX_BACKOFF_MS, config.look_again_ms)
        wait_ms = min(longest_ms, wait_ms << min(num_strained, MAX_DOUBLINGS))
    return Decision(reason=reason, detail=detail, look_again_ms=wait_ms)


def compute_wait_for_hours_ms(config: GuestConfig, found: Readings) -> int:
    """Until the next window of the day begins; local clocks that change make it come twice."""
    minutes = min(
        (window.start_minute - found.local_minute - 1) % MINUTES_OF_A_DAY + 1
        for window in config.hours
    )
    return max(1, minutes * MINUTE_MS - found.local_ms)


def _find_reason(
    config: GuestConfig, found: Readings, needed_bytes: int
) -> tuple[GuestReason, str]:
    if config.hours and not any(window.holds(found.local_minute) for window in config.hours):
        times = ", ".join(str(window) for window in config.hours)
        return GuestReason.HOURS, f"it trains at {times} only"
    if found.is_on_battery:
        if config.power is PowerRule.MAINS:
            return GuestReason.POWER, "it runs on battery, and guest.power asks for mains"
        percent = found.battery_percent
        if percent is not None and percent < config.min_battery_percent:
            return (
                GuestReason.BATTERY,
                f"the battery has {percent} %, less than {config.min_battery_percent} %",
            )
    if found.throttled_now and config.stops_when_throttled:
        return (
            GuestReason.THROTTLED,
            f"the firmware reports {describe_throttling(found.throttled_now)}",
        )
    if found.temperature_c is not None and found.temperature_c > config.max_temperature_c:
        return (
            GuestReason.TEMPERATURE,
            f"{found.temperature_c:.1f} °C, more than {config.max_temperature_c:g} °C",
        )
    if (
        config.max_load
        and found.load_per_core is not None
        and (found.load_per_core > config.max_load)
    ):
        return (
            GuestReason.LOAD,
            f"a load of {found.load_per_core:.2f} a core, more than {config.max_load:g}",
        )
    if config.max_memory_bytes and found.resident_bytes is not None:
        total = found.resident_bytes + needed_bytes
        if total > config.max_memory_bytes:
            return (
                GuestReason.MEMORY,
                f"{found.resident_bytes} bytes in use and {needed_bytes} needed, more than "
                f"{config.max_memory_bytes}",
            )
    return GuestReason.OK, ""


def describe_throttling(bits: int) -> str:
    """The firmware's bits in words."""
    words = ("under-voltage", "a capped frequency", "throttling", "the soft temperature limit")
    return ", ".join(word for index, word in enumerate(words) if bits >> index & 1)
