"""What the machine says of itself, from `/sys` and `/proc`; what is not there is not there."""

import contextlib
import os
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from headwater_agent.guest.policy import Readings

POWER_SUPPLY: Final = Path("sys/class/power_supply")
THERMAL: Final = Path("sys/class/thermal")
THROTTLED: Final = Path("sys/devices/platform/soc/soc:firmware/get_throttled")
STATM: Final = Path("proc/self/statm")
VCGENCMD: Final = "vcgencmd"
VCGENCMD_TIMEOUT_S: Final = 2.0
NOW_BITS: Final = 0xF
"""What is the case now; the bits from 16 say what was since the last boot."""
MAX_FILE_BYTES: Final = 4_096
MAX_ENTRIES: Final = 64
"""Power supplies and thermal zones that are looked at."""
MAX_PLAUSIBLE_C: Final = 200.0
"""Zones without a sensor report nonsense."""


class Probes:
    """Reads the machine.

    Args:
        root: Where `/sys` and `/proc` are; a test has its own.
        now: The local time.
        runs_vcgencmd: Whether the Pi's tool may be asked where `/sys` does not tell; it costs a
            process.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        now: Callable[[], datetime] = datetime.now,
        runs_vcgencmd: bool = True,
    ) -> None:
        self._root = root
        self._now = now
        self._runs_vcgencmd = runs_vcgencmd

    def read(self) -> Readings:
        """What there is to be found now."""
        now = self._now()
        is_on_battery, battery_percent = self._read_power()
        return Readings(
            local_minute=60 * now.hour + now.minute,
            local_ms=1_000 * now.second + now.microsecond // 1_000,
            is_on_battery=is_on_battery,
            battery_percent=battery_percent,
            temperature_c=self._read_temperature(),
            load_per_core=_read_load(),
            throttled_now=self._read_throttled(),
            resident_bytes=self._read_resident(),
        )

    def _read_power(self) -> tuple[bool | None, int | None]:
        has_mains, is_mains_on, percents, is_discharging = False, False, [], False
        for supply in self._list(POWER_SUPPLY):
            kind = self._text(supply / "type")
            if kind in {"Mains", "USB", "Wireless"}:
                online = self._text(supply / "online")
                has_mains = has_mains or online is not None
                is_mains_on = is_mains_on or online not in {None, "0"}
            elif kind == "Battery" and self._text(supply / "scope") != "Device":
                # Of scope "Device" are batteries of mice and keyboards.
                capacity = _integer(self._text(supply / "capacity"))
                if capacity is not None:
                    percents.append(max(0, min(100, capacity)))
                is_discharging = is_discharging or self._text(supply / "status") == "Discharging"
        if not percents and not is_discharging:
            return None, None
        on_battery = not is_mains_on if has_mains else is_discharging
        return on_battery, min(percents, default=None)

    def _read_temperature(self) -> float | None:
        found: list[float] = []
        for zone in self._list(THERMAL):
            if zone.name.startswith("thermal_zone"):
                value = _integer(self._text(zone / "temp"))
                if value is not None and 0 < value / 1_000 < MAX_PLAUSIBLE_C:
                    found.append(value / 1_000)
        return max(found, default=None)

    def _read_throttled(self) -> int | None:
        text = self._text(self._root / THROTTLED)
        if text is None and self._runs_vcgencmd:
            text = _ask_vcgencmd()
            if text is None:
                self._runs_vcgencmd = False
        if text is None:
            return None
        try:
            # The file is hexadecimal without a prefix, the tool says throttled=0x50000.
            return int(text.rpartition("=")[2], 16) & NOW_BITS
        except ValueError:
            return None

    def _read_resident(self) -> int | None:
        text = self._text(self._root / STATM)
        pages = _integer(text.split()[1]) if text and len(text.split()) > 1 else None
        return None if pages is None else pages * os.sysconf("SC_PAGE_SIZE")

    def _list(self, folder: Path) -> list[Path]:
        try:
            return sorted((self._root / folder).iterdir())[:MAX_ENTRIES]
        except OSError:
            return []

    def _text(self, path: Path) -> str | None:
        try:
            with path.open("rb") as file:
                return file.read(MAX_FILE_BYTES).decode(errors="replace").strip()
        except OSError:
            return None


def _read_load() -> float | None:
    with contextlib.suppress(OSError):
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    return None


def _ask_vcgencmd() -> str | None:
    try:
        done = subprocess.run(
            [VCGENCMD, "get_throttled"],
            capture_output=True,
            text=True,
            timeout=VCGENCMD_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 and "=" in done.stdout else None


def _integer(text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
