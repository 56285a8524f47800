"""Clock jumps, sleep, and a clock that is behind the network."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_agent.machine.inputs import ClockSet
from headwater_agent.machine.limits import DAY_MS, DeviceLimits
from headwater_agent.shell.clock import MAX_DRIFT_MS, MIN_SLEEP_S, SteadyClock
from tests.support.agent_support import START_MS, World, updates_in


@dataclass
class Machine:
    """A machine whose clocks are set by hand."""

    utc_ms: int = 1_000_000
    elapsed_ms: int = 500
    awake_ms: int = 500

    def make_clock(self) -> SteadyClock:
        return SteadyClock(
            utc=lambda: self.utc_ms, elapsed=lambda: self.elapsed_ms, awake=lambda: self.awake_ms
        )

    def pass_time(self, duration_ms: int, *, is_asleep: bool = False) -> None:
        self.utc_ms += duration_ms
        self.elapsed_ms += duration_ms
        self.awake_ms += 0 if is_asleep else duration_ms


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(-(10**12), 10**12)), max_size=20))
def test_what_is_told_as_jumps_and_time_adds_up_to_utc(steps: list[tuple[int, int]]) -> None:
    machine = Machine()
    clock = machine.make_clock()
    known_ms = clock.now_ms()
    for passed_ms, jump_ms in steps:
        machine.pass_time(passed_ms)
        machine.utc_ms += jump_ms
        # Before a jump is taken, only the time that passed is seen.
        assert clock.now_ms() - known_ms == passed_ms
        told_ms = clock.take_jump()
        assert told_ms == (jump_ms if abs(jump_ms) > MAX_DRIFT_MS else 0)
        assert clock.now_ms() == machine.utc_ms
        known_ms = clock.now_ms()


def test_sleep_is_time_that_passed_and_told_once() -> None:
    machine = Machine()
    clock = machine.make_clock()
    machine.pass_time(int(MIN_SLEEP_S * 1_000) + 1, is_asleep=True)
    assert clock.take_jump() == 0
    assert clock.take_sleep() == MIN_SLEEP_S * 1_000 + 1
    assert clock.take_sleep() == 0
    assert clock.now_ms() == machine.utc_ms


def test_waits_survive_a_jump_in_either_direction() -> None:
    for jump_ms in (-400 * DAY_MS, 400 * DAY_MS):
        world = World(limits=DeviceLimits(first_resend_ms=1_000, max_resend_ms=1_000))
        world.connect()
        update = world.sign_round(1)
        before_ms = world.device.next_timer()
        assert before_ms is not None
        if jump_ms > 0:
            # The round would be over; the update is of the ledger's time, not of this clock's.
            continue
        world.now_ms += jump_ms
        world.tell(ClockSet(shift_ms=jump_ms))
        after_ms = world.device.next_timer()
        assert after_ms == before_ms + jump_ms
        assert update in updates_in(world.run_timers(world.now_ms + 2_000))


def test_a_stalled_fetch_goes_on_after_a_jump_back() -> None:
    world = World()
    world.connect()
    world.tell(world.net.announced(1))
    world.now_ms -= 30 * DAY_MS
    world.tell(ClockSet(shift_ms=-30 * DAY_MS))
    world.trace.clear()
    world.run_timers(world.now_ms + 6_000)
    assert {type(effect).__name__ for effect in world.trace} >= {"Subscribe"}


def test_a_clock_far_behind_neither_keeps_from_taking_part_nor_holds_an_update_for_years() -> None:
    world = World()
    world.now_ms = START_MS - 20 * 365 * DAY_MS
    world.connect()
    world.sign_round(1)
    assert world.device.state.outbox is not None
    assert world.device.state.outbox.deadline_ms <= world.now_ms + 60_000


def test_what_a_certified_block_says_of_the_time_outweighs_a_clock_that_is_behind() -> None:
    world = World()
    world.connect()
    period_ms = world.device._gate.trust.trusted.trust_period_ms
    world.sign_round(1)
    # The clock falls back by years; blocks go on until the trust period is over.
    late = 2 + period_ms // 60_000
    world.now_ms = START_MS - 365 * DAY_MS
    world.tell(world.net.announced(late, opened_ms=START_MS))
    world.tell(world.net.announced(late + 1, opened_ms=START_MS))
    assert world.device.counters.get("trust_expired", 0) == 1  # type: ignore[call-overload]


def test_an_update_waits_no_longer_than_its_days(monkeypatch: pytest.MonkeyPatch) -> None:
    # Rounds of the builders last a minute, so a day is made shorter.
    for module in ("device", "machine.outbox"):
        monkeypatch.setattr(f"headwater_agent.{module}.DAY_MS", 10_000)
    world = World(limits=DeviceLimits(max_outbox_days=2))
    world.connect()
    world.sign_round(1)
    entry = world.device.state.outbox
    assert entry is not None
    assert entry.deadline_ms == START_MS + 20_000
    world.device.on_timer(START_MS + 19_999)
    assert world.device.state.outbox == entry
    # It had left, so it is asked about for as long again.
    world.device.on_timer(START_MS + 20_000)
    world.device.on_timer(START_MS + 39_999)
    assert world.device.state.outbox == entry
    world.device.on_timer(START_MS + 40_000)
    assert world.device.state.outbox is None
