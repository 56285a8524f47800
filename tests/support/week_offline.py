"""A fleet that signed an update, lost the net for a week, and comes back within a minute.

Each device has its own state file and hears a reading an hour. When it is cut off, three of four
have signed an update that has not left; that of the fourth is on the ledger, but its receipt never
came. After the week all of them reconnect to a real Mosquitto, where a real gateway has kept the
round open. What is then on the ledger, in the files and in the next round's updates is counted.

Gateway and fleet share one process and one clock, which the week is added to, so a receipt's time
includes the fleet's own work.
"""

import asyncio
import os
import random
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np

from headwater_agent.config import BrokerAddress
from headwater_firmware_sim.live.broker import open_broker
from headwater_firmware_sim.scenario.kinds import SourceKind
from headwater_firmware_sim.scenario.model import Data, Network, Scenario, Task
from headwater_firmware_sim.stage import Stage, make_stage
from headwater_firmware_sim.verifier import RememberingVerifier
from headwater_gateway.shell.service import GatewayService, HostedShard, ServiceSetup
from headwater_protocol.chain.genesis import decode_genesis, encode_genesis
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import ChainId, RoundNumber
from headwater_protocol.messages.announcement import round_key
from headwater_shard.shardchain.records import BATCHES, ROUNDS, UPDATES, batch_key, update_key
from headwater_shard.state.state import State
from tests.support.hourly_device import HOUR_MS, Fleet, HourlyDevice
from tests.support.hourly_sensor import SharedTraining
from tests.support.week_figures import Figures

SHARD: Final = ChainId("shard-0")
FIRST, SECOND = RoundNumber(1), RoundNumber(2)
HOURS_BEFORE: Final = 8
"""Readings that a device has before the first round."""
NUM_SIGNING: Final = 100
"""Devices that are on the net at a time before the week."""
NUM_PROCESSES: Final = 2
NUM_APART: Final = 25
"""Devices that a process is given at a time."""
COLLECT_DAYS: Final = 10
STEP_TIMEOUT_S: Final = 240.0
PING_S: Final = 20.0
SPARE_FILES: Final = 512
FILES_A_DEVICE: Final = 8

