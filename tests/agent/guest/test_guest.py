"""Being a good guest: the policy, the probes on a machine of files, and the table."""

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_agent.guest.config import (
    DEFAULT_GUEST,
    MINUTES_OF_A_DAY,
    GuestConfig,
    Hours,
    PowerRule,
    parse_guest,
)
from headwater_agent.guest.host import Host
from headwater_agent.guest.policy import (
    MAX_BACKOFF_MS,
    GuestReason,
    Readings,
    compute_wait_for_hours_ms,
    decide,
)
from headwater_agent.guest.probes import Probes
from headwater_agent.guest.process import list_code
from headwater_protocol.errors import ConfigError

NOON = Readings(local_minute=12 * 60)


def parse(**values: object) -> GuestConfig:
    return parse_guest(values, folder=Path())


def reason(config: GuestConfig, found: Readings, *, needed_bytes: int = 0) -> GuestReason:
    decision = decide(config, found, needed_bytes=needed_bytes, num_strained=0)
    assert decision.may_train == (decision.detail == "")
    assert decision.look_again_ms > 0
    return decision.reason


def test_a_machine_that_says_nothing_may_train() -> None:
    assert reason(DEFAULT_GUEST, NOON) is GuestReason.OK


@pytest.mark.parametrize(
    ("config", "found", "expected"),
    [
        ({"max_temperature_c": 70}, {"temperature_c": 70.0}, "ok"),
        ({"max_temperature_c": 70}, {"temperature_c": 70.1}, "temperature"),
        ({}, {"throttled_now": 0}, "ok"),
        ({}, {"throttled_now": 1}, "throttled"),
        ({"stops_when_throttled": False}, {"throttled_now": 4}, "ok"),
        ({"power": "mains"}, {"is_on_battery": True, "battery_percent": 100}, "power"),
        ({"power": "mains"}, {"is_on_battery": False, "battery_percent": 1}, "ok"),
        ({"min_battery_percent": 50}, {"is_on_battery": True, "battery_percent": 49}, "battery"),
        ({"min_battery_percent": 50}, {"is_on_battery": True, "battery_percent": 50}, "ok"),
        ({"min_battery_percent": 50}, {"is_on_battery": False, "battery_percent": 1}, "ok"),
        ({"max_load": 0.5}, {"load_per_core": 0.51}, "load"),
        ({}, {"load_per_core": 90.0}, "ok"),
        ({"hours": ["22:00-06:00"]}, {}, "hours"),
        ({"hours": ["22:00-06:00"]}, {"local_minute": 0}, "ok"),
        ({"hours": ["22:00-06:00", "11:30-12:30"]}, {}, "ok"),
        ({"max_memory_bytes": 100}, {"resident_bytes": 60}, "ok"),
        ({"max_memory_bytes": 99}, {"resident_bytes": 60}, "memory"),
    ],
)
def test_policy(config: dict[str, object], found: dict[str, object], expected: str) -> None:
    readings = Readings(**({"local_minute": 12 * 60} | found))  # type: ignore[arg-type]
    assert reason(parse(**config), readings, needed_bytes=40).value == expected


@given(
    start=st.integers(0, MINUTES_OF_A_DAY - 1),
    length=st.integers(1, MINUTES_OF_A_DAY - 1),
    minute=st.integers(0, MINUTES_OF_A_DAY - 1),
    local_ms=st.integers(0, 59_999),
)
def test_wait_for_the_hours_ends_at_their_first_minute(
    start: int, length: int, minute: int, local_ms: int
) -> None:
    hours = Hours(start_minute=start, end_minute=(start + length) % MINUTES_OF_A_DAY)
    config = GuestConfig(hours=(hours,))
    held = sum(hours.holds(entry) for entry in range(MINUTES_OF_A_DAY))
    assert held == length
    found = Readings(local_minute=minute, local_ms=local_ms)
    if not hours.holds(minute):
        wait_ms = compute_wait_for_hours_ms(config, found)
        then, rest = divmod(minute * 60_000 + local_ms + wait_ms, 60_000)
        assert (then % MINUTES_OF_A_DAY, rest) == (start, 0)
        assert 0 < wait_ms <= MINUTES_OF_A_DAY * 60_000


