"""One chain in one gateway: its delegates' consensus machines, one mempool, one simulated disk.

Each machine is driven on its own and hears the others over wires that may lose, hold back, repeat
or be cut. What has to be durable goes to the disk object, which a crash leaves as it is; a restart
makes machines and ledger anew from that alone.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from headwater_firmware_sim.virtual.spill import SpilledBlocks
from headwater_gateway.machine.publisher import FinalizedTip
from headwater_protocol.chain.block import Block, header_digest, vote_message
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.chain.statement import SignedVote
from headwater_protocol.crypto.signing import SecretKey, Verifier
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Digest, Height, ValidatorId
from headwater_protocol.light.update import EpochUpdate
from headwater_protocol.reasons import ReasonCode
from headwater_shard.application import LedgerApplication, make_ledger, tables_of
from headwater_shard.engine.bft.effects import (
    Broadcast,
    Effect,
    Evidence,
    Finalized,
    Halted,
    Persist,
    Send,
)
from headwater_shard.engine.bft.history import FinalizedBlock, Tip
from headwater_shard.engine.bft.messages import Message
from headwater_shard.engine.bft.signer import SavedState, SignedState
from headwater_shard.engine.bft.timeouts import Timeouts
from headwater_shard.engine.border import BlockContext, Execution
from headwater_shard.engine.consensus import Consensus
from headwater_shard.engine.execution_cache import ExecutionCache
from headwater_shard.engine.mempool import Mempool
from headwater_shard.mainchain.staking.handover import is_handover, make_epoch_update
from headwater_shard.state.state import State

PROBE_MS: Final = 20_000
"""How often an idle delegate asks for blocks that it may have missed."""

MAX_RECENT: Final = 1
"""States of earlier blocks that a node keeps; each holds what the block after it replaced."""

MAX_BLOCKS_BEHIND: Final = 512
"""Executions that the nodes of a chain share."""

MIN_EXECUTIONS: Final = 2
"""Kept whatever their size."""

MAX_SHARED_ENTRIES: Final = 50_000
"""Changed by the executions that are kept: each holds what its block replaced, about 1 kB an entry.

