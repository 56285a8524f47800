"""The firmware of one simulated device around the agent's machine.

Power, flash, clock, battery and radio are simulated; what a device decides is `Device`. Flash holds
what `Persist` effects wrote and survives everything; a power cut within a write leaves it as before
or as after, never between, as the agent's store has it.
"""

from dataclasses import replace
from typing import Final

from headwater_agent.device import Device
from headwater_agent.machine.effects import (
    Effect,
    Event,
    Notice,
    OpenConnection,
    Persist,
    Publish,
    Subscribe,
    Train,
    Unsubscribe,
)
from headwater_agent.machine.inputs import Arrived, Connected, Connecting, Disconnected, Stopping
from headwater_agent.machine.limits import DeviceLimits
from headwater_agent.state import DeviceState, apply_changes
from headwater_firmware_sim.stage import BYTES_PER_PARAMETER
from headwater_firmware_sim.virtual.spill import MIN_MESSAGE_BYTES, MessageSpill
from headwater_firmware_sim.virtual.world import World
from headwater_firmware_sim.witnessed_key import WitnessedKey
from headwater_protocol.crypto.hashing import Domain, hash_bytes

REBOOT_MS: Final = 3_000
"""From power to a connection that is tried."""
WATCHDOG_MS: Final = 20_000
"""Without a sign of life until the watchdog resets the device."""
FIRST_RETRY_MS: Final = 500
LAST_RETRY_MS: Final = 30_000
BUSY_CHECK_MS: Final = 1_000
"""How long a device that should sleep stays up for a round in work."""
RECOVERED_SHARE: Final = 0.2
"""Of a battery, at which a device that browned out boots again."""


