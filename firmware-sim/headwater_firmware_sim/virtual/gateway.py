"""One gateway process: the gateway's machine, its chains, and the work that it would do on threads.

Effects are performed inline; what takes a processor's time comes back a moment later on the virtual
clock. A crash drops everything but the chains' disks and the blobs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from headwater_firmware_sim.scenario.kinds import ByzantineKind
from headwater_firmware_sim.virtual.chain import ChainNode
from headwater_firmware_sim.virtual.compute import Compute
from headwater_firmware_sim.virtual.world import World
from headwater_gateway.machine.effects import (
    CheckScores,
    ClearBlob,
    ComputeMerge,
    ComputeRoundModel,
    Effect,
    Publish,
    PublishBlob,
    ScoreBatch,
    Scored,
    Submit,
    TakeIn,
)
from headwater_gateway.machine.gateway import Desk, GatewayMachine
from headwater_gateway.machine.metrics import Metrics
from headwater_gateway.machine.publisher import FinalizedTip
from headwater_protocol.chain.evidence import Equivocation
from headwater_protocol.chain.transaction import UNAVAILABLE
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import InvalidMessage
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, DeviceId, Digest, ValidatorId
from headwater_protocol.messages.chunk import count_chunks, split_blob
from headwater_protocol.messages.topics import Topics
from headwater_protocol.reasons import ReasonCode

WORK_MS: Final = 2
"""That a batch, a score list or a model takes."""
UPLINK_MS: Final = 2
"""Between a gateway and the broker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySetup:
    """What a gateway is."""

    index: int
    shard: ChainId
    """Where its delegates begin; elections may send them to any other."""
    keys: Sequence[SecretKey]
    devices: Sequence[DeviceId]
    """Of that shard, to enrol."""
    registrar: SecretKey | None
    liars: Mapping[ValidatorId, ByzantineKind]


