"""`[guest]` of `agent.toml`: what a device owes to the machine that it runs on."""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from headwater_agent.toml_keys import TomlKeys

MINUTES_OF_A_DAY: Final = 24 * 60
MAX_CORES: Final = 64
MAX_MEMORY_BYTES: Final = 2**40
MAX_LOOK_AGAIN_S: Final = 24 * 3_600
MAX_HOURS: Final = 16
"""Windows of a day."""


class PowerRule(StrEnum):
    """Which power supply training may draw on."""

    ANY = "any"
    MAINS = "mains"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """A part of the day in local time; one that ends before it starts runs over midnight."""

    start_minute: int
    """Of the day, included."""
    end_minute: int
    """Excluded."""

    def holds(self, minute: int) -> bool:
        """Whether a minute of the day lies in it."""
        if self.start_minute < self.end_minute:
            return self.start_minute <= minute < self.end_minute
        return minute >= self.start_minute or minute < self.end_minute

    def __str__(self) -> str:
        start, end = divmod(self.start_minute, 60), divmod(self.end_minute, 60)
        return f"{start[0]:02}:{start[1]:02}-{end[0]:02}:{end[1]:02}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestConfig:
    """A checked `[guest]`; the defaults are a Raspberry Pi on mains power that does other work."""

    hours: tuple[Hours, ...] = ()
    """When it may train; always, if there are none."""
    power: PowerRule = PowerRule.ANY
    min_battery_percent: int = 0
    max_temperature_c: float = 80.0
    max_load: float = 0.0
    """One-minute load average for each core; 0 does not look."""
    stops_when_throttled: bool = True
    max_memory_bytes: int = 0
    """Resident, with what the training needs; 0 is no limit."""
    cores: int = 1
    pinned_cores: tuple[int, ...] = ()
    niceness: int = 10
    look_again_ms: int = 60_000

    @property
    def look_again_s(self) -> int:
        """As in the file."""
        return self.look_again_ms // 1_000


DEFAULT_GUEST: Final = GuestConfig()


def parse_guest(values: dict[str, object], *, folder: Path) -> GuestConfig:
    """The `[guest]` table of a configuration.

    Raises:
        ConfigError: Names the key and the fix.
    """
    keys = TomlKeys("guest", values, folder)
    default = DEFAULT_GUEST
    config = GuestConfig(
        hours=_parse_hours(keys),
        power=PowerRule(keys.choice("power", [rule.value for rule in PowerRule], "any")),
        min_battery_percent=keys.integer("min_battery_percent", 0, low=0, high=100),
        max_temperature_c=keys.number(
            "max_temperature_c", default.max_temperature_c, low=20, high=120
        ),
        max_load=keys.number("max_load", default.max_load, low=0, high=1_000),
        stops_when_throttled=keys.flag("stops_when_throttled", default=True),
        max_memory_bytes=keys.integer("max_memory_bytes", 0, low=0, high=MAX_MEMORY_BYTES),
        cores=keys.integer("cores", default.cores, low=1, high=MAX_CORES),
        pinned_cores=_parse_cores(keys),
        niceness=keys.integer("niceness", default.niceness, low=0, high=19),
        look_again_ms=1_000 * keys.integer("look_again_s", 60, low=1, high=MAX_LOOK_AGAIN_S),
    )
    keys.require_empty(
        (
            *("hours", "power", "min_battery_percent", "max_temperature_c", "max_load"),
            *("stops_when_throttled", "max_memory_bytes", "cores", "pinned_cores", "niceness"),
            "look_again_s",
        )
    )
    return config


def _parse_hours(keys: TomlKeys) -> tuple[Hours, ...]:
    value = keys.raw("hours")
    if value is None or value == []:
        return ()
    fix = 'write it as ["22:00-06:00"]'
    if not isinstance(value, list) or len(value) > MAX_HOURS:
        raise keys.refuse("hours", f"is {value!r}", fix=fix)
    return tuple(_parse_window(keys, entry, fix) for entry in value)


def _parse_window(keys: TomlKeys, entry: object, fix: str) -> Hours:
    found = re.fullmatch(r"(\d\d):(\d\d)-(\d\d):(\d\d)", entry) if isinstance(entry, str) else None
    if found is None:
        raise keys.refuse("hours", f"holds {entry!r}", fix=fix)
    first_hour, first_minute, last_hour, last_minute = (int(part) for part in found.groups())
    start, end = 60 * first_hour + first_minute, 60 * last_hour + last_minute
    if max(first_minute, last_minute) > 59 or max(start, end) > MINUTES_OF_A_DAY or start == end:
        raise keys.refuse("hours", f"holds {entry!r}", fix=fix)
    return Hours(start_minute=start % MINUTES_OF_A_DAY, end_minute=end)


def _parse_cores(keys: TomlKeys) -> tuple[int, ...]:
    value = keys.raw("pinned_cores")
    if value is None:
        return ()
    if not isinstance(value, list) or not all(
        type(core) is int and 0 <= core < MAX_CORES for core in value
    ):
        raise keys.refuse("pinned_cores", f"is {value!r}", fix="write it as [3]")
    return tuple(sorted(set(value)))
