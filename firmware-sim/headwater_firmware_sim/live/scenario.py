"""`headwater-sim run --live`: a scenario on a real broker with real sockets, in real time.

The gateway is the one that a fog server runs, with all shards in one process. Devices are the
agent's machines over connections of our own. What the scenario says about wires, power and clocks
does not apply: those are real now, and what a live run could only ignore is refused.
"""

import asyncio
import random
import resource
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console

from headwater_agent.device import Device
from headwater_agent.machine.effects import Train
from headwater_agent.machine.inputs import Trained, TrainingFailed
from headwater_agent.state import DeviceState
from headwater_firmware_sim.economy.account import is_paid_out
from headwater_firmware_sim.fault_log import FaultLog
from headwater_firmware_sim.fleet_rows import describe_fleet
from headwater_firmware_sim.live.broker import LiveBroker, is_own_broker, open_broker
from headwater_firmware_sim.live.current_blobs import CurrentBlobs
from headwater_firmware_sim.live.faults import LiveFaults
from headwater_firmware_sim.live.lean import KEEPALIVE_S, LeanDevice, Mishaps, read_clock
from headwater_firmware_sim.live.rules import find_live_problem
from headwater_firmware_sim.output.folder import save_run
from headwater_firmware_sim.results import FinalRow, RunResult
from headwater_firmware_sim.running import OnShare, print_result, require_free, show_progress
from headwater_firmware_sim.scenario.describe import to_json
from headwater_firmware_sim.scenario.reader import load_scenario
from headwater_firmware_sim.stage import Stage, make_stage
from headwater_firmware_sim.training import FleetTrainer
from headwater_firmware_sim.verifier import RememberingVerifier
from headwater_firmware_sim.virtual.collector import Collector
from headwater_firmware_sim.virtual.device import make_limits
from headwater_firmware_sim.virtual.reader import RememberingReader
from headwater_gateway.journal import is_complete
from headwater_gateway.machine.metrics import Metrics
from headwater_gateway.shell.chain import StepResult
from headwater_gateway.shell.mqtt import parse_broker_url
from headwater_gateway.shell.service import GatewayService, HostedShard, ServiceSetup
from headwater_protocol.chain.block import header_digest
from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId
from headwater_shard.mainchain.supply import compute_supply
from headwater_shard.shardchain.records import SHARD, SHARD_KEY

STALL_S: Final = 120.0
"""Without a block for so long, the run gives up and says so."""
CONNECTING: Final = 200
"""Devices that open a connection at a time."""
SPARE_FILES: Final = 256
"""Open files beside the connections."""


class LiveStalled(ConfigError):
    """No block was finalized for too long."""


def run_live_file(
    path: Path,
    *,
    seed: int | None,
    out: Path | None,
    broker_url: str | None,
    console: Console,
    as_json: bool,
) -> RunResult:
    """Run a scenario on a broker, print what came of it, and write its folder.

    Raises:
        ConfigError: If the scenario, the broker or the folder cannot be used, or nothing moves.
    """
    owns_broker = is_own_broker(broker_url)
    scenario = load_scenario(
        path, check=lambda scenario: find_live_problem(scenario, owns_broker=owns_broker)
    )
    if out is not None:
        require_free(out)
    stage = make_stage(scenario, folder=path.parent, seed=seed, start_ms=read_clock())
    _require_files(scenario.devices)
    with ExitStack() as stack:
        broker = stack.enter_context(open_broker(broker_url))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-live-")))
        show = stack.enter_context(show_progress(console, scenario.name))
        result = asyncio.run(_LiveRun(stage, folder, broker, show).run())
    if out is not None:
        save_run(result, out)
    print_result(result, console=console, as_json=as_json)
    return result