def test_waits_double_under_strain_and_start_anew_afterwards() -> None:
    readings = [Readings(local_minute=0, throttled_now=4)]
    host = Host(parse(look_again_s=60), lambda: readings[0])
    waits = [host.ask(needed_bytes=0).look_again_ms for _ in range(6)]
    assert waits == [60_000, 120_000, 240_000, 480_000, MAX_BACKOFF_MS, MAX_BACKOFF_MS]
    readings[0] = NOON
    assert host.ask(needed_bytes=0).may_train
    readings[0] = Readings(local_minute=0, temperature_c=99.0)
    decision = host.ask(needed_bytes=0)
    assert decision.look_again_ms == 60_000
    assert "99.0 °C" in decision.detail
    assert host.report.refusals == {GuestReason.THROTTLED: 6, GuestReason.TEMPERATURE: 1}
    assert host.report.last == decision


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hours": ["22-6"]}, "22:00-06:00"),
        ({"hours": ["25:00-06:00"]}, "guest.hours"),
        ({"hours": ["22:60-06:00"]}, "guest.hours"),
        ({"hours": ["22:00-22:00"]}, "guest.hours"),
        ({"hours": "22:00-06:00"}, "guest.hours"),
        ({"power": "solar"}, "any, mains"),
        ({"min_battery_percent": 101}, "0 to 100"),
        ({"max_temperature_c": "hot"}, "give a number"),
        ({"cores": 0}, "guest.cores"),
        ({"pinned_cores": [-1]}, "[3]"),
        ({"nice": 3}, "guest.nice: is no key"),
    ],
)
def test_wrong_value_names_the_key_and_the_fix(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(**values)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_table() -> None:
    config = parse(hours=["22:00-24:00"], power="mains", pinned_cores=[3, 1], look_again_s=5)
    assert [str(window) for window in config.hours] == ["22:00-24:00"]
    assert config.hours[0].holds(23 * 60 + 59)
    assert (config.power, config.pinned_cores) == (PowerRule.MAINS, (1, 3))
    assert config.look_again_ms == 5_000
    assert parse() == DEFAULT_GUEST


class Machine:
    """A root with the files of a machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.probes = Probes(
            root, now=lambda: datetime(2026, 1, 2, 3, 4, 5, 678_000), runs_vcgencmd=False
        )

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def supply(self, name: str, **entries: str) -> None:
        for key, text in entries.items():
            self.write(f"sys/class/power_supply/{name}/{key}", text + "\n")


def test_probes_find_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    found = Machine(tmp_path).probes.read()
    assert (found.local_minute, found.local_ms) == (184, 5_678)
    assert found.is_on_battery is None
    assert found.temperature_c is None
    assert found.throttled_now is None
    assert found.resident_bytes is None


@pytest.mark.parametrize(
    ("online", "status", "is_on_battery"),
    [
        ("1", "Charging", False),
        ("0", "Discharging", True),
        (None, "Discharging", True),
        (None, "Full", False),
    ],
)
def test_power(tmp_path: Path, online: str | None, status: str, is_on_battery: bool) -> None:
    machine = Machine(tmp_path)
    if online is not None:
        machine.supply("AC", type="Mains", online=online)
    machine.supply("BAT0", type="Battery", capacity="42", status=status)
    machine.supply("mouse", type="Battery", scope="Device", capacity="3", status="Discharging")
    found = machine.probes.read()
    assert (found.is_on_battery, found.battery_percent) == (is_on_battery, 42)


def test_a_pi_on_mains_without_a_battery(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.supply("rpi-poe", type="Mains", online="1")
    machine.write("sys/class/thermal/thermal_zone0/temp", "61234\n")
    machine.write("sys/class/thermal/thermal_zone1/temp", "-273000\n")
    machine.write("sys/class/thermal/cooling_device0/temp", "99000\n")
    machine.write("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    machine.write("proc/self/statm", "9000 25 3 4 0 5 0\n")
    found = machine.probes.read()
    assert found.is_on_battery is None
    assert found.temperature_c == 61.234
    # Of 0x50005 the low bits are now, the others were once.
    assert found.throttled_now == 5
    assert found.resident_bytes == 25 * os.sysconf("SC_PAGE_SIZE")


def test_nonsense_in_files_is_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.supply("BAT0", type="Battery", capacity="much", status="Unknown")
    machine.write("sys/class/thermal/thermal_zone0/temp", "hot")
    machine.write("sys/devices/platform/soc/soc:firmware/get_throttled", "no")
    machine.write("proc/self/statm", "1")
    found = machine.probes.read()
    assert found.battery_percent is None
    assert found.temperature_c is None
    assert found.throttled_now is None
    assert found.resident_bytes is None


def test_this_machine_can_be_read() -> None:
    found = Probes().read()
    assert found.resident_bytes is not None
    assert found.resident_bytes > 1_000_000


def test_vcgencmd_is_asked_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin/vcgencmd"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho throttled=0x50002\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    assert Probes(tmp_path).read().throttled_now == 2
    tool.write_text("#!/bin/sh\nexit 1\n")
    probes = Probes(tmp_path)
    assert probes.read().throttled_now is None
    tool.write_text("#!/bin/sh\necho throttled=0x4\n")
    # One that failed is not asked at each look.
    assert probes.read().throttled_now is None


def test_process_gives_way_and_keeps_to_one_thread() -> None:
    script = (
        "import os, sys\n"
        "from headwater_agent.guest.process import limit_threads\n"
        "assert 'numpy' not in sys.modules\n"
        "limit_threads()\n"
        "import numpy as np\n"
        "from headwater_agent.guest.config import GuestConfig\n"
        "from headwater_agent.guest.process import give_way\n"
        "core = min(os.sched_getaffinity(0))\n"
        "give_way(GuestConfig(niceness=7, pinned_cores=(core,)))\n"
        "np.ones((300, 300)) @ np.ones((300, 300))\n"
        "threads = len(os.listdir('/proc/self/task'))\n"
        "print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0) == {core}, threads)\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env=environment,
    )
    assert done.stdout.split() == ["7", "True", "1"]


MAPS = """\
5581a000-5581b000 r--p 00000000 08:01 11  /usr/bin/python3.11
5581b000-5581d000 r-xp 00001000 08:01 11  /usr/bin/python3.11
7f00a000-7f00c000 rw-p 00002000 08:01 12  /usr/lib/libc.so.6
7f00c000-7f010000 r-xp 00000000 08:01 13  /usr/lib/my libs/libm.so
7f010000-7f011000 r-xp 00000000 08:01 14  /usr/lib/libold.so (deleted)
7f011000-7f012000 rwxp 00000000 08:01 15  /usr/lib/libjit.so
7f012000-7f013000 r-xp 00000000 00:00 0   [vdso]
7f013000-7f014000 r-xp 00000000 00:00 0
"""


def test_only_code_that_a_file_still_holds_is_given_back(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(MAPS, encoding="utf-8")
    assert list_code(maps) == [(0x5581B000, 0x5581D000), (0x7F00C000, 0x7F010000)]
    assert list_code(tmp_path / "missing") == []


def test_what_starting_up_left_behind_is_no_longer_resident() -> None:
    program = """
import numpy, sqlite3, ssl
from headwater_agent.guest.process import give_memory_back
def resident():
    return int(open("/proc/self/statm").read().split()[1])
before = resident()
give_memory_back()
after = resident()
assert numpy.linalg.solve(numpy.eye(2), numpy.ones(2)).tolist() == [1.0, 1.0]
assert sqlite3.connect(":memory:").execute("SELECT 1").fetchone() == (1,)
print(after < before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "True"