def make_limits(memory_mb: float) -> DeviceLimits:
    """What a device with this memory takes on."""
    memory_bytes = int(memory_mb * 1024 * 1024)
    return DeviceLimits(
        max_parameters=max(1, min(1 << 24, memory_bytes // BYTES_PER_PARAMETER)),
        max_program_bytes=max(1, min(4 * 1024 * 1024, memory_bytes)),
    )


class VirtualDevice:
    """One device, switched on or off."""

    __slots__ = (
        "_charge_j",
        "_charged_ms",
        "_device",
        "_entropy",
        "_generation",
        "_last_arrival_ms",
        "_last_departure_ms",
        "_limits",
        "_missed_round",
        "_retry_ms",
        "_timer_ms",
        "_world",
        "boots",
        "brownouts",
        "has_left",
        "index",
        "state",
        "torn_writes",
    )

    def __init__(self, world: World, index: int, limits: DeviceLimits) -> None:
        self._world = world
        self.index = index
        self.state = DeviceState()
        """Flash."""
        self.boots = 0
        self.brownouts = 0
        self.torn_writes = 0
        self.has_left = False
        self._limits = limits
        self._device: Device | None = None
        self._generation = 0
        self._timer_ms: int | None = None
        self._retry_ms = FIRST_RETRY_MS
        self._last_arrival_ms = 0
        self._last_departure_ms = 0
        self._missed_round = 0
        self._charge_j = world.stage.fleet[index].device_class.battery_j
        self._charged_ms = world.clock.now_ms
        key = world.stage.plan.devices[index]
        self._entropy = hash_bytes(Domain.SEED, b"entropy", key.seed)

    @property
    def is_on(self) -> bool:
        """Whether it has power and runs."""
        return self._device is not None

    @property
    def battery_thousandths(self) -> int:
        """Charge; 1000 on the mains."""
        capacity = self._world.stage.fleet[self.index].device_class.battery_j
        if capacity == 0:
            return 1_000
        self._settle(0.0)
        return round(1_000 * self._charge_j / capacity)

    # Power

    def boot(self) -> None:
        """Start from flash and connect."""
        if self._device is not None or self.has_left:
            return
        world, plan = self._world, self._world.stage.plan
        self._settle(0.0)
        casting = world.stage.fleet[self.index]
        self.boots += 1
        world.counts["boots"] += 1
        self._generation += 1
        self._timer_ms = None
        self._retry_ms = FIRST_RETRY_MS
        self._device = Device(
            key=WitnessedKey(plan.devices[self.index], world.verifier),
            genesis=plan.genesis,
            network=plan.network,
            shard=plan.shard_of(self.index),
            entropy=self._entropy,
            state=self.state,
            limits=self._limits,
            verifier=world.verifier,
            reader=world.reader,
        )
        awake_ms = round(casting.device_class.awake_s * 1_000)
        if awake_ms and casting.device_class.asleep_s:
            world.clock.after(awake_ms, self._sleep, self._generation)
        self._connect(self._generation)

    def cut_power(self, *, again_after_ms: int | None) -> None:
        """Stop at once; everything but flash is lost."""
        if self._device is None:
            return
        self._settle(0.0)
        self._device = None
        self._generation += 1
        self._world.trainer.drop(self.index)
        self._world.broker.lose(self)
        if again_after_ms is not None:
            self._world.clock.after(again_after_ms, self.boot)

    def leave(self) -> None:
        """Go for good."""
        self.has_left = True
        self.cut_power(again_after_ms=None)

    def _sleep(self, generation: int) -> None:
        device = self._device
        if generation != self._generation or device is None:
            return
        now_ms = self._now()
        if device.round_in_work is not None:
            self._world.clock.after(BUSY_CHECK_MS, self._sleep, generation)
            return
        device.receive(Stopping(), now_ms)
        self._perform()
        if self._device is None:
            return
        self._settle(0.0)
        self._world.broker.disconnect(self)
        self._device = None
        self._generation += 1
        casting = self._world.stage.fleet[self.index]
        self._world.clock.after(round(casting.device_class.asleep_s * 1_000), self.boot)

    def _settle(self, used_j: float) -> bool:
        """Account for energy since the last time; False if the battery is empty."""
        kind = self._world.stage.fleet[self.index].device_class
        if kind.battery_j == 0:
            return True
        now_ms = self._world.clock.now_ms
        watts = kind.charge_w - (kind.idle_w if self._device is not None else 0.0)
        self._charge_j += watts * (now_ms - self._charged_ms) / 1_000 - used_j
        self._charge_j = min(max(self._charge_j, 0.0), kind.battery_j)
        self._charged_ms = now_ms
        return self._charge_j > 0

    def _spend(self, used_j: float) -> bool:
        """Use energy; False if that browned the device out."""
        if self._settle(used_j):
            return True
        kind = self._world.stage.fleet[self.index].device_class
        self.brownouts += 1
        self._world.note_fault("brownout", str(self.index))
        wait_s = kind.battery_j * RECOVERED_SHARE / kind.charge_w if kind.charge_w else None
        self.cut_power(again_after_ms=None if wait_s is None else round(wait_s * 1_000))
        return False

    # The clock of the device itself

    def _now(self) -> int:
        casting = self._world.stage.fleet[self.index]
        now_ms = self._world.clock.now_ms
        if casting.drift_ppm:
            now_ms += int((now_ms - self._world.start_ms) * casting.drift_ppm / 1_000_000)
        return now_ms + casting.offset_ms

    def _arm(self) -> None:
        device = self._device
        at_ms = None if device is None else device.next_timer()
        if at_ms is None:
            return
        wait_ms = max(1, at_ms - self._now())
        due_ms = self._world.clock.now_ms + wait_ms
        if self._timer_ms is not None and self._timer_ms <= due_ms:
            return
        self._timer_ms = due_ms
        self._world.clock.at(due_ms, self._on_timer, self._generation, due_ms)

    def _on_timer(self, generation: int, due_ms: int) -> None:
        device = self._device
        if generation != self._generation or device is None or self._timer_ms != due_ms:
            return
        self._timer_ms = None
        at_ms = device.next_timer()
        if at_ms is not None and at_ms <= self._now():
            device.on_timer(self._now())
        self._perform()

    # The radio

    def send(self, topic: str, payload: bytes) -> None:
        """Put a message on the wire from the broker to here."""
        for delay_ms in self._plan_delivery(len(payload)):
            at_ms = self._in_order(delay_ms, is_up=False)
            self._world.clock.at(at_ms, self._arrive, self._generation, topic, payload)

    def _arrive(self, generation: int, topic: str, payload: bytes) -> None:
        device = self._device
        if generation != self._generation or device is None:
            return
        device.receive(Arrived(topic=topic, payload=payload), self._now())
        self._perform()

    def _plan_delivery(self, size: int) -> tuple[int, ...]:
        world = self._world
        kind = world.stage.fleet[self.index].device_class
        delay_ms = kind.latency_ms
        if delay_ms:
            delay_ms += int(world.rng.random() * (delay_ms // 2 + 1))
        if kind.bandwidth_kbps:
            delay_ms += int(size * 8 / kind.bandwidth_kbps)
        return world.conditions.plan(world.rng, delay_ms=delay_ms, loss=kind.loss)

    def _in_order(self, delay_ms: int, *, is_up: bool) -> int:
        """When a message arrives: one connection keeps order unless the network breaks it."""
        at_ms = self._world.clock.now_ms + delay_ms
        if self._world.conditions.reorder:
            return at_ms
        if is_up:
            at_ms = self._last_departure_ms = max(at_ms, self._last_departure_ms)
        else:
            at_ms = self._last_arrival_ms = max(at_ms, self._last_arrival_ms)
        return at_ms

    def _connect(self, generation: int) -> None:
        device = self._device
        if generation != self._generation or device is None:
            return
        device.receive(Connecting(), self._now())
        self._perform()

    def _open(self, effect: OpenConnection) -> None:
        kind = self._world.stage.fleet[self.index].device_class
        self._world.clock.after(2 * kind.latency_ms + 1, self._opened, self._generation, effect)

    def _opened(self, generation: int, effect: OpenConnection) -> None:
        device, world = self._device, self._world
        if generation != self._generation or device is None:
            return
        if not world.conditions.is_broker_up:
            self._retry(generation)
            return
        self._retry_ms = FIRST_RETRY_MS
        world.counts["connections"] += 1
        world.broker.connect(self, (effect.will.topic, effect.will.payload))
        device.receive(Connected(session=effect.session), self._now())
        self._perform()

    def drop_connection(self) -> None:
        """The broker is gone, or the device walked out of reach; it tries again by itself."""
        if self._device is None:
            return
        self._device.receive(Disconnected(), self._now())
        self._world.broker.lose(self)
        self._perform()
        self._retry(self._generation)

    def _retry(self, generation: int) -> None:
        wait_ms = self._retry_ms
        self._retry_ms = min(LAST_RETRY_MS, 2 * wait_ms)
        wait_ms += int(self._world.rng.random() * wait_ms)
        self._world.clock.after(wait_ms, self._connect, generation)

    # What the machine wants done

    def _perform(self) -> None:
        device = self._device
        if device is None:
            return
        for effect in device.effects():
            self._perform_one(effect)
            if self._device is not device:
                return
        self._arm()

    def _perform_one(self, effect: Effect) -> None:
        world = self._world
        if isinstance(effect, Persist):
            self._write(effect)
        elif isinstance(effect, Publish):
            self._publish(effect)
        elif isinstance(effect, Subscribe):
            if world.broker.is_connected(self):
                for topic in effect.topics:
                    world.broker.subscribe(self, topic)
        elif isinstance(effect, Unsubscribe):
            for topic in effect.topics:
                world.broker.unsubscribe(self, topic)
        elif isinstance(effect, Train):
            self._train(effect)
        elif isinstance(effect, OpenConnection):
            self._open(effect)
        elif isinstance(effect, Notice):
            self._on_notice(effect)

    def _write(self, effect: Persist) -> None:
        world = self._world
        if world.rates.torn_write and world.rng.random() < world.rates.torn_write:
            self.torn_writes += 1
            world.note_fault("torn_write", str(self.index))
            if world.rng.random() < 0.5:
                self.state = apply_changes(self.state, effect.changes)
            self.cut_power(again_after_ms=REBOOT_MS)
            return
        changes, residual, outbox = effect.changes, effect.changes.residual, effect.changes.outbox
        if world.flash is not None and residual is not None and self._device is not None:
            copy = world.flash.put_residual(self.index, residual)
            changes = replace(changes, residual=copy)
            self._device.share_residual(residual, copy)
        if world.flash is not None and outbox is not None and self._device is not None:
            entry = world.flash.put_outbox(self.index, outbox)
            changes = replace(changes, outbox=entry)
            self._device.share_outbox(outbox, entry)
        self.state = apply_changes(self.state, changes)
        if world.flash is not None and self._device is not None:
            self._device.share_state(self.state)

    def _publish(self, effect: Publish) -> None:
        world = self._world
        if not world.broker.is_connected(self):
            return
        if not self._spend(world.stage.fleet[self.index].device_class.send_j):
            return
        air = world.air if len(effect.payload) >= MIN_MESSAGE_BYTES else None
        for delay_ms in self._plan_delivery(len(effect.payload)):
            at_ms = self._in_order(delay_ms, is_up=True)
            if air is None:
                world.clock.at(at_ms, self._reach_broker, effect)
            else:
                place = air.put(effect.payload)
                world.clock.at(at_ms, self._land, air, place, replace(effect, payload=b""))

    def _land(self, air: MessageSpill, place: tuple[int, int], effect: Publish) -> None:
        self._reach_broker(replace(effect, payload=air.take(place)))

    def _reach_broker(self, effect: Publish) -> None:
        if self._world.conditions.is_broker_up:
            self._world.broker.publish(effect.topic, effect.payload, retain=effect.is_retained)

    def _train(self, request: Train) -> None:
        world = self._world
        casting = world.stage.fleet[self.index]
        steps = world.trainer.num_steps(self.index, request)
        speed = casting.device_class.steps_per_s * casting.speed
        lasts_ms = max(1, round(1_000 * steps / speed))
        if world.rates.watchdog and world.rng.random() < world.rates.watchdog:
            world.note_fault("watchdog", str(self.index))
            world.clock.after(WATCHDOG_MS, self._reset, self._generation)
            return
        world.trainer.begin(self.index, request)
        world.clock.after(lasts_ms, self._finish, self._generation, request, lasts_ms)

    def _reset(self, generation: int) -> None:
        if generation == self._generation:
            self.cut_power(again_after_ms=REBOOT_MS)

    def _finish(self, generation: int, request: Train, lasted_ms: int) -> None:
        if generation != self._generation:
            return
        kind = self._world.stage.fleet[self.index].device_class
        if not self._spend(kind.train_w * lasted_ms / 1_000):
            return
        device = self._device
        if device is None or device.round_in_work != request.round:
            return
        device.receive(self._world.trainer.train(self.index, request), self._now())
        self._perform()

    def _on_notice(self, notice: Notice) -> None:
        world = self._world
        if notice.event not in {Event.FETCHING, Event.TRAINING}:
            return
        absent = world.stage.scenario.churn.absent
        if not absent or notice.round == self._missed_round:
            return
        self._missed_round = notice.round
        if world.rng.random() < absent:
            world.counts["absences"] += 1
            collect_ms = world.stage.plan.genesis.task.collect_ms
            self.cut_power(again_after_ms=collect_ms)
