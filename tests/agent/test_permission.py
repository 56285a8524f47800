"""A device that asks before it trains: waits, declines in time, and tells how fast it was."""

from dataclasses import replace

import pytest

from headwater_agent.device import Device
from headwater_agent.machine.effects import (
    AskPermission,
    Effect,
    Event,
    Notice,
    Publish,
    Subscribe,
    Train,
)
from headwater_agent.machine.inputs import ClockSet, Permission, Trained
from headwater_agent.machine.job import TRAINING_SHARE_THOUSANDTHS
from headwater_protocol.chain.cohort import Capability
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import RoundNumber
from headwater_protocol.messages.status import (
    MAX_STATUS_BYTES,
    Status,
    classify_capability,
    decode_status,
    verify_status,
)
from tests.support.agent_support import (
    BASE,
    COLLECT_MS,
    DELTA,
    DEVICE_KEY,
    ENTROPY,
    PROGRAM,
    SHARD,
    START_MS,
    World,
    only,
    requests_in,
    updates_in,
)

GB = 2**30


class PoliteWorld(World):
    """A device that asks."""

    def _boot(self) -> Device:
        return Device(
            key=DEVICE_KEY,
            genesis=self.net.genesis,
            network=self.net.network,
            shard=SHARD,
            entropy=ENTROPY,
            state=self.disk,
            asks_permission=True,
            memory_bytes=4 * GB,
        )

    def permit(self) -> list[Effect]:
        return self.tell(
            Permission(may_train=True, reason="ok", detail="", look_again_ms=self.now_ms)
        )

    def refuse(self, *, wait_ms: int = 10_000, reason: str = "load") -> list[Effect]:
        return self.tell(
            Permission(
                may_train=False,
                reason=reason,
                detail="busy",
                look_again_ms=self.now_ms + wait_ms,
            )
        )

    def deliver(self) -> list[Effect]:
        return self.tell(*self.net.pieces(BASE), *self.net.pieces(PROGRAM))


def make_world() -> PoliteWorld:
    world = PoliteWorld()
    world.connect()
    return world


def events(effects: list[Effect]) -> list[Event]:
    return [notice.event for notice in only(effects, Notice)]


def test_it_asks_before_it_fetches_and_again_before_it_trains() -> None:
    world = make_world()
    asked = world.tell(world.net.announced())
    assert only(asked, AskPermission) == [AskPermission(round=RoundNumber(1), needed_bytes=200)]
    assert not only(asked, Subscribe)
    assert only(world.permit(), Subscribe)
    asked = world.deliver()
    assert len(only(asked, AskPermission)) == 1
    assert requests_in(asked) == []
    assert len(requests_in(world.permit())) == 1
    assert len(updates_in(world.train())) == 1


def test_refusal_puts_the_training_off_within_the_round() -> None:
    world = make_world()
    world.tell(world.net.announced())
    world.permit()
    world.deliver()
    assert events(world.refuse()) == [Event.WAITING]
    assert world.device.permission is not None
    assert world.device.permission.reason == "load"
    asked = world.run_timers(world.now_ms + 10_000)
    assert len(only(asked, AskPermission)) == 1
    # The same reason is told once.
    assert events(world.refuse()) == []
    asked = world.run_timers(world.now_ms + 10_000)
    assert events(world.refuse(reason="temperature")) == [Event.WAITING]
    world.run_timers(world.now_ms + 10_000)
    assert len(requests_in(world.permit())) == 1


@pytest.mark.parametrize("shift_ms", [-(10**12), 60_000, 10**6])
def test_a_clock_that_was_set_makes_it_look_again_at_once(shift_ms: int) -> None:
    world = make_world()
    world.tell(world.net.announced())
    assert not world.device.is_waiting
    world.refuse(wait_ms=30_000)
    assert world.device.is_waiting
    world.now_ms += shift_ms
    world.tell(ClockSet(shift_ms=shift_ms))
    later = world.run_timers(world.now_ms)
    assert len(only(later, AskPermission)) == (shift_ms < COLLECT_MS)
    assert not world.device.is_waiting


def test_round_that_cannot_be_reached_is_declined_at_once() -> None:
    world = make_world()
    world.tell(world.net.announced())
    done = world.refuse(wait_ms=COLLECT_MS)
    assert events(done) == [Event.DECLINED]
    assert not only(world.trace, Train)
    assert world.device.round_in_work is None
    # The next round is asked for anew.
    assert only(world.tell(world.net.announced(2)), AskPermission)


def test_time_of_the_last_training_counts_for_the_decision() -> None:
    world = make_world()
    world.tell(world.net.announced())
    world.permit()
    world.deliver()
    world.permit()
    world.tell(trained(duration_ms=30_000))
    world.now_ms = START_MS + COLLECT_MS
    world.tell(world.net.announced(2))
    assert events(world.refuse(wait_ms=30_000)) == [Event.DECLINED]
    world.now_ms += COLLECT_MS
    world.tell(world.net.announced(3))
    assert events(world.refuse(wait_ms=29_999)) == [Event.WAITING]