MEMORY: Final = Path("/dev/shm")
STATE_BYTES: Final = 1_000_000
"""Of a device's file with its log, at the most."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Week:
    """What devices need to know of it in a process of their own."""

    genesis: bytes
    folder: Path
    hours: range
    """Of the readings."""
    began_ms: int


def live_offline(week: Week, devices: Sequence[tuple[int, bytes]]) -> None:
    """Let devices, by index and the seed of their key, spend the week."""
    fleet = Fleet(
        genesis=decode_genesis(week.genesis),
        shard=SHARD,
        broker=BrokerAddress(host="127.0.0.1", port=1, uses_tls=False),
        verifier=RememberingVerifier(),
        folder=week.folder,
        now_ms=lambda: week.began_ms,
    )
    for index, seed in devices:
        device = HourlyDevice(fleet, SecretKey(seed), index=index)
        device.live_offline(week.hours, began_ms=week.began_ms)


class Clock:
    """The real one, to which a week can be added."""

    def __init__(self) -> None:
        self._ahead_ms = 0

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self._ahead_ms

    def skip_to(self, at_ms: int) -> None:
        self._ahead_ms += max(0, at_ms - self.now_ms())


def spend_week_offline(
    *,
    devices: int,
    days: int,
    storm_s: float,
    folder: Path,
    files: Path,
    says: Say = lambda _: None,
) -> Figures:
    """Run it with a Mosquitto of its own.

    Args:
        devices: Of one shard.
        days: Without a network.
        storm_s: Within which all devices come back.
        folder: For the gateway's ledgers; empty.
        files: For the devices' state files; empty. They are synced as on a Pi, half a million times
            for a thousand devices and a week, and the fleet has one disk here.
        says: Takes a line at each step.

    Raises:
        ConfigError: If Mosquitto is not installed.
        TimeoutError: If the fleet does not get on.
    """
    _allow_files(SPARE_FILES + FILES_A_DEVICE * devices)
    with ExitStack() as stack:
        broker = stack.enter_context(open_broker("mosquitto"))
        run = _Run(devices=devices, folder=folder, files=files, broker_url=broker.url, says=says)
        return asyncio.run(run.run(hours=24 * days, storm_s=storm_s))


class _Run:
    def __init__(
        self, *, devices: int, folder: Path, files: Path, broker_url: str, says: Say
    ) -> None:
        self._says = says
        self._clock = Clock()
        self._stage = stage = _make_stage(devices, now_ms=self._clock.now_ms())
        self._files = files
        self._url = broker_url
        self._verifier = RememberingVerifier()
        self._training = SharedTraining()
        self._service = GatewayService(
            ServiceSetup(
                genesis=stage.plan.genesis,
                folder=folder,
                shards=[
                    HostedShard(
                        shard=SHARD,
                        keys=stage.plan.delegates[SHARD],
                        validation=stage.validation,
                        devices=[key.device for key in stage.plan.devices],
                    )
                ],
                broker_url=broker_url,
                blobs=[stage.program.data, stage.initial_model],
                registrar=stage.plan.registrar,
            ),
            verifier=self._verifier,
            on_finalized=lambda *_: self._fleet.moved.set(),
            now_ms=self._clock.now_ms,
        )

    async def run(self, *, hours: int, storm_s: float) -> Figures:
        plan = self._stage.plan
        host, _, port = self._url.removeprefix("mqtt://").partition(":")
        self._fleet = Fleet(
            genesis=plan.genesis,
            shard=SHARD,
            broker=BrokerAddress(host=host, port=int(port), uses_tls=False),
            verifier=self._verifier,
            folder=self._files,
            now_ms=self._clock.now_ms,
            training=self._training,
        )
        fleet = [
            HourlyDevice(self._fleet, key, index=index) for index, key in enumerate(plan.devices)
        ]
        serving = asyncio.create_task(self._service.run())
        pinging = asyncio.create_task(_ping(fleet))
        try:
            return await self._watched(self._spend(fleet, hours, storm_s), serving, pinging)
        finally:
            for device in fleet:
                device.cut_power()
            for task in (serving, pinging):
                task.cancel()
            await asyncio.gather(serving, pinging, return_exceptions=True)
            self._training.pool.shutdown()

    async def _watched(
        self, work: Coroutine[object, object, Figures], *others: "asyncio.Task[None]"
    ) -> Figures:
        """The work's result, or the error of what must not end before it."""
        task = asyncio.create_task(work)
        await asyncio.wait({task, *others}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            for other in others:
                if other.done():
                    other.result()
        return await task

    async def _spend(self, fleet: Sequence[HourlyDevice], hours: int, storm_s: float) -> Figures:
        for start in range(0, len(fleet), NUM_SIGNING):
            await self._sign(fleet[start : start + NUM_SIGNING])
        taken_before = self._count_commits(FIRST).total()
        self._says(f"{len(fleet)} devices signed; {taken_before} updates got through")
        await self._live_offline(fleet, hours)
        self._says(f"{hours} hours without a network are over")
        storm_s = await self._come_back(fleet, within_s=storm_s)
        await self._until(lambda: all(FIRST in device.answered_s for device in fleet), "receipts")
        self._says(f"all came back within {storm_s:.1f} s and have their receipts")
        lost, doubled = self._count_updates(fleet)
        await self._until(lambda: all(SECOND in device.answered_s for device in fleet), "round 2")
        self._says("all took part in the next round")
        waits = [1_000 * wait_s for device in fleet if (wait_s := device.wait_s(FIRST)) is not None]
        whole = [1_000 * (device.answered_s[FIRST] - device.connecting_s) for device in fleet]
        num_each = HOURS_BEFORE + hours
        missing, surplus = self._count_readings(fleet, num_each)
        return Figures(
            devices=len(fleet),
            hours=hours,
            storm_s=storm_s,
            taken_before=taken_before,
            receipts=sum(FIRST in device.answered_s for device in fleet),
            p50_ms=float(np.percentile(waits, 50)),
            p99_ms=float(np.percentile(waits, 99)),
            max_ms=max(waits),
            p99_from_connecting_ms=float(np.percentile(whole, 99)),
            lost_updates=lost,
            doubled_updates=doubled + sum(device.num_returned for device in fleet),
            readings=num_each * len(fleet),
            lost_readings=missing,
            doubled_readings=surplus,
            second_round=self._count_second_round(fleet, num_each),
        )

    async def _sign(self, devices: Sequence[HourlyDevice]) -> None:
        """Let devices sign for the first round; nobody gets a receipt."""
        now_ms = self._clock.now_ms()
        for device in devices:
            device.goes_deaf_after_sending = device.index % 4 == 3
            device.cuts_before_sending = not device.goes_deaf_after_sending
            device.boot()
            for hour in range(HOURS_BEFORE):
                at_ms = now_ms - (HOURS_BEFORE - hour) * HOUR_MS
                device.hear(hour, at_ms)
            device.connect()
        await self._until(lambda: all(FIRST in device.signed for device in devices), "signatures")
        sending = [device for device in devices if device.goes_deaf_after_sending]
        await self._until(
            lambda: all(self._entry(device, FIRST) is not None for device in sending), "commits"
        )
        for device in devices:
            assert not device.answered_s, "a receipt came before the week"
            device.cuts_before_sending = device.goes_deaf_after_sending = False
            device.cut_power()

    async def _live_offline(self, fleet: Sequence[HourlyDevice], hours: int) -> None:
        """Add `hours` to the clock; each device spends them in another process, on its own file."""
        began_ms = self._clock.now_ms()
        plan = self._stage.plan
        week = Week(
            genesis=encode_genesis(plan.genesis),
            folder=self._fleet.folder,
            hours=range(HOURS_BEFORE, HOURS_BEFORE + hours),
            began_ms=began_ms,
        )
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(NUM_PROCESSES, get_context("spawn")) as pool:
            await asyncio.gather(
                *(
                    loop.run_in_executor(pool, live_offline, week, part)
                    for start in range(0, len(fleet), NUM_APART)
                    if (part := [(d.index, d.key.seed) for d in fleet[start : start + NUM_APART]])
                )
            )
        self._clock.skip_to(began_ms + hours * HOUR_MS + HOUR_MS // 2)
        for device in fleet:
            device.boot()

    async def _come_back(self, fleet: Sequence[HourlyDevice], *, within_s: float) -> float:
        """Connect each device at its own random time; how long it took all of them."""
        rng = random.Random(len(fleet))
        plan = sorted((rng.uniform(0, within_s), device.index) for device in fleet)
        began_s = time.monotonic()
        for at_s, index in plan:
            await asyncio.sleep(max(0.0, began_s + at_s - time.monotonic()))
            fleet[index].connect()
        return time.monotonic() - began_s

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        end_s = time.monotonic() + STEP_TIMEOUT_S
        while not condition():
            self._fleet.moved.clear()
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                refused = dict(self._fleet.refused)
                raise TimeoutError(f"{what}: not within {STEP_TIMEOUT_S:.0f} s; {refused}")
            try:
                async with asyncio.timeout(min(1.0, left_s)):
                    await self._fleet.moved.wait()
            except TimeoutError:
                continue

    # What is on the ledger and in the files

    @property
    def _state(self) -> State:
        return self._service.hosts[SHARD].state

    def _entry(self, device: HourlyDevice, round_: RoundNumber):
        return self._state.get(UPDATES, update_key(round_, device.key.device))

    def _count_commits(self, round_: RoundNumber) -> Counter[bytes]:
        """Commits of a round by device."""
        record = self._state.get(ROUNDS, round_key(round_))
        assert record is not None
        commits: Counter[bytes] = Counter()
        for number in range(record.num_batches):
            batch = self._state.get(BATCHES, batch_key(round_, number))
            assert batch is not None
            commits.update(commit.device for commit in batch.commits)
        return commits

    def _count_updates(self, fleet: Iterable[HourlyDevice]) -> tuple[int, int]:
        """Updates of the first round that were lost, and those that count twice."""
        lost = 0
        for device in fleet:
            entry = self._entry(device, FIRST)
            is_there = entry is not None and entry.payload == device.signed[FIRST]
            has_proof = any(
                signed.receipt.round == FIRST and signed.receipt.payload == device.signed[FIRST]
                for signed in device.load_state().receipts
            )
            lost += not (is_there and has_proof)
        commits = self._count_commits(FIRST)
        return lost, sum(count - 1 for count in commits.values())

    def _count_readings(self, fleet: Iterable[HourlyDevice], num_each: int) -> tuple[int, int]:
        missing = surplus = 0
        for device in fleet:
            said = Counter(
                (features.tobytes(), label)
                for features, label in (
                    self._fleet.readings.example(device.index, hour) for hour in range(num_each)
                )
            )
            dataset = device.sensor.dataset()
            rows = dataset.features.reshape(len(dataset.labels), -1)
            kept = Counter(
                (row.tobytes(), int(label)) for row, label in zip(rows, dataset.labels, strict=True)
            )
            missing += (said - kept).total()
            surplus += (kept - said).total()
        return missing, surplus

    def _count_second_round(self, fleet: Iterable[HourlyDevice], num_each: int) -> int:
        count = 0
        for device in fleet:
            entry = self._entry(device, SECOND)
            is_as_signed = entry is not None and entry.payload == device.signed[SECOND]
            count += is_as_signed and entry is not None and entry.num_examples == num_each
        return count


async def _ping(fleet: Iterable[HourlyDevice]) -> None:
    while True:
        await asyncio.sleep(PING_S)
        for device in fleet:
            device.ping()


def _make_stage(devices: int, *, now_ms: int) -> Stage:
    scenario = Scenario(
        name="week-offline",
        devices=devices,
        rounds=2,
        network=Network(shards=1, delegates=4, merge_wait_s=0.3),
        task=Task(
            collect_s=COLLECT_DAYS * 86_400.0, min_updates=1.0, learning_rate=0.01, batch_size=16
        ),
        data=Data(source=SourceKind.DIGITS),
    )
    return make_stage(scenario, folder=Path(), start_ms=now_ms)


def find_memory(devices: int) -> Path | None:
    """A folder in memory with room for the fleet's files, where there is one."""
    if not os.access(MEMORY, os.W_OK):
        return None
    return MEMORY if shutil.disk_usage(MEMORY).free > devices * STATE_BYTES else None


def _allow_files(needed: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))