class GatewayNode:
    """One gateway, up or down."""

    def __init__(
        self,
        world: World,
        setup: GatewaySetup,
        *,
        nodes: Mapping[ChainId, ChainNode],
        compute: Compute,
        gossip: Callable[["GatewayNode", ChainId, bytes], None],
    ) -> None:
        self._world = world
        self._setup = setup
        self._compute = compute
        self._gossip = gossip
        self.nodes = dict(nodes)
        self.metrics = Metrics()
        self.is_up = False
        self._generation = 0
        self._timers: dict[ChainId | None, int] = {}
        self._told: dict[ChainId, int] = {}
        """The last height that the machine knows."""
        self._serves: set[ChainId] = set()
        """Shards whose updates are listened to."""
        self._machine: GatewayMachine | None = None

    @property
    def index(self) -> int:
        """Its place among all gateways."""
        return self._setup.index

    @property
    def shard(self) -> ChainId:
        """Where its delegates began."""
        return self._setup.shard

    def start(self) -> None:
        """Start from disk; harmless where it is up."""
        if self.is_up:
            return
        world, setup = self._world, self._setup
        if self._generation:
            for node in self.nodes.values():
                node.start()
        self._generation += 1
        self._timers.clear()
        self.is_up = True
        self._machine = GatewayMachine(
            genesis=world.stage.plan.genesis,
            desks=[
                Desk(
                    shard=shard,
                    keys=setup.keys,
                    devices=setup.devices if shard == setup.shard else (),
                )
                for shard in sorted(self.nodes)
                if shard != MAIN_CHAIN
            ],
            states={chain: node.state for chain, node in self.nodes.items()},
            metrics=self.metrics,
            registrar=setup.registrar,
            verifier=world.verifier,
        )
        self._told = {chain: node.height for chain, node in self.nodes.items()}
        tips = {chain: tip for chain, node in self.nodes.items() if (tip := node.tip)}
        updates = self.nodes[MAIN_CHAIN].disk.updates
        self._machine.start(tips, world.clock.now_ms, updates=updates)
        if world.conditions.is_broker_up:
            self.connect()
        self._perform()
        for chain in sorted(self.nodes):
            self.nodes[chain].probe(world.clock.now_ms)
            self.arm(chain)

    def crash(self) -> None:
        """Stop without a word."""
        if not self.is_up:
            return
        self.is_up = False
        self._generation += 1
        self._machine = None
        self._world.broker.lose(self)

    def connect(self) -> None:
        """The broker is there: subscribe, and publish what it should retain."""
        if self._machine is None:
            return
        broker = self._world.broker
        broker.connect(self, None)
        self._serves.clear()
        self._listen()
        self._machine.on_connected(self._world.clock.now_ms)
        self._perform()

    def _listen(self) -> None:
        """Take updates of the shards where a delegate of this gateway is in office."""
        machine, broker = self._machine, self._world.broker
        if machine is None or not broker.is_connected(self):
            return
        for shard in sorted(self.nodes):
            if shard == MAIN_CHAIN or machine.serves(shard) == (shard in self._serves):
                continue
            topic = Topics(self._world.stage.plan.network, shard).updates
            if shard in self._serves:
                broker.unsubscribe_shared(self, topic)
            else:
                broker.subscribe_shared(self, topic)
            self._serves ^= {shard}

    # Chains

    def arm(self, chain: ChainId) -> None:
        """Plan the chain's next timer."""
        at_ms = self.nodes[chain].next_timer()
        if at_ms is None or not self.is_up:
            return
        clock = self._world.clock
        due_ms = max(at_ms, clock.now_ms)
        planned = self._timers.get(chain)
        if planned is not None and clock.now_ms <= planned <= due_ms:
            return
        self._timers[chain] = due_ms
        clock.at(due_ms, self._on_chain_timer, self._generation, chain, due_ms)

    def _on_chain_timer(self, generation: int, chain: ChainId, due_ms: int) -> None:
        if generation != self._generation or self._timers.get(chain) != due_ms:
            return
        node, clock = self.nodes[chain], self._world.clock
        del self._timers[chain]
        node.on_timer(clock.now_ms)
        at_ms = node.next_timer()
        if at_ms is not None and at_ms <= clock.now_ms:
            # Nothing came of it yet: look again when the wires had their turn.
            self._timers[chain] = clock.now_ms + 1
            clock.after(1, self._on_chain_timer, generation, chain, clock.now_ms + 1)
            return
        self.arm(chain)

    def take(self, chain: ChainId, transaction: bytes) -> ReasonCode:
        """Queue a transaction of this gateway or of another one."""
        reason = self.nodes[chain].submit(transaction)
        if reason is ReasonCode.OK:
            self.arm(chain)
        return reason

    def submit(self, chain: ChainId, transaction: bytes) -> ReasonCode:
        """Queue a transaction that somebody brings here, and pass it on to the other gateways."""
        reason = self.take(chain, transaction)
        if reason is ReasonCode.OK:
            self._gossip(self, chain, transaction)
        return reason

    def on_finalized(self, chain: ChainId, tip: FinalizedTip) -> None:
        """A chain here has a new tip; told once the machines have had their turn."""
        self._world.clock.after(0, self._tell, self._generation, chain, tip)

    def _tell(self, generation: int, chain: ChainId, tip: FinalizedTip) -> None:
        if generation != self._generation or self._machine is None:
            return
        disk, height = self.nodes[chain].disk, tip.block.header.height
        if height < len(disk.blocks):
            return
        news = disk.blocks[self._told[chain] :]
        self._told[chain] = height
        if chain == MAIN_CHAIN and news:
            first = news[0].block.header.height
            self._machine.on_epochs(
                [update for update in disk.updates if update.header.height >= first]
            )
        self._machine.on_transactions(
            tip, [data for final in news for data in final.block.transactions]
        )
        self._machine.on_finalized(chain, tip, self._world.clock.now_ms)
        self._listen()
        self._perform()

    def on_equivocation(self, equivocation: Equivocation) -> None:
        """A delegate here saw a validator sign twice."""
        self._world.clock.after(0, self._accuse, self._generation, equivocation)

    def _accuse(self, generation: int, equivocation: Equivocation) -> None:
        if generation == self._generation and self._machine is not None:
            self._machine.on_equivocation(equivocation, self._world.clock.now_ms)
            self._perform()

    # The broker

    def send(self, topic: str, payload: bytes) -> None:
        """Put a message on the wire from the broker to here."""
        world = self._world
        for delay_ms in world.conditions.plan(world.rng, delay_ms=UPLINK_MS):
            world.clock.after(delay_ms, self._arrive, self._generation, topic, payload)

    def _arrive(self, generation: int, topic: str, payload: bytes) -> None:
        if generation != self._generation or self._machine is None:
            return
        self._machine.receive(topic, payload, self._world.clock.now_ms)
        self._perform()

    # What the machine wants done

    def _perform(self) -> None:
        machine = self._machine
        if machine is None:
            return
        for effect in machine.effects():
            self._perform_one(machine, effect)
        clock = self._world.clock
        at_ms = machine.next_timer()
        if at_ms is None:
            return
        due_ms = max(at_ms, clock.now_ms + 1)
        planned = self._timers.get(None)
        if planned is None or not clock.now_ms < planned <= due_ms:
            self._timers[None] = due_ms
            clock.at(due_ms, self._on_timer, self._generation, due_ms)

    def _on_timer(self, generation: int, due_ms: int) -> None:
        if (
            generation != self._generation
            or self._machine is None
            or self._timers.get(None) != due_ms
        ):
            return
        del self._timers[None]
        self._machine.on_timer(self._world.clock.now_ms)
        self._perform()

    def _perform_one(self, machine: GatewayMachine, effect: Effect) -> None:
        world = self._world
        if isinstance(effect, Publish):
            self._publish(effect)
        elif isinstance(effect, Submit):
            reason = self.submit(effect.chain, effect.transaction)
            machine.on_submitted(effect, reason, world.clock.now_ms)
        elif isinstance(effect, PublishBlob):
            self._publish_blob(effect)
        elif isinstance(effect, ClearBlob):
            topics = Topics(world.stage.plan.network, effect.shard)
            for index in range(count_chunks(effect.blob_bytes)):
                self._publish(
                    Publish(topic=topics.chunk(effect.blob, index), payload=b"", retain=True)
                )
        else:
            world.clock.after(WORK_MS, self._work, self._generation, effect)

    def _publish(self, effect: Publish) -> None:
        world = self._world
        if not world.broker.is_connected(self):
            return
        if effect.retain:
            # Announcements and models go over a wire that keeps order; a gateway publishes them
            # again only for a new broker.
            world.clock.after(UPLINK_MS, self._reach_broker, effect)
            return
        for delay_ms in world.conditions.plan(world.rng, delay_ms=UPLINK_MS):
            world.clock.after(delay_ms, self._reach_broker, effect)

    def _reach_broker(self, effect: Publish) -> None:
        if self._world.conditions.is_broker_up:
            self._world.broker.publish(effect.topic, effect.payload, retain=effect.retain)

    def _publish_blob(self, effect: PublishBlob) -> None:
        topics = Topics(self._world.stage.plan.network, effect.shard)
        try:
            data = self._compute.blobs.get(effect.blob)
        except InvalidMessage:
            self._world.counts["missing_blobs"] += 1
            return
        for chunk in split_blob(data):
            self._publish(
                Publish(
                    topic=topics.chunk(effect.blob, chunk.index),
                    payload=encode_record(chunk),
                    retain=True,
                )
            )

    def _work(
        self,
        generation: int,
        work: TakeIn | ScoreBatch | CheckScores | ComputeRoundModel | ComputeMerge,
    ) -> None:
        machine, now_ms = self._machine, self._world.clock.now_ms
        if generation != self._generation or machine is None:
            return
        if isinstance(work, TakeIn):
            machine.on_taken_in(work, self._compute.check(work), now_ms)
        elif isinstance(work, ScoreBatch):
            scored = self._compute.score(work)
            if scored is not None and self._lies(work.validator, ByzantineKind.SCORES):
                scored = Scored(
                    scores=tuple(one if one == UNAVAILABLE else -one for one in scored.scores),
                    reference=scored.reference,
                )
            machine.on_scored(work, scored, now_ms)
        elif isinstance(work, CheckScores):
            machine.on_checked(work, self._compute.check_scores(work), now_ms)
        elif isinstance(work, ComputeRoundModel):
            machine.on_round_model(work, self._bend(work, self._compute.model(work)), now_ms)
        else:
            machine.on_merge_model(work, self._bend(work, self._compute.merge(work)), now_ms)
        self._perform()

    def _bend(self, work: ComputeRoundModel | ComputeMerge, model: Digest | None) -> Digest | None:
        if model is None or not self._lies(work.validator, ByzantineKind.MODEL):
            return model
        return blob_digest(model)

    def _lies(self, validator: ValidatorId, kind: ByzantineKind) -> bool:
        return self._setup.liars.get(validator) in {kind, ByzantineKind.ALL}
