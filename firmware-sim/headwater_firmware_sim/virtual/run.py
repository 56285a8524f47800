"""A whole network on the virtual clock, from a stage to its results."""

import random
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from headwater_firmware_sim.economy.account import is_paid_out
from headwater_firmware_sim.fleet_rows import describe_fleet
from headwater_firmware_sim.results import FinalRow, RunResult
from headwater_firmware_sim.scenario.describe import to_json
from headwater_firmware_sim.scenario.kinds import ByzantineKind, Placement
from headwater_firmware_sim.stage import START_MS, Stage
from headwater_firmware_sim.training import FleetTrainer
from headwater_firmware_sim.trainings.work import Trainings
from headwater_firmware_sim.virtual.blobs import MemoryBlobStore
from headwater_firmware_sim.virtual.broker import Broker
from headwater_firmware_sim.virtual.chain import (
    PROBE_MS,
    ChainNode,
    ChainSetup,
    Executions,
)
from headwater_firmware_sim.virtual.clock import Clock
from headwater_firmware_sim.virtual.collector import Collector
from headwater_firmware_sim.virtual.collector_pause import rare_collections
from headwater_firmware_sim.virtual.compute import Compute
from headwater_firmware_sim.virtual.conditions import Conditions
from headwater_firmware_sim.virtual.device import VirtualDevice, make_limits
from headwater_firmware_sim.virtual.faults import Faults
from headwater_firmware_sim.virtual.gateway import GatewayNode, GatewaySetup
from headwater_firmware_sim.virtual.holders import Holders
from headwater_firmware_sim.virtual.spill import (
    LARGE_FLEET,
    FlashSpill,
    MessageSpill,
    SpilledBlobStore,
)
from headwater_firmware_sim.virtual.sponsor import Sponsor
from headwater_firmware_sim.virtual.world import World
from headwater_firmware_sim.witnessed_key import WitnessedKey
from headwater_gateway.journal import is_complete
from headwater_gateway.machine.publisher import FinalizedTip
from headwater_protocol.chain.block import header_digest
from headwater_protocol.crypto.signing import SecretKey, require_libsodium
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    ChainId,
    Digest,
    RoundNumber,
    ValidatorId,
)
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.bft.effects import Evidence
from headwater_shard.engine.bft.messages import Message
from headwater_shard.engine.bft.timeouts import Timeouts
from headwater_shard.mainchain.supply import compute_supply
from headwater_shard.shardchain.records import (
    BATCHES,
    SHARD,
    SHARD_KEY,
    batch_key,
)
from headwater_shard.state.state import State

SETTLE_MS: Final = 2_000
"""After the last merge, for receipts under way."""
EVENTS_PER_LOOK: Final = 2_000
"""Between two looks at whether somebody wants to see progress."""

OnBlock = Callable[[ChainNode, FinalizedTip], None]
OnMessage = Callable[[ValidatorId, Message], None]
OnProgress = Callable[["VirtualRun"], None]