class _LiveRun:
    """One run."""

    def __init__(self, stage: Stage, folder: Path, broker: LiveBroker, show: OnShare) -> None:
        self._stage = stage
        self._folder = folder
        self._broker = broker
        self._show = show
        self._address = parse_broker_url(broker.url)
        self._started_ms = read_clock()
        self._trainer = FleetTrainer(stage)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="training")
        self._judge = FleetTrainer(stage)
        self._verifier = RememberingVerifier()
        self._reader = RememberingReader()
        self._moved = asyncio.Event()
        self._done = asyncio.Event()
        self._most_connected = 0
        self._heights: Counter[ChainId] = Counter()
        self._rng = random.Random(stage.seed)  # noqa: S311  # chance of a simulation
        self._mishaps = Mishaps(rng=self._rng)
        self._log = FaultLog()
        self._metrics: list[Metrics] = []
        self._service = self._make_service()
        self._away_s = 0.0
        self._crash = asyncio.Event()
        self._is_up = asyncio.Event()
        self._collector = Collector(
            stage,
            trainer=self._judge,
            blobs=CurrentBlobs(lambda: self._service.blobs),
            metrics=lambda: self._metrics,
        )
        self._devices: list[LeanDevice] = []

    def _make_service(self) -> GatewayService:
        """A gateway that starts from what its folder holds."""
        stage, plan = self._stage, self._stage.plan
        service = GatewayService(
            ServiceSetup(
                genesis=plan.genesis,
                folder=self._folder,
                shards=[
                    HostedShard(
                        shard=shard,
                        keys=plan.delegates[shard],
                        validation=stage.validation,
                        devices=[plan.devices[index].device for index in stage.devices_of(shard)],
                    )
                    for shard in plan.genesis.shards
                ],
                broker_url=self._broker.url,
                blobs=[stage.program.data, stage.initial_model],
                registrar=plan.registrar,
                transactions=stage.lock_deposits(),
            ),
            verifier=self._verifier,
            on_finalized=self._on_finalized,
        )
        self._metrics.append(service.metrics)
        return service

    async def run(self) -> RunResult:
        """Until the last merge is done."""
        slots = asyncio.Semaphore(CONNECTING)
        self._devices = [self._make_device(index, slots) for index in range(len(self._stage.fleet))]
        tasks = [
            asyncio.create_task(self._serve()),
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._break_things()),
            asyncio.create_task(self._connect()),
        ]
        service, watch, faults, _ = tasks
        try:
            waiting = {service, watch, faults}
            while not self._done.is_set():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            return self._result()
        finally:
            for device in self._devices:
                device.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._pool.shutdown()

    async def _serve(self) -> None:
        """Run the gateway, and start it again from its folder after each crash."""
        while True:
            running = asyncio.create_task(self._service.run())
            crash = asyncio.create_task(self._crash.wait())
            self._is_up.set()
            try:
                await asyncio.wait({running, crash}, return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    running.result()
                    return
            finally:
                running.cancel()
                crash.cancel()
                await asyncio.gather(running, crash, return_exceptions=True)
            self._crash.clear()
            await asyncio.sleep(self._away_s)
            self._service = self._make_service()

    async def _crash_gateway(self, away_s: float) -> None:
        """Stop the gateway where it is, and return once it runs again."""
        self._away_s = away_s
        self._is_up.clear()
        self._crash.set()
        await self._is_up.wait()

    async def _break_things(self) -> None:
        stage = self._stage
        faults = LiveFaults(
            stage.scenario.faults,
            devices=self._devices,
            mishaps=self._mishaps,
            broker=self._broker,
            crash_gateway=self._crash_gateway,
            log=self._log,
            elapsed_ms=lambda: read_clock() - self._started_ms,
            rng=self._rng,
        )
        until_ms = stage.plan.genesis.time_ms - read_clock()
        await faults.run(max(0, until_ms) / 1_000)

    def _make_device(self, index: int, slots: asyncio.Semaphore) -> LeanDevice:
        plan, key = self._stage.plan, self._stage.plan.devices[index]

        def boot(state: DeviceState) -> Device:
            return Device(
                key=key,
                genesis=plan.genesis,
                network=plan.network,
                shard=plan.shard_of(index),
                entropy=hash_bytes(Domain.SEED, b"entropy", key.seed),
                state=state,
                limits=make_limits(self._stage.fleet[index].device_class.memory_mb),
                verifier=self._verifier,
                reader=self._reader,
            )

        return LeanDevice(
            boot,
            index=index,
            broker=self._address,
            train=self._train,
            slots=slots,
            mishaps=self._mishaps,
        )

    def _train(self, index: int, request: Train) -> "asyncio.Future[Trained | TrainingFailed]":
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._pool, partial(self._trainer.train, index, request))

    async def _connect(self) -> None:
        for device in self._devices:
            device.start()
        while True:
            await asyncio.sleep(KEEPALIVE_S / 2)
            for device in self._devices:
                device.ping()

    async def _watch(self) -> None:
        """Return when the run is complete.

        Raises:
            LiveStalled: If no block is finalized for `STALL_S`.
        """
        last = time.monotonic()
        while not self._done.is_set():
            self._moved.clear()
            try:
                async with asyncio.timeout(0.5):
                    await self._moved.wait()
                last = time.monotonic()
            except TimeoutError:
                if time.monotonic() - last > STALL_S:
                    raise LiveStalled(
                        "run", f"no block for {STALL_S:.0f} s", fix="check the broker"
                    ) from None
            connected = sum(device.is_connected for device in self._devices)
            self._most_connected = max(self._most_connected, connected)
            closed = len(self._collector.rounds)
            total = self._stage.scenario.rounds * len(self._stage.plan.genesis.shards)
            self._show(closed / total, f"{connected} connections")

    def _on_finalized(self, chain: ChainId, result: StepResult) -> None:
        tip = result.tip
        if tip is None:
            return
        self._moved.set()
        self._heights[chain] = tip.block.header.height
        if chain == MAIN_CHAIN:
            self._collector.on_main(tip.state, read_clock() - self._started_ms)
            if is_complete(tip.state) and is_paid_out(tip.state):
                self._done.set()
        else:
            self._collector.on_shard(chain, tip.state, self._started_ms)

    def _result(self) -> RunResult:
        stage, collector, hosts = self._stage, self._collector, self._service.hosts
        shards = stage.plan.genesis.shards
        last = collector.globals[-1] if collector.globals else None
        record = hosts[shards[0]].state.get(SHARD, SHARD_KEY)
        model = "" if record is None else record.model.hex()
        wall_ms = read_clock() - self._started_ms
        return RunResult(
            scenario=stage.scenario.name,
            title=stage.scenario.title,
            seed=stage.seed,
            mode="live",
            devices=len(self._devices),
            shards=len(shards),
            attackers=sum(casting.attack is not None for casting in stage.fleet),
            virtual_ms=wall_ms,
            wall_ms=wall_ms,
            peak_memory_bytes=1_024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            counts=self._counts(),
            rounds=tuple(sorted(collector.rounds, key=lambda row: (row.closed_ms, row.shard))),
            globals=tuple(collector.globals),
            checkpoints=tuple(collector.checkpoints),
            elections=tuple(collector.elections),
            seats=tuple(collector.seats),
            penalties=tuple(collector.penalties),
            economy=collector.economy(hosts[MAIN_CHAIN].state),
            faults=self._log.rows,
            fleet=describe_fleet(
                stage, {shard: hosts[shard].state for shard in shards}, self._devices
            ),
            device_rounds=tuple(collector.device_rounds),
            final=FinalRow(
                main_chain_digest=self._digest(MAIN_CHAIN),
                main_chain_height=self._heights[MAIN_CHAIN],
                chain_digests={shard: self._digest(shard) for shard in shards},
                chain_heights={shard: self._heights[shard] for shard in shards},
                model=model if last is None else last.model,
                accuracy=None if last is None else last.accuracy,
                loss=None if last is None else last.loss,
                backdoor=None if last is None else last.backdoor,
                merges=0 if last is None else last.epoch,
                supply=compute_supply(hosts[MAIN_CHAIN].state),
                is_complete=self._done.is_set(),
                audit="not run",
            ),
            config=to_json(stage.scenario),
        )

    def _counts(self) -> dict[str, int]:
        counts = {
            "blocks": sum(self._heights.values()),
            "boots": sum(device.boots for device in self._devices),
            "connections": self._most_connected,
            "garbage": sum(metrics.garbage for metrics in self._metrics),
            "hangs": self._mishaps.num_hangs,
            "messages_received": sum(device.num_received for device in self._devices),
            "signatures_checked": self._verifier.num_checked,
            "trainings": self._trainer.num_trained,
            **self._log.counts,
        }
        for kind, count in self._mishaps.wires.counts.items():
            counts[f"messages_{kind}"] = count
        return dict(sorted(counts.items()))

    def _digest(self, chain: ChainId) -> str:
        tip = self._service.hosts[chain].tip
        return "" if tip is None else header_digest(tip.block.header).hex()


def _require_files(connections: int) -> None:
    """Ask the system for enough open files.

    Raises:
        ConfigError: If it does not grant them.
    """
    needed = connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            "devices",
            f"{connections} connections, the system allows {hard} open files",
            fix=f"ulimit -Hn {needed}, or fewer devices",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
