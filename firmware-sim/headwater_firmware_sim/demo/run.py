"""Running the demo: a gateway, a broker and a fleet in one process, then the audit."""

import asyncio
import json
import shutil
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import aiomqtt

from headwater_agent.device import Device
from headwater_agent.machine.limits import DeviceLimits
from headwater_agent.state import DeviceState
from headwater_firmware_sim.attack import Attack
from headwater_firmware_sim.byzantine import ByzantineService
from headwater_firmware_sim.demo.options import DemoOptions
from headwater_firmware_sim.demo.report import DemoReport, RoundReport
from headwater_firmware_sim.demo.scene import Scene, make_scene
from headwater_firmware_sim.economy.account import is_paid_out, read_economy
from headwater_firmware_sim.economy.epochs import list_epochs
from headwater_firmware_sim.economy.evidence import list_evidence
from headwater_firmware_sim.live.device import LiveDevice
from headwater_firmware_sim.live.fleet import SharedTrainer, run_fleet
from headwater_firmware_sim.verifier import RememberingVerifier
from headwater_gateway.journal import is_complete
from headwater_gateway.shell.broker import embedded_broker
from headwater_gateway.shell.chain import StepResult
from headwater_gateway.shell.mqtt import parse_broker_url
from headwater_gateway.shell.service import GatewayService, HostedShard, ServiceSetup
from headwater_models.trainer import Trainer
from headwater_protocol.chain.epoch import epoch_key
from headwater_protocol.chain.round import Round, RoundPhase
from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Digest, RoundNumber
from headwater_protocol.messages.announcement import round_key
from headwater_protocol.model.fixed_point import to_float32
from headwater_protocol.reasons import ReasonCode
from headwater_shard.audit.failure import AuditFailure
from headwater_shard.audit.folder import open_audit
from headwater_shard.layout import DataFolder
from headwater_shard.mainchain.records import MAIN, MAIN_KEY, MERGES, SHARDS
from headwater_shard.round_model import decode_task_model
from headwater_shard.shardchain.records import REWARDS, ROUNDS, SHARD, SHARD_KEY
from headwater_shard.state.state import State

STALL_S: Final = 120.0
"""Without a finalized block for so long, the demo gives up and says so."""


class View(Protocol):
    """Shows the run while it goes on."""

    def update(self, report: DemoReport) -> None:
        """Something changed."""
        ...

    def say(self, line: str) -> None:
        """One line for people."""
        ...


class DemoStalled(ConfigError):
    """No block was finalized for too long."""


def prepare_folder(options: DemoOptions) -> None:
    """Make the folder empty, if it is a demo's or new.

    Raises:
        ConfigError: If it holds something else.
    """
    out = options.out
    if out.exists() and any(out.iterdir()):
        if not DataFolder(out).genesis.is_file():
            raise ConfigError("--out", f"{out} is not empty and no demo's", fix="choose another")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)


def audit_folder(out: Path) -> str:
    """Replay the ledgers in `out` from genesis: `ok`, or the first thing that does not hold."""
    try:
        with open_audit(DataFolder(out)) as audit:
            for _ in audit.run():
                pass
    except AuditFailure as failure:
        return str(failure)
    return "ok"


def run_demo(options: DemoOptions, view: View) -> DemoReport:
    """Run the main job; writes `result.json`.

    Args:
        options: What to run.
        view: Shows progress.

    Raises:
        ConfigError: If the folder or the broker cannot be used, or nothing moves any more.
    """
    started = time.monotonic()
    prepare_folder(options)
    scene = make_scene(options)
    report = DemoReport(
        num_devices=options.devices,
        shards=scene.plan.genesis.shards,
        attackers=frozenset(
            key.device
            for key, attack in zip(scene.plan.devices, scene.attacks, strict=True)
            if attack is not Attack.NONE
        ),
        bits=options.bits,
        seed=options.seed,
    )
    if options.broker_url is None:
        with embedded_broker("127.0.0.1", 0) as url:
            asyncio.run(_Demo(options, scene, report, view, url).run())
    else:
        asyncio.run(_Demo(options, scene, report, view, options.broker_url).run())
    view.say("replaying the ledgers from genesis")
    report.audit = audit_folder(options.out)
    report.wall_ms = int((time.monotonic() - started) * 1_000)
    text = json.dumps(report.to_json(), indent=2)
    (options.out / "result.json").write_text(text + "\n", encoding="utf-8")
    return report