class VirtualRun:
    """One run; deterministic in its stage."""

    def __init__(
        self,
        stage: Stage,
        *,
        keeps_payloads: bool = False,
        trainings: Trainings | None = None,
        on_block: OnBlock | None = None,
        on_message: OnMessage | None = None,
        start_ms: int = START_MS,
    ) -> None:
        """Set everything up; nothing happens before `run`.

        Args:
            stage: The cast.
            keeps_payloads: Keep all blobs, for an audit.
            trainings: Where training results come from; computed here if left out.
            on_block: Told of every block of every gateway, before anybody acts on it.
            on_message: Told of every message between delegates with its sender.
            start_ms: The clock at the start, as the stage had it.
        """
        require_libsodium()
        self.stage = stage
        self._keeps_payloads = keeps_payloads
        self._on_block = on_block
        self._on_message = on_message
        clock = Clock(start_ms)
        self.world = World(
            stage=stage,
            clock=clock,
            broker=Broker(clock),
            conditions=Conditions(),
            trainer=FleetTrainer(stage, trainings),
            rng=random.Random(stage.seed),  # noqa: S311  # chance of a simulation, from its seed
            start_ms=start_ms,
        )
        is_large = len(stage.fleet) >= LARGE_FLEET
        self.world.flash = FlashSpill() if is_large else None
        self.world.air = MessageSpill() if is_large else None
        self.blobs = SpilledBlobStore() if is_large else MemoryBlobStore()
        self.blobs.put_all([stage.program.data, stage.initial_model])
        self._compute = Compute(
            blobs=self.blobs,
            verifier=self.world.verifier,
            data=stage.validation,
            later=stage.later,
            trainings=trainings,
        )
        self._homes: dict[tuple[ChainId, ValidatorId], tuple[GatewayNode, ChainNode]] = {}
        self._gateway_of: dict[int, GatewayNode] = {}
        self._last_arrival_ms: dict[tuple[int, int], int] = {}
        self._executions: dict[ChainId, Executions] = {}
        self._heights: dict[ChainId, int] = {}
        self._tips: dict[ChainId, FinalizedTip] = {}
        self.evidence: list[Evidence] = []
        self.gateways = self._make_gateways()
        limits = {entry.name: make_limits(entry.memory_mb) for entry in stage.scenario.fleet}
        self.devices = tuple(
            VirtualDevice(self.world, index, limits[casting.device_class.name])
            for index, casting in enumerate(stage.fleet)
        )
        self.collector = Collector(
            stage,
            trainer=self.world.trainer,
            blobs=self.blobs,
            metrics=lambda: [gateway.metrics for gateway in self.gateways],
            behaviours=self._behaviours(),
        )
        self._sponsor = Sponsor(self.world, blobs=self.blobs, submit=self._submit_for_sponsor)
        self.holders = Holders(self.world, self.gateways)
        self.faults = Faults(self.world, devices=self.devices, gateways=self.gateways)
        self._started = time.monotonic()
        self._complete_ms: int | None = None

    @property
    def elapsed_ms(self) -> int:
        """Virtual time since the start."""
        return self.world.elapsed_ms

    @property
    def is_complete(self) -> bool:
        """Whether all rounds are closed, settled and merged, and all rewards and deposits paid."""
        return self._complete_ms is not None

    @property
    def num_closed(self) -> int:
        """Rounds closed so far, of all shards."""
        return len(self.collector.rounds)

    @property
    def liars(self) -> frozenset[ValidatorId]:
        """Delegates that do not follow the protocol."""
        return frozenset(
            who for shard in self.stage.plan.genesis.shards for who in self._liars(shard)
        )

    def height(self, chain: ChainId) -> int:
        """Of a chain's furthest block; 0 before the first."""
        return self._heights.get(chain, 0)

    def tip(self, chain: ChainId) -> FinalizedTip | None:
        """The furthest block of a chain."""
        return self._tips.get(chain)

    def start(self) -> None:
        """Switch everything on."""
        for gateway in self.gateways:
            gateway.start()
        clock = self.world.clock
        for device, casting in zip(self.devices, self.stage.fleet, strict=True):
            clock.at(self.world.start_ms + casting.boots_ms, device.boot)
        bad = self.stage.scenario.delegates
        crashing = [
            gateway
            for shard in self.stage.plan.genesis.shards
            for gateway in [one for one in self.gateways if one.shard == shard][
                -bad.crashing or len(self.gateways) :
            ]
        ]
        self.faults.plan(crashing if bad.crashing else [])
        self.holders.start(self._state(MAIN_CHAIN))

    def run(self, *, on_progress: OnProgress | None = None) -> None:
        """From the start to the end of the last merge, or of the scenario."""
        length_ms = self.stage.warm_up_ms + round(self.stage.scenario.length_s * 1_000)
        with rare_collections():
            self.start()
            self.run_until(self.world.start_ms + length_ms, on_progress=on_progress)

    def run_until(self, until_ms: int, *, on_progress: OnProgress | None = None) -> None:
        """Go on to a virtual time, or to shortly after the run is complete."""
        step = self.world.clock.step
        while True:
            for _ in range(EVENTS_PER_LOOK):
                end_ms = until_ms
                if self._complete_ms is not None:
                    end_ms = min(until_ms, self._complete_ms + SETTLE_MS)
                if not step(end_ms):
                    return
            if on_progress is not None:
                on_progress(self)

    def result(self, *, audit: str = "not run") -> RunResult:
        """Everything that came of it."""
        stage, world, collector = self.stage, self.world, self.collector
        main = self._state(MAIN_CHAIN)
        heights = {shard: self._heights.get(shard, 0) for shard in stage.plan.genesis.shards}
        last = collector.globals[-1] if collector.globals else None
        model = self._state(stage.plan.genesis.shards[0]).get(SHARD, SHARD_KEY)
        digest = stage.plan.genesis.task.initial_model if model is None else model.model
        accuracy, loss, backdoor = (
            collector.evaluate(digest)
            if last is None
            else (last.accuracy, last.loss, last.backdoor)
        )
        return RunResult(
            scenario=stage.scenario.name,
            title=stage.scenario.title,
            seed=stage.seed,
            mode="virtual",
            devices=len(self.devices),
            shards=len(stage.plan.genesis.shards),
            attackers=sum(casting.attack is not None for casting in stage.fleet),
            virtual_ms=self.elapsed_ms,
            wall_ms=int((time.monotonic() - self._started) * 1_000),
            peak_memory_bytes=1_024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            counts=self._counts(),
            rounds=tuple(sorted(collector.rounds, key=lambda row: (row.closed_ms, row.shard))),
            globals=tuple(collector.globals),
            checkpoints=tuple(collector.checkpoints),
            elections=tuple(collector.elections),
            seats=tuple(collector.seats),
            penalties=tuple(collector.penalties),
            economy=collector.economy(main),
            faults=world.faults,
            fleet=describe_fleet(
                stage, {shard: self._state(shard) for shard in heights}, self.devices
            ),
            device_rounds=tuple(collector.device_rounds),
            final=FinalRow(
                main_chain_digest=self._digest(MAIN_CHAIN),
                main_chain_height=self._heights.get(MAIN_CHAIN, 0),
                chain_digests={shard: self._digest(shard) for shard in heights},
                chain_heights={str(shard): height for shard, height in heights.items()},
                model=digest.hex() if last is None else last.model,
                accuracy=accuracy,
                loss=loss,
                backdoor=backdoor,
                merges=0 if last is None else last.epoch,
                supply=compute_supply(main),
                is_complete=self.is_complete,
                audit=audit,
            ),
            config=to_json(replace(stage.scenario, seed=stage.seed)),
        )

    # The cast

    def _make_gateways(self) -> tuple[GatewayNode, ...]:
        plan, scenario = self.stage.plan, self.stage.scenario
        gateways: list[GatewayNode] = []
        registrar = WitnessedKey(plan.registrar, self.world.verifier)
        for shard in plan.genesis.shards:
            keys = [WitnessedKey(key, self.world.verifier) for key in plan.delegates[shard]]
            groups: Sequence[Sequence[SecretKey]] = [keys]
            if scenario.network.gateways is Placement.DELEGATE:
                groups = [[key] for key in keys]
            for position, group in enumerate(groups):
                is_first = position == 0
                devices = [plan.devices[index].device for index in self.stage.devices_of(shard)]
                gateways.append(
                    self._make_gateway(
                        GatewaySetup(
                            index=len(gateways),
                            shard=shard,
                            keys=group,
                            devices=devices if is_first else (),
                            registrar=registrar if is_first else None,
                            liars=self._liars(shard),
                        ),
                        many=len(groups) > 1 or len(plan.genesis.shards) > 1,
                    )
                )
        for gateway in gateways:
            for chain, node in gateway.nodes.items():
                for validator in node.validators:
                    self._homes[(chain, validator)] = (gateway, node)
        for gateway in gateways:
            for chain, node in gateway.nodes.items():
                node.connect(sorted(key for home, key in self._homes if home == chain))
        return tuple(gateways)

    def _liars(self, shard: ChainId) -> dict[ValidatorId, ByzantineKind]:
        bad, keys = self.stage.scenario.delegates, self.stage.plan.delegates[shard]
        end = len(keys) - bad.crashing
        return {key.validator: bad.behaviour for key in keys[max(0, end - bad.byzantine) : end]}

    def _behaviours(self) -> dict[ValidatorId, str]:
        found = {
            who: str(kind)
            for shard in self.stage.plan.genesis.shards
            for who, kind in self._liars(shard).items()
        }
        count = self.stage.scenario.delegates.crashing
        for keys in self.stage.plan.delegates.values():
            found |= {key.validator: "crashing" for key in keys[len(keys) - count :]}
        return found

    def _make_gateway(self, setup: GatewaySetup, *, many: bool) -> GatewayNode:
        loud = {ByzantineKind.EQUIVOCATE, ByzantineKind.ALL}
        nodes = {
            chain: ChainNode(
                ChainSetup(
                    genesis=self.stage.plan.genesis,
                    chain=chain,
                    keys=setup.keys,
                    verifier=self.world.verifier,
                    executions=self._executions.setdefault(chain, Executions()),
                    timeouts=Timeouts(probe_ms=PROBE_MS if many else None),
                    equivocators=frozenset(
                        who for who, kind in setup.liars.items() if kind in loud
                    ),
                    silent=frozenset(
                        who for who, kind in setup.liars.items() if kind is ByzantineKind.SILENT
                    ),
                    spills=self.world.flash is not None,
                ),
                send=self._send,
                on_finalized=self._on_finalized,
                on_evidence=self._on_evidence,
            )
            for chain in (MAIN_CHAIN, *self.stage.plan.genesis.shards)
        }
        gateway = GatewayNode(
            self.world, setup, nodes=nodes, compute=self._compute, gossip=self._gossip
        )
        for node in nodes.values():
            self._gateway_of[id(node)] = gateway
        return gateway

    # Wires between gateways

    def _send(
        self, node: ChainNode, sender: ValidatorId, receiver: ValidatorId, message: Message
    ) -> None:
        home = self._homes.get((node.chain, receiver))
        if self._on_message is not None:
            self._on_message(sender, message)
        if home is None:
            return
        there, _ = home
        here = self._gateway_of[id(node)]
        if there is here:
            self.world.clock.after(0, self._deliver, node.chain, receiver, message)
            return
        for delay_ms in self._plan(here, there):
            self.world.clock.after(delay_ms, self._deliver, node.chain, receiver, message)

    def _plan(self, here: GatewayNode, there: GatewayNode) -> tuple[int, ...]:
        world = self.world
        if not world.conditions.connects(here.index, there.index):
            return ()
        link_ms = self.stage.scenario.network.link_ms
        delay_ms = link_ms + int(world.rng.random() * (link_ms // 2 + 1))
        if not world.conditions.reorder:
            # One connection keeps the order of what is sent over it.
            wire, now_ms = (here.index, there.index), world.clock.now_ms
            at_ms = max(now_ms + delay_ms, self._last_arrival_ms.get(wire, 0))
            self._last_arrival_ms[wire] = at_ms
            delay_ms = at_ms - now_ms
        return world.conditions.plan(world.rng, delay_ms=delay_ms)

    def _deliver(self, chain: ChainId, receiver: ValidatorId, message: Message) -> None:
        gateway, node = self._homes[(chain, receiver)]
        if gateway.is_up:
            node.receive(receiver, message, self.world.clock.now_ms)
            gateway.arm(chain)

    def _gossip(self, gateway: GatewayNode, chain: ChainId, transaction: bytes) -> None:
        for other in self.gateways:
            if other is not gateway and chain in other.nodes:
                for delay_ms in self._plan(gateway, other):
                    self.world.clock.after(delay_ms, self._take, other, chain, transaction)

    def _take(self, gateway: GatewayNode, chain: ChainId, transaction: bytes) -> None:
        if gateway.is_up:
            gateway.take(chain, transaction)

    def _submit_for_sponsor(self, transaction: bytes) -> None:
        gateway = next((gateway for gateway in self.gateways if gateway.is_up), None)
        if gateway is not None and gateway.take(MAIN_CHAIN, transaction) is ReasonCode.OK:
            self._gossip(gateway, MAIN_CHAIN, transaction)

    # What blocks bring

    def _on_evidence(self, node: ChainNode, evidence: Evidence) -> None:
        self.evidence.append(evidence)
        self._gateway_of[id(node)].on_equivocation(evidence.equivocation)

    def _on_finalized(self, node: ChainNode, tip: FinalizedTip) -> None:
        gateway, chain = self._gateway_of[id(node)], node.chain
        if self._on_block is not None:
            self._on_block(node, tip)
        if tip.block.header.height > self._heights.get(chain, 0):
            self._heights[chain] = tip.block.header.height
            self._tips[chain] = tip
            self.world.counts["blocks"] += 1
            self._collect(chain, tip.state)
        gateway.on_finalized(chain, tip)

    def _collect(self, chain: ChainId, state: State) -> None:
        if chain == MAIN_CHAIN:
            self.collector.on_main(state, self.elapsed_ms)
            self._sponsor.on_main(state)
            self.holders.on_main(state)
        else:
            for number in self.collector.on_shard(chain, state, self.world.start_ms):
                self._drop_payloads(state, RoundNumber(number - 1))
        if self._complete_ms is None and self._is_settled():
            self._complete_ms = self.world.clock.now_ms

    def _drop_payloads(self, state: State, number: RoundNumber) -> None:
        index = 0
        while not self._keeps_payloads and number > 0:
            batch = state.get(BATCHES, batch_key(number, index))
            if batch is None:
                return
            for commit in batch.commits:
                self.blobs.drop(commit.payload)
            index += 1

    def _is_settled(self) -> bool:
        tip = self._tips.get(MAIN_CHAIN)
        if tip is None:
            return False
        return self._sponsor.is_done and is_complete(tip.state) and is_paid_out(tip.state)

    # Results

    def _state(self, chain: ChainId) -> State:
        tip = self._tips.get(chain)
        if tip is not None:
            return tip.state
        return next(
            gateway.nodes[chain].state for gateway in self.gateways if chain in gateway.nodes
        )

    def _digest(self, chain: ChainId) -> str:
        tip = self._tips.get(chain)
        return Digest(bytes(32)).hex() if tip is None else header_digest(tip.block.header).hex()

    def _counts(self) -> dict[str, int]:
        world = self.world
        counts = dict(world.counts)
        counts["events"] = world.clock.num_events
        counts["signatures_checked"] = world.verifier.num_checked
        counts["signatures_witnessed"] = world.verifier.num_witnessed
        counts["trainings"] = world.trainer.num_trained
        counts["messages_taken"] = world.broker.num_taken
        counts["messages_sent"] = world.broker.num_sent
        counts["bytes_sent"] = world.broker.bytes_sent
        counts["equivocations"] = len(self.evidence)
        counts["garbage"] = sum(gateway.metrics.garbage for gateway in self.gateways)
        for kind, count in world.conditions.counts.items():
            counts[f"messages_{kind}"] = count
        return dict(sorted(counts.items()))