def test_waiting_ends_with_the_round() -> None:
    world = make_world()
    world.tell(world.net.announced())
    world.refuse(wait_ms=COLLECT_MS - 1)
    done = world.run_timers(START_MS + COLLECT_MS)
    assert Event.ABANDONED in events(done)
    assert world.permit() == []


def test_answers_that_nobody_asked_for_do_nothing() -> None:
    world = make_world()
    assert world.permit() == []
    world.tell(world.net.announced())
    world.permit()
    assert world.permit() == []
    assert world.refuse(wait_ms=10**9) == []
    assert len(only(world.deliver(), AskPermission)) == 1


def test_device_that_does_not_ask_trains_at_once() -> None:
    world = World()
    world.connect()
    assert len(requests_in(world.begin_round())) == 1
    assert not only(world.trace, AskPermission)


def test_training_ends_in_time_for_the_update_to_be_sent() -> None:
    world = World()
    world.connect()
    world.now_ms += 20_000
    (request,) = requests_in(world.begin_round())
    assert request.time_limit_ms == 40_000 * TRAINING_SHARE_THOUSANDTHS // 1_000


def trained(*, number: int = 1, duration_ms: int = 2_000, num_steps: int = 100) -> Trained:
    return Trained(
        round=RoundNumber(number),
        delta=DELTA,
        num_examples=7,
        num_steps=num_steps,
        duration_ms=duration_ms,
    )


def statuses(effects: list[Effect]) -> list[Status]:
    found = []
    for effect in only(effects, Publish):
        if effect.topic.endswith("/status"):
            assert effect.is_retained
            assert len(effect.payload) <= MAX_STATUS_BYTES
            found.append(decode_status(effect.payload).status)
    return found


def test_speed_is_measured_smoothed_and_told_when_it_changes() -> None:
    world = World()
    (birth,) = statuses(world.connect())
    assert birth.report is None
    told = []
    for number, duration_ms in enumerate((2_000, 2_100, 8_000, 8_000, 8_000, 8_000), start=1):
        world.now_ms = START_MS + (number - 1) * COLLECT_MS
        world.begin_round(number)
        told.append(statuses(world.tell(trained(number=number, duration_ms=duration_ms))))
    speeds = [[status.report.steps_per_1000_s for status in found] for found in told]  # type: ignore[union-attr]
    assert speeds[0] == [50_000]
    assert speeds[1] == []
    assert [len(found) for found in speeds].count(1) >= 2
    assert world.device.report is not None
    assert 12_500 < world.device.report.steps_per_1000_s < 40_000


def test_report_is_signed() -> None:
    world = World()
    world.connect()
    world.begin_round()
    effects = world.tell(trained())
    (publish,) = [p for p in only(effects, Publish) if p.topic.endswith("/status")]
    verify_status(
        decode_status(publish.payload), network=world.net.network, verifier=DirectVerifier()
    )


def test_time_of_a_training_that_came_too_late_is_known_too() -> None:
    world = World()
    world.connect()
    world.begin_round()
    world.now_ms += COLLECT_MS
    world.tell(trained(duration_ms=COLLECT_MS))
    assert world.device.report is not None
    assert not updates_in(world.trace)


@pytest.mark.parametrize(
    ("speed", "memory_bytes", "expected"),
    [
        (0, 0, Capability.LIGHT),
        (19_999, 8 * GB, Capability.LIGHT),
        (20_000, 8 * GB, Capability.STANDARD),
        (10**9, GB // 4, Capability.LIGHT),
        (10**9, GB, Capability.STANDARD),
        (500_000, 4 * GB, Capability.STRONG),
        (500_000, 0, Capability.STRONG),
    ],
)
def test_classes(speed: int, memory_bytes: int, expected: Capability) -> None:
    found = classify_capability(steps_per_1000_s=speed, memory_bytes=memory_bytes)
    assert found is expected


def test_longest_status_fits() -> None:
    world = make_world()
    world.tell(world.net.announced())
    world.permit()
    world.deliver()
    world.permit()
    world.tell(trained(duration_ms=1, num_steps=1_000_000))
    report = world.device.report
    assert report is not None
    longest = replace(
        report, round_trip_ms=86_400_000, link_bytes_per_s=2**63 - 1, memory_bytes=2**50
    )
    (status,) = statuses(world.connect())
    encoded = encode_record(replace(status, report=longest, session=2**63 - 1))
    assert len(encoded) + 96 <= MAX_STATUS_BYTES


def test_link_is_measured_on_the_way() -> None:
    world = World()
    world.connect()
    world.tell(world.net.announced())
    world.now_ms += 500
    world.tell(*world.net.pieces(BASE), *world.net.pieces(PROGRAM))
    (update,) = updates_in(world.tell(trained()))
    world.now_ms += 40
    world.tell(world.net.answered(update))
    world.now_ms = START_MS + COLLECT_MS
    world.begin_round(2)
    world.tell(trained(number=2, num_steps=500))
    report = world.device.report
    assert report is not None
    assert report.round_trip_ms == 40
    assert report.link_bytes_per_s == len(BASE) * 2
