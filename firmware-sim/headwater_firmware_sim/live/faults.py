"""When what goes wrong in a live run: a scenario's faults on the real clock.

Chance comes from the scenario's seed; when it strikes, the machine decides.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from headwater_firmware_sim.fault_log import FaultLog
from headwater_firmware_sim.live.broker import LiveBroker
from headwater_firmware_sim.live.lean import LeanDevice, Mishaps
from headwater_firmware_sim.scenario.kinds import FaultKind
from headwater_firmware_sim.scenario.model import Fault

HOUR_S: Final = 3_600.0
REBOOT_S: Final = 3.0
"""From the loss of power to a connection that is tried."""

CHANCES: Final = {
    FaultKind.REPLAY: "replay",
    FaultKind.DUPLICATE: "duplicate",
    FaultKind.REORDER: "reorder",
}


class LiveFaults:
    """Breaks things until it is cancelled."""

    def __init__(
        self,
        faults: Sequence[Fault],
        *,
        devices: Sequence[LeanDevice],
        mishaps: Mishaps,
        broker: LiveBroker,
        crash_gateway: Callable[[float], Awaitable[None]],
        log: FaultLog,
        elapsed_ms: Callable[[], int],
        rng: random.Random,
    ) -> None:
        """Set up.

        Args:
            faults: Those that `find_live_problem` lets through.
            devices: Of the run.
            mishaps: What happens to devices' messages and trainings by chance.
            broker: Of the run.
            crash_gateway: Stops the gateway and starts it again after so many seconds.
            log: Told of everything.
            elapsed_ms: Since the start of the run.
            rng: Draws.
        """
        self._faults = faults
        self._devices = devices
        self._mishaps = mishaps
        self._broker = broker
        self._crash_gateway = crash_gateway
        self._log = log
        self._elapsed_ms = elapsed_ms
        self._rng = rng

    async def run(self, first_round_s: float) -> None:
        """Break things.

        Args:
            first_round_s: From now to the opening of the first round.

        Raises:
            ConfigError: If a broker does not come back.
        """
        await asyncio.sleep(first_round_s)
        async with asyncio.TaskGroup() as group:
            for fault in self._faults:
                group.create_task(self._follow(fault))

    async def _follow(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at_s or 0.0)
        kind = fault.kind
        if kind in CHANCES:
            await self._raise_chance(self._mishaps.wires, CHANCES[kind], fault)
        elif kind is FaultKind.WATCHDOG:
            await self._raise_chance(self._mishaps, "watchdog", fault)
        elif kind in {FaultKind.REBOOT, FaultKind.DISCONNECT}:
            strike = self._reboot if kind is FaultKind.REBOOT else self._disconnect
            many = len(self._devices)
            try:
                async with asyncio.timeout(None if fault.at_s is None else fault.for_s):
                    await self._repeat(fault.rate * many, strike)
            except TimeoutError:
                return
        elif fault.at_s is None:
            await self._repeat(fault.rate, lambda: self._strike(fault))
        else:
            await self._strike(fault)

    async def _raise_chance(self, target: object, name: str, fault: Fault) -> None:
        setattr(target, name, min(1.0, fault.rate))
        is_short = fault.at_s is not None
        self._note(name, "all", for_s=fault.for_s if is_short else 0.0)
        if is_short:
            await asyncio.sleep(fault.for_s)
            setattr(target, name, 0.0)

    async def _repeat(self, rate: float, strike: Callable[[], Awaitable[None]]) -> None:
        """Strike at random times, `rate` times an hour."""
        while rate > 0:
            await asyncio.sleep(self._rng.expovariate(rate) * HOUR_S)
            await strike()

    async def _reboot(self) -> None:
        device = self._rng.choice(self._devices)
        if device.is_on:
            self._note("reboot", str(device.index))
            device.cut_power(again_after_s=REBOOT_S)

    async def _disconnect(self) -> None:
        device = self._rng.choice(self._devices)
        if device.is_connected:
            self._note("disconnect", str(device.index))
            device.break_connection()

    async def _strike(self, fault: Fault) -> None:
        if fault.kind is FaultKind.GATEWAY_CRASH:
            self._note(fault.kind.value, "gateway 0", for_s=fault.for_s)
            await self._crash_gateway(fault.for_s)
            return
        self._note(fault.kind.value, "all", for_s=fault.for_s)
        # The broker's own threads and processes end and begin; the loop goes on meanwhile.
        await asyncio.to_thread(self._broker.stop)
        await asyncio.sleep(fault.for_s)
        await asyncio.to_thread(self._broker.start)

    def _note(self, kind: str, target: str, *, for_s: float = 0.0) -> None:
        self._log.note(kind, target, now_ms=self._elapsed_ms(), for_ms=round(for_s * 1_000))