def _ignore_lost_connections(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Aiomqtt leaves a future behind for each connection that ends by itself; they say nothing."""
    if not isinstance(context.get("exception"), aiomqtt.MqttError):
        loop.default_exception_handler(context)


class _Demo:
    """One run."""

    def __init__(
        self, options: DemoOptions, scene: Scene, report: DemoReport, view: View, url: str
    ) -> None:
        self._options = options
        self._scene = scene
        self._report = report
        self._view = view
        self._url = url
        self._verifier = RememberingVerifier()
        self._trainer = SharedTrainer()
        self._judge = Trainer(scene.program)
        self._seen: dict[ChainId, int] = dict.fromkeys(scene.plan.genesis.shards, 0)
        self._earned = 0
        self._moved = asyncio.Event()
        self._done = asyncio.Event()
        plan = scene.plan
        setup = ServiceSetup(
            genesis=plan.genesis,
            folder=options.out,
            shards=[
                HostedShard(
                    shard=shard,
                    keys=keys,
                    validation=scene.validation,
                    devices=[
                        key.device
                        for index, key in enumerate(plan.devices)
                        if plan.shard_of(index) == shard
                    ],
                )
                for shard, keys in sorted(plan.delegates.items())
            ],
            broker_url=url,
            blobs=[scene.program.data, scene.initial_model],
            registrar=plan.registrar,
            transactions=[(MAIN_CHAIN, data) for data in scene.lock_deposits()],
        )
        if scene.traitors:
            self._service: GatewayService = ByzantineService(
                setup,
                traitors=scene.traitors,
                verifier=self._verifier,
                on_finalized=self._on_finalized,
            )
        else:
            self._service = GatewayService(
                setup, verifier=self._verifier, on_finalized=self._on_finalized
            )
        self._devices = [self._make_device(index) for index in range(options.devices)]

    async def run(self) -> None:
        """Until the last merge is done."""
        asyncio.get_running_loop().set_exception_handler(_ignore_lost_connections)
        service = asyncio.create_task(self._service.run())
        fleet = asyncio.create_task(run_fleet(self._devices))
        watch = asyncio.create_task(self._watch())
        try:
            await asyncio.wait({service, fleet, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            fleet.cancel()
            await asyncio.gather(fleet, return_exceptions=True)
            service.cancel()
            await asyncio.gather(service, return_exceptions=True)
            self._trainer.close()
        for task in (service, fleet):
            if not task.cancelled() and task.exception() is not None:
                raise task.exception() or RuntimeError("a task failed")
        watch.cancel()
        if watch.done() and not watch.cancelled():
            watch.result()
        self._report.absences = sum(device.num_absences for device in self._devices)

    def _make_device(self, index: int) -> LiveDevice:
        scene, key = self._scene, self._scene.plan.devices[index]
        plan = scene.plan
        device = Device(
            key=key,
            genesis=plan.genesis,
            network=plan.network,
            shard=plan.shard_of(index),
            entropy=hash_bytes(Domain.SEED, b"entropy", key.seed),
            state=DeviceState(),
            limits=DeviceLimits(first_resend_ms=1_000, resume_jitter_ms=100),
            verifier=self._verifier,
        )
        return LiveDevice(
            device,
            name=f"device-{index}",
            broker=parse_broker_url(self._url),
            train=partial(
                self._trainer.train,
                examples=scene.devices[index],
                attack=scene.attacks[index],
            ),
            absences=scene.absences[index],
        )

    async def _watch(self) -> None:
        """Return when the run is complete.

        Raises:
            DemoStalled: If no block is finalized for `STALL_S`.
        """
        while not self._done.is_set():
            self._moved.clear()
            try:
                async with asyncio.timeout(STALL_S):
                    await self._moved.wait()
            except TimeoutError:
                raise DemoStalled(
                    "demo", f"no block for {STALL_S:.0f} s", fix="try --broker or a free machine"
                ) from None

    def _on_finalized(self, chain: ChainId, result: StepResult) -> None:
        tip = result.tip
        if tip is None:
            return
        self._moved.set()
        self._report.heights[chain] = tip.block.header.height
        if chain == MAIN_CHAIN:
            self._on_main(tip.state)
        else:
            self._on_shard(chain, tip.state)
        self._view.update(self._report)
        if self._is_complete():
            self._done.set()

    def _on_main(self, state: State) -> None:
        main = state.get(MAIN, MAIN_KEY)
        self._report.evidence = list_evidence(state)
        self._report.epochs = list_epochs(state)
        self._report.economy = read_economy(
            self._scene.plan.genesis,
            state,
            tuple(key.device for key in self._scene.plan.devices),
            earned=self._earned,
        )
        for key, entry in state.sorted_items(SHARDS):
            self._report.checkpoints[ChainId(key.decode())] = entry.number
        if main is None or main.epoch == self._report.merges:
            return
        merge = state.get(MERGES, epoch_key(main.epoch))
        if merge is not None and merge.model is not None:
            self._report.merges = main.epoch
            self._report.model = merge.model
            self._report.accuracy = self._evaluate(merge.model)

    def _on_shard(self, shard: ChainId, state: State) -> None:
        record = state.get(SHARD, SHARD_KEY)
        if record is None:
            return
        for number in range(self._seen[shard] + 1, record.last_round + 1):
            round_ = state.get(ROUNDS, round_key(RoundNumber(number)))
            if round_ is None or round_.phase is not RoundPhase.CLOSED:
                break
            self._seen[shard] = number
            self._earned += round_.paid
            self._report.rounds.append(self._describe(shard, round_))
        for key, balance in state.items(REWARDS):
            for device in self._scene.plan.devices:
                if device.public_key == key:
                    self._report.rewards[device.device] = balance.total

    def _describe(self, shard: ChainId, round_: Round) -> RoundReport:
        metrics = self._service.metrics.round(shard, round_.number)
        rejected: Counter[ReasonCode] = Counter(metrics.refused)
        for device, reason in metrics.judged.items():
            is_accepted = reason is ReasonCode.OK
            self._report.judged[(device in self._report.attackers, is_accepted)] += 1
            if not is_accepted:
                rejected[reason] += 1
        taken = max(1, round_.num_updates)
        return RoundReport(
            shard=shard,
            round=round_.number,
            epoch=round_.epoch,
            accuracy=self._evaluate(round_.model or round_.base),
            received=metrics.received,
            accepted=round_.num_accepted,
            rejected=rejected,
            bytes_up=metrics.bytes_up,
            bytes_per_update=metrics.taken_bytes // taken,
            wall_ms=metrics.closed_ms - round_.opened_ms,
        )

    def _evaluate(self, model: Digest) -> float:
        data = self._service.blobs.get(model)
        task = self._scene.plan.genesis.task
        parameters = to_float32(decode_task_model(task, data))
        test = self._scene.test
        return self._judge.evaluate(parameters, test.features, test.labels).accuracy

    def _is_complete(self) -> bool:
        tip = self._service.hosts[MAIN_CHAIN].tip
        return tip is not None and is_complete(tip.state) and is_paid_out(tip.state)