A gateway whose delegates left a shard asks for its blocks every `PROBE_MS`, and executes then what
the others did long before.
"""


class Executions(ExecutionCache[tuple[State, Execution]]):
    """Executions that the nodes of a chain share, without what a store would write.

    Nothing is written here, and the bytes take as much as the records themselves.
    """

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        super().__init__(max_results=MAX_BLOCKS_BEHIND)
        self._entries: deque[int] = deque()
        """That each of those kept has changed, oldest first."""

    def get_or_compute(
        self,
        *,
        chain: ChainId,
        state_root: Digest,
        context: BlockContext,
        compute: Callable[[], tuple[State, Execution]],
    ) -> tuple[State, Execution]:
        """As its parent has it; `changes` are empty."""

        def compute_lean() -> tuple[State, Execution]:
            state, execution = compute()
            self._make_room(sum(len(changed) for changed in execution.changes.values()))
            return state, replace(execution, changes={})

        return super().get_or_compute(
            chain=chain, state_root=state_root, context=context, compute=compute_lean
        )

    def _make_room(self, num_entries: int) -> None:
        """Forget the oldest until another one with so many changes fits."""
        kept = self._entries
        while len(kept) >= MAX_BLOCKS_BEHIND or (
            len(kept) >= MIN_EXECUTIONS and sum(kept) + num_entries > MAX_SHARED_ENTRIES
        ):
            kept.popleft()
            self._results.popitem(last=False)
        kept.append(num_entries)


@dataclass(slots=True)
class ChainDisk:
    """What survives a crash of the gateway."""

    blocks: list[FinalizedBlock] | SpilledBlocks = field(default_factory=list)
    """From height 1."""
    tip: Tip | None = None
    state: State | None = None
    """After the last block; None before the first."""
    signed: dict[ValidatorId, SignedState] = field(default_factory=dict)
    proposals: dict[Digest, Block] = field(default_factory=dict)
    updates: list[EpochUpdate] = field(default_factory=list)
    """Of the main chain: the proofs of all epochs that began."""

    def load_block(self, height: Height) -> FinalizedBlock | None:
        """The block at `height`, None where there is none."""
        return self.blocks[height - 1] if 1 <= height <= len(self.blocks) else None

    def persist(self, effect: Persist) -> None:
        """Keep what a validator signed."""
        self.signed[effect.state.validator] = effect.state
        for block in effect.blocks:
            self.proposals[header_digest(block.header)] = block

    def append(self, effect: Finalized, state: State) -> None:
        """Keep a block and the state after it."""
        final = FinalizedBlock(block=effect.block, certificate=effect.certificate)
        self.blocks.append(final)
        self.tip = Tip(block=effect.block, certificate=effect.certificate, rotation=effect.rotation)
        self.state = state
        height = effect.block.header.height
        if effect.block.header.chain == MAIN_CHAIN:
            update = make_epoch_update(state, effect.block.header, effect.certificate)
            if update is not None and is_handover(update):
                self.updates.append(update)
        self.proposals = {
            name: block for name, block in self.proposals.items() if block.header.height > height
        }

    def saved(self, validator: ValidatorId) -> SavedState | None:
        """What comes back for one validator."""
        state = self.signed.get(validator)
        if state is None:
            return None
        named = {
            None if state.proposal is None else state.proposal.claim.block,
            None if state.lock.valid is None else state.lock.valid.block,
        }
        names = sorted(name for name in named if name in self.proposals)
        return SavedState(state=state, blocks=tuple(self.proposals[name] for name in names if name))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSetup:
    """What a node is made of."""

    genesis: Genesis
    chain: ChainId
    keys: Sequence[SecretKey]
    """Of the delegates here."""
    verifier: Verifier
    executions: Executions
    timeouts: Timeouts
    equivocators: frozenset[ValidatorId]
    silent: frozenset[ValidatorId]
    spills: bool
    """Whether old blocks go to a file, as those of a large fleet should."""


class ChainNode:
    """The delegates of one chain in one gateway."""

    def __init__(
        self,
        setup: ChainSetup,
        *,
        send: Callable[["ChainNode", ValidatorId, ValidatorId, Message], None],
        on_finalized: Callable[["ChainNode", FinalizedTip], None],
        on_evidence: Callable[["ChainNode", Evidence], None],
    ) -> None:
        """Start at genesis.

        Args:
            setup: Keys and rules.
            send: Puts a message of a delegate here on the wire to another delegate.
            on_finalized: Told of each step that finalized blocks.
            on_evidence: Told of double signatures.
        """
        self._setup = setup
        self._send = send
        self._on_finalized = on_finalized
        self._on_evidence = on_evidence
        self.disk = ChainDisk(blocks=SpilledBlocks()) if setup.spills else ChainDisk()
        self.halted: Halted | None = None
        self._machines: dict[ValidatorId, Consensus] = {}
        self._applications: dict[ValidatorId, LedgerApplication] = {}
        self._keys = {key.validator: key for key in setup.keys}
        self._peers: tuple[ValidatorId, ...] = ()
        self.mempool = Mempool()
        self.start()

    @property
    def chain(self) -> ChainId:
        """Which chain."""
        return self._setup.chain

    @property
    def validators(self) -> tuple[ValidatorId, ...]:
        """The delegates here, in order of their keys."""
        return tuple(self._machines)

    @property
    def height(self) -> int:
        """The last block on this disk."""
        return len(self.disk.blocks)

    @property
    def state(self) -> State:
        """After the last block."""
        return max(self._applications.values(), key=lambda one: one.height).state

    @property
    def tip(self) -> FinalizedTip | None:
        """The last block with the state after it; None before the first."""
        tip, state = self.disk.tip, self.disk.state
        if tip is None or state is None:
            return None
        return FinalizedTip(block=tip.block, certificate=tip.certificate, state=state)

    def connect(self, peers: Sequence[ValidatorId]) -> None:
        """Name all delegates of the chain, here and elsewhere."""
        self._peers = tuple(peers)

    def start(self) -> None:
        """Make machines and ledger anew from the disk."""
        setup, tip = self._setup, self.disk.tip
        self.mempool = Mempool()
        self._machines.clear()
        self._applications.clear()
        for key in sorted(setup.keys, key=lambda key: key.validator):
            application = LedgerApplication(
                make_ledger(setup.genesis, setup.chain),
                setup.verifier,
                cache=setup.executions,
                max_recent=MAX_RECENT,
            )
            if tip is not None and self.disk.state is not None:
                header = tip.block.header
                application.restore(
                    height=header.height,
                    time_ms=header.time_ms,
                    state_root=header.state_root,
                    entries=self._entries(self.disk.state),
                )
            self._applications[key.validator] = application
            self._machines[key.validator] = Consensus(
                key=key,
                application=application,
                mempool=self.mempool,
                verifier=setup.verifier,
                clock_drift_ms=setup.genesis.parameters.clock_drift_ms,
                timeouts=setup.timeouts,
                history=self.disk,
                tip=tip,
                saved=self.disk.saved(key.validator),
            )

    def probe(self, now_ms: int) -> None:
        """Ask the others for blocks that were missed."""
        for validator in self.validators:
            self._machines[validator].probe(now_ms)
            self._perform(validator)

    def submit(self, transaction: bytes) -> ReasonCode:
        """Queue a transaction here; the caller passes it on to the other gateways."""
        furthest = max(self._applications.values(), key=lambda one: one.height)
        return self.mempool.add(transaction, furthest.check_tx)

    def next_timer(self) -> int | None:
        """When `on_timer` is due."""
        times = [machine.next_timer() for machine in self._machines.values()]
        return min((at for at in times if at is not None), default=None)

    def on_timer(self, now_ms: int) -> None:
        """Let every machine do what is due."""
        for validator in self.validators:
            machine = self._machines[validator]
            at = machine.next_timer()
            if at is not None and at <= now_ms:
                machine.on_timer(now_ms)
                self._perform(validator)

    def receive(self, validator: ValidatorId, message: Message, now_ms: int) -> None:
        """A message arrives for a delegate here."""
        self._machines[validator].receive(message, now_ms)
        self._perform(validator)

    def _perform(self, validator: ValidatorId) -> None:
        finalized: Finalized | None = None
        for effect in self._machines[validator].effects():
            if isinstance(effect, Finalized):
                if effect.block.header.height == self.height + 1:
                    finalized = effect
                    self.disk.append(effect, self._applications[validator].state)
            elif isinstance(effect, Persist):
                self.disk.persist(effect)
            elif isinstance(effect, Evidence):
                self._on_evidence(self, effect)
            elif isinstance(effect, Halted):
                self.halted = effect
            elif validator not in self._setup.silent:
                self._deliver(validator, effect)
        tip = self.tip
        if finalized is not None and tip is not None:
            self._on_finalized(self, tip)

    def _deliver(self, validator: ValidatorId, effect: Effect) -> None:
        if isinstance(effect, Send):
            self._send(self, validator, effect.to, effect.message)
        elif isinstance(effect, Broadcast):
            message = effect.message
            other = self._contradict(validator, message)
            for position, peer in enumerate(self._peers):
                if peer != validator:
                    # One half hears both votes, so that there is evidence, and the lie first.
                    if other is not None and position % 2 == 1:
                        self._send(self, validator, peer, other)
                    self._send(self, validator, peer, message)

    def _contradict(self, validator: ValidatorId, message: Message) -> SignedVote | None:
        """The second vote of an equivocator; None for everybody else."""
        if validator not in self._setup.equivocators or not isinstance(message, SignedVote):
            return None
        if message.vote.block is None:
            return None
        vote = replace(message.vote, block=None)
        key = self._keys[validator]
        text = vote_message(self._applications[validator].network, vote)
        return SignedVote(validator=validator, vote=vote, signature=key.sign(text))

    def _entries(self, state: State) -> Iterator[tuple[str, bytes, bytes]]:
        for table in tables_of(self.chain):
            for key, record in state.sorted_items(table):
                yield table.namespace, key, encode_record(record)
