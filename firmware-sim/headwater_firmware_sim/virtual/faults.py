"""When what goes wrong: turns a scenario's faults into events on the virtual clock."""

from collections.abc import Callable, Sequence
from typing import Final

from headwater_firmware_sim.scenario.kinds import FaultKind
from headwater_firmware_sim.scenario.model import Fault
from headwater_firmware_sim.virtual.clock import Action
from headwater_firmware_sim.virtual.device import REBOOT_MS, VirtualDevice
from headwater_firmware_sim.virtual.gateway import GatewayNode
from headwater_firmware_sim.virtual.world import World

HOUR_MS: Final = 3_600_000
CRASH_EVERY_MS: Final = 60_000
"""Of a crashing delegate."""

CHANCES: Final = {
    FaultKind.LOSS: "loss",
    FaultKind.REPLAY: "replay",
    FaultKind.DUPLICATE: "duplicate",
    FaultKind.REORDER: "reorder",
}


class Faults:
    """Breaks things until it is told to stop."""

    def __init__(
        self, world: World, *, devices: Sequence[VirtualDevice], gateways: Sequence[GatewayNode]
    ) -> None:
        self._world = world
        self._devices = devices
        self._gateways = gateways
        self._is_over = False

    def plan(self, crashing: Sequence[GatewayNode]) -> None:
        """Plan all of the scenario's faults from the opening of the first round on."""
        world = self._world
        scenario = world.stage.scenario
        first_ms = world.start_ms + world.stage.warm_up_ms
        for fault in scenario.faults:
            at_ms = first_ms + round((fault.at_s or 0.0) * 1_000)
            world.clock.at(at_ms, self._begin, fault)
        if scenario.churn.leave:
            self._repeat(scenario.churn.leave * len(self._devices), None, self._leave)
        for gateway in crashing:
            wait_ms = world.rng.randrange(CRASH_EVERY_MS)
            world.clock.at(first_ms + wait_ms, self._crash_again, gateway)

    def stop(self) -> None:
        """Nothing goes wrong any more, and what is down comes back."""
        self._is_over = True
        world = self._world
        conditions = world.conditions
        conditions.loss = conditions.duplicate = conditions.replay = conditions.reorder = 0.0
        conditions.cut = None
        world.rates.torn_write = world.rates.watchdog = 0.0
        self._restore_broker()
        for gateway in self._gateways:
            gateway.start()
        for device in self._devices:
            device.boot()

    def _begin(self, fault: Fault) -> None:
        if self._is_over:
            return
        kind, for_ms = fault.kind, round(fault.for_s * 1_000)
        until_ms = None if fault.at_s is None else self._world.clock.now_ms + for_ms
        if kind in CHANCES:
            self._set_chance(CHANCES[kind], fault.rate, until_ms)
        elif kind in {FaultKind.TORN_WRITE, FaultKind.WATCHDOG}:
            setattr(self._world.rates, kind.value, min(1.0, fault.rate))
            if until_ms is not None:
                self._world.clock.at(until_ms, setattr, self._world.rates, kind.value, 0.0)
        elif kind is FaultKind.REBOOT:
            self._repeat(fault.rate * len(self._devices), until_ms, self._reboot)
        elif kind is FaultKind.DISCONNECT:
            self._repeat(fault.rate * len(self._devices), until_ms, self._disconnect)
        elif fault.at_s is not None:
            self._strike(kind, for_ms)
        else:
            many = len(self._gateways) if kind is FaultKind.GATEWAY_CRASH else 1
            self._repeat(fault.rate * many, None, self._strike, kind, for_ms)

    def _set_chance(self, name: str, rate: float, until_ms: int | None) -> None:
        conditions = self._world.conditions
        setattr(conditions, name, min(1.0, rate))
        lasts_ms = 0 if until_ms is None else until_ms - self._world.clock.now_ms
        self._world.note_fault(name, "all", for_ms=lasts_ms)
        if until_ms is not None:
            self._world.clock.at(until_ms, setattr, conditions, name, 0.0)

    def _repeat(
        self, rate: float, until_ms: int | None, action: Callable[..., None], *arguments: object
    ) -> None:
        """Do `action` at random times, `rate` times an hour."""
        if rate > 0:
            self._wait(rate, until_ms, action, arguments)

    def _wait(
        self, rate: float, until_ms: int | None, action: Action, arguments: tuple[object, ...]
    ) -> None:
        wait_ms = max(1, round(self._world.rng.expovariate(rate) * HOUR_MS))
        self._world.clock.after(wait_ms, self._again, rate, until_ms, action, arguments)

    def _again(
        self, rate: float, until_ms: int | None, action: Action, arguments: tuple[object, ...]
    ) -> None:
        if self._is_over or (until_ms is not None and self._world.clock.now_ms >= until_ms):
            return
        action(*arguments)
        self._wait(rate, until_ms, action, arguments)

    def _reboot(self) -> None:
        device = self._world.rng.choice(self._devices)
        if device.is_on:
            self._world.note_fault("reboot", str(device.index))
            device.cut_power(again_after_ms=REBOOT_MS)

    def _disconnect(self) -> None:
        device = self._world.rng.choice(self._devices)
        if self._world.broker.is_connected(device):
            self._world.note_fault("disconnect", str(device.index))
            device.drop_connection()

    def _leave(self) -> None:
        device = self._world.rng.choice(self._devices)
        if not device.has_left:
            self._world.note_fault("leave", str(device.index))
            device.leave()

    def _strike(self, kind: FaultKind, for_ms: int) -> None:
        world = self._world
        if kind is FaultKind.GATEWAY_CRASH:
            self._crash(world.rng.choice(self._gateways), for_ms)
        elif kind is FaultKind.BROKER_LOSS:
            if world.conditions.is_broker_up:
                world.note_fault(kind.value, "all", for_ms=for_ms)
                world.conditions.is_broker_up = False
                world.broker.stop()
                for device in self._devices:
                    device.drop_connection()
                world.clock.after(for_ms, self._restore_broker)
        elif world.conditions.cut is None and len(self._gateways) > 1:
            many = world.rng.randrange(1, len(self._gateways))
            indices = world.rng.sample(range(len(self._gateways)), many)
            world.conditions.cut = frozenset(indices)
            target = ",".join(str(index) for index in sorted(indices))
            world.note_fault(kind.value, f"gateways {target}", for_ms=for_ms)
            world.clock.after(for_ms, self._heal)

    def _heal(self) -> None:
        self._world.conditions.cut = None

    def _restore_broker(self) -> None:
        if self._world.conditions.is_broker_up:
            return
        self._world.conditions.is_broker_up = True
        for gateway in self._gateways:
            gateway.connect()

    def _crash(self, gateway: GatewayNode, for_ms: int) -> None:
        if gateway.is_up:
            self._world.note_fault("gateway_crash", f"gateway {gateway.index}", for_ms=for_ms)
            gateway.crash()
            self._world.clock.after(for_ms, gateway.start)

    def _crash_again(self, gateway: GatewayNode) -> None:
        if self._is_over:
            return
        world = self._world
        self._crash(gateway, round(world.stage.scenario.delegates.away_s * 1_000))
        world.clock.after(CRASH_EVERY_MS, self._crash_again, gateway)
