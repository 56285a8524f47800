"""A key-value ledger, a simulated network in virtual time and machines that crash, for tests."""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from headwater_protocol.chain.block import (
    Block,
    Certificate,
    Vote,
    VoteKind,
    header_digest,
    verify_certificate,
    vote_message,
)
from headwater_protocol.chain.committee import Committee, make_committee
from headwater_protocol.chain.evidence import Equivocation
from headwater_protocol.chain.proof import StateProof, compute_state_root
from headwater_protocol.chain.statement import SignedVote, proposal_message
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey
from headwater_protocol.errors import InvalidBlock
from headwater_protocol.identifiers import (
    ChainId,
    Digest,
    Height,
    Network,
    Signature,
    TimeMs,
    ValidatorId,
    View,
)
from headwater_protocol.merkle.trie import MerkleMap
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.bft.effects import (
    Broadcast,
    DurableEffect,
    Effect,
    Evidence,
    Finalized,
    Halted,
    Persist,
    Send,
)
from headwater_shard.engine.bft.history import FinalizedBlock, Tip
from headwater_shard.engine.bft.messages import (
    BlockRequest,
    Message,
    PrevoteCertificate,
    Proposal,
    claim_of,
    decode_message,
    encode_message,
)
from headwater_shard.engine.bft.signer import SavedState, SignedState
from headwater_shard.engine.bft.timeouts import Timeouts
from headwater_shard.engine.bft.validation import make_context, make_header
from headwater_shard.engine.border import BlockContext, Execution, Outcome, QueryResult
from headwater_shard.engine.consensus import Consensus
from headwater_shard.engine.execution_cache import ExecutionCache
from headwater_shard.engine.mempool import Mempool

NETWORK = Network(bytes(range(32)))
CHAIN = ChainId("shard-1")
DRIFT_MS = 5_000
FAST = Timeouts(
    propose_ms=300,
    propose_step_ms=50,
    prevote_ms=100,
    prevote_step_ms=50,
    precommit_ms=100,
    precommit_step_ms=50,
    cap_ms=2_000,
    resend_ms=150,
)

StateMap = MerkleMap[bytes]


def key_of(index: int) -> SecretKey:
    return SecretKey(bytes([index + 1]) * 32)


def committee_of(powers: Mapping[int, int] | Sequence[int]) -> Committee:
    pairs = powers.items() if isinstance(powers, Mapping) else enumerate(powers)
    return make_committee((key_of(index).validator, power) for index, power in pairs)


class KeyValueLedger:
    """`key=value` transactions over one Merkle map; `key=` deletes, `!` is never valid."""

    def __init__(
        self,
        committee: Committee,
        *,
        committees: Mapping[int, Committee] | None = None,
        interval_ms: int | None = None,
        cache: ExecutionCache[tuple[Execution, StateMap]] | None = None,
        is_strict: bool = True,
    ) -> None:
        self._entries: StateMap = MerkleMap()
        self._committee = committee
        self._committees = {} if committees is None else dict(committees)
        self._interval_ms = interval_ms
        self._cache = cache
        self._height = Height(0)
        self._time_ms = 0
        self._is_strict = is_strict
        self._executed: dict[BlockContext, tuple[Execution, StateMap]] = {}
        self.executions = 0
        self.corrupt_from: int | None = None
        """A height from which this replica computes wrong roots."""

    @property
    def network(self) -> Network:
        return NETWORK

    @property
    def chain(self) -> ChainId:
        return CHAIN

    @property
    def height(self) -> Height:
        return self._height

    @property
    def state_root(self) -> Digest:
        return compute_state_root((self._entries.root,))

    @property
    def committee(self) -> Committee:
        return self._committee

    def value(self, key: bytes) -> bytes | None:
        return self._entries.get(key)

    def next_timer(self) -> int | None:
        return None if self._interval_ms is None else self._time_ms + self._interval_ms

    def check_tx(self, transaction: bytes) -> ReasonCode:
        key, separator, _ = transaction.partition(b"=")
        if not separator or not key or len(key) > 64:
            return ReasonCode.BAD_ENCODING
        if key.startswith(b"!"):
            return ReasonCode.NOT_PERMITTED
        if key.startswith(b"once") and self._entries.get(key) is not None:
            return ReasonCode.DUPLICATE
        return ReasonCode.OK

    def prepare_proposal(
        self, candidates: Sequence[bytes], *, time_ms: TimeMs, max_bytes: int
    ) -> tuple[bytes, ...]:
        chosen, size = [], 0
        for transaction in candidates:
            size += len(transaction)
            if size > max_bytes:
                break
            if self.check_tx(transaction) is ReasonCode.OK and not transaction.startswith(b"wait"):
                chosen.append(transaction)
        return tuple(chosen)

    def process_proposal(self, context: BlockContext) -> Execution:
        return self.finalize_block(context)

    def finalize_block(self, context: BlockContext) -> Execution:
        if context.height != self._height + 1:
            raise InvalidBlock(f"height {context.height} on top of {self._height}")
        if context not in self._executed:
            if self._cache is None:
                self._executed[context] = self._execute(context)
            else:
                self._executed[context] = self._cache.get_or_compute(
                    chain=CHAIN,
                    state_root=self.state_root,
                    context=context,
                    compute=lambda: self._execute(context),
                )
        return self._executed[context][0]

    def _execute(self, context: BlockContext) -> tuple[Execution, StateMap]:
        self.executions += 1
        changes: dict[bytes, bytes | None] = {}
        for transaction in context.transactions:
            if self.check_tx(transaction) is not ReasonCode.OK:
                raise InvalidBlock("a transaction that check_tx refuses")
            key, _, value = transaction.partition(b"=")
            changes[key] = value or None
        entries = self._entries.updated(
            {key: None if value is None else (value, value) for key, value in changes.items()}
        )
        root = compute_state_root((entries.root,))
        if self.corrupt_from is not None and context.height >= self.corrupt_from:
            root = Digest(bytes(32))
        execution = Execution(
            state_root=root,
            outcomes=tuple(Outcome(reason=ReasonCode.OK) for _ in context.transactions),
            next_committee=self._committees.get(context.height, self._committee),
            changes={"entries": dict(sorted(changes.items()))},
        )
        return execution, entries

    def commit(self, context: BlockContext) -> None:
        self.finalize_block(context)
        execution, self._entries = self._executed[context]
        self._committee = execution.next_committee
        self._height = context.height
        self._time_ms = context.time_ms
        self._executed.clear()

    def query(self, namespace: str, key: bytes) -> QueryResult:
        if namespace != "entries":
            raise KeyError(namespace)
        proof = StateProof(
            namespace=namespace,
            map_proof=self._entries.prove(key),
            namespace_roots=(self._entries.root,),
        )
        return QueryResult(height=self._height, value=self._entries.get(key), proof=proof)


class Disk:
    """What survives a crash of one or of all validators of a process."""

    def __init__(self) -> None:
        self.finals: list[Finalized] = []
        self.states: dict[ValidatorId, SignedState] = {}
        self.blocks: dict[Digest, Block] = {}
        self.writes = 0

    def write(self, effects: Sequence[DurableEffect]) -> None:
        self.writes += 1
        for effect in effects:
            if isinstance(effect, Finalized):
                assert effect.block.header.height == len(self.finals) + 1
                self.finals.append(effect)
            else:
                self.states[effect.state.validator] = effect.state
                for block in effect.blocks:
                    self.blocks[header_digest(block.header)] = block

    def load_block(self, height: Height) -> FinalizedBlock | None:
        if not 1 <= height <= len(self.finals):
            return None
        final = self.finals[height - 1]
        return FinalizedBlock(block=final.block, certificate=final.certificate)

    @property
    def tip(self) -> Tip | None:
        if not self.finals:
            return None
        last = self.finals[-1]
        return Tip(block=last.block, certificate=last.certificate, rotation=last.rotation)

    def saved(self, validator: ValidatorId) -> SavedState | None:
        state = self.states.get(validator)
        if state is None:
            return None
        named = {
            None if state.proposal is None else state.proposal.claim.block,
            None if state.lock.valid is None else state.lock.valid.block,
        }
        blocks = [self.blocks[name] for name in sorted(filter(None, named)) if name in self.blocks]
        return SavedState(state=state, blocks=tuple(blocks))

    def replay(self, ledger: KeyValueLedger) -> KeyValueLedger:
        for final in self.finals:
            context = make_context(final.block)
            ledger.finalize_block(context)
            ledger.commit(context)
        return ledger


@dataclass
class Conditions:
    """What the network does to messages."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_ms: tuple[int, int] = (1, 20)
    groups: tuple[frozenset[int], ...] = ()
    """Only members of one group hear each other; empty: everybody does."""
    is_encoded: bool = False

    def connects(self, sender: int, receiver: int) -> bool:
        return not self.groups or any(
            sender in group and receiver in group for group in self.groups
        )


@dataclass
class Node:
    index: int
    disk: Disk
    machine: Consensus | None
    ledger: KeyValueLedger
    mempool: Mempool
    byzantine: Callable[[Effect, int], list[tuple[int, Message]]] | None = None
    evidence: list[Equivocation] = field(default_factory=list)
    refused: Counter[ReasonCode] = field(default_factory=Counter)


class SimulatedNetwork:
    """Validators, their disks and the wires between them, from one seed."""

    def __init__(
        self,
        powers: Sequence[int],
        *,
        seed: int,
        conditions: Conditions | None = None,
        timeouts: Timeouts = FAST,
        committees: Mapping[int, Committee] | None = None,
        interval_ms: int | None = None,
        extra_nodes: int = 0,
    ) -> None:
        self.random = random.Random(seed)
        self.conditions = Conditions() if conditions is None else conditions
        self.timeouts = timeouts
        self.committee = committee_of(powers)
        self.committees = committees
        self.interval_ms = interval_ms
        self.now_ms = 1_000_000
        self.crash_chance = 0.0
        self._queue: list[tuple[int, int, int, Message]] = []
        self._sequence = 0
        self.halted: list[tuple[int, Halted]] = []
        self.nodes: list[Node] = []
        self._index_of: dict[ValidatorId, int] = {}
        for index in range(len(powers) + extra_nodes):
            self._index_of[key_of(index).validator] = index
            self.nodes.append(
                Node(
                    index=index,
                    disk=Disk(),
                    machine=None,
                    ledger=KeyValueLedger(self.committee),
                    mempool=Mempool(),
                )
            )
        for index in range(len(self.nodes)):
            self.start(index)

    def start(self, index: int) -> None:
        node = self.nodes[index]
        node.ledger = node.disk.replay(
            KeyValueLedger(self.committee, committees=self.committees, interval_ms=self.interval_ms)
        )
        node.mempool = Mempool()
        node.machine = Consensus(
            key=key_of(index),
            application=node.ledger,
            mempool=node.mempool,
            verifier=DirectVerifier(),
            clock_drift_ms=DRIFT_MS,
            timeouts=self.timeouts,
            history=node.disk,
            tip=node.disk.tip,
            saved=node.disk.saved(key_of(index).validator),
        )
        node.machine.probe(self.now_ms)
        self._perform(node)

    def crash(self, index: int) -> None:
        self.nodes[index].machine = None

    def submit(self, transaction: bytes, *, to: Sequence[int] | None = None) -> None:
        for node in self.nodes:
            if node.machine is not None and (to is None or node.index in to):
                node.machine.submit(transaction, self.now_ms)
                self._perform(node)

    def inject(self, receiver: int, message: Message) -> None:
        machine = self.nodes[receiver].machine
        assert machine is not None
        machine.receive(message, self.now_ms)
        self._perform(self.nodes[receiver])

    def run(self, *, until_ms: int | None = None, until: Callable[[], bool] | None = None) -> bool:
        """Go on to `until_ms`, or until a condition holds; False if nothing is left to happen."""
        while until is None or not until():
            at = min(filter(None, (self._next_message(), self._next_timer())), default=None)
            if at is None or (until_ms is not None and at > until_ms):
                self.now_ms = max(self.now_ms, until_ms or 0)
                return until is None
            self.now_ms = max(self.now_ms, at)
            self._step()
        return True

    def run_to_height(self, height: int, *, within_ms: int, nodes: Sequence[int]) -> None:
        reached = self.run(
            until_ms=self.now_ms + within_ms,
            until=lambda: all(len(self.nodes[index].disk.finals) >= height for index in nodes),
        )
        heights = [len(node.disk.finals) for node in self.nodes]
        assert reached, f"heights {heights}, wanted {height} within {within_ms} ms"

    def heights(self) -> list[int]:
        return [len(node.disk.finals) for node in self.nodes]

    def blamed(self) -> list[ValidatorId]:
        return sorted({evidence.validator for node in self.nodes for evidence in node.evidence})

    def require_agreement(self) -> None:
        """No two validators hold different blocks of a height, and each holds a valid chain."""
        longest = max((node.disk.finals for node in self.nodes), key=len)
        for node in self.nodes:
            if node.byzantine is not None:
                continue
            for mine, theirs in zip(node.disk.finals, longest, strict=False):
                assert mine.block == theirs.block
                assert mine.rotation == theirs.rotation
            committee = self.committee
            for final in node.disk.finals:
                verify_certificate(
                    final.certificate,
                    header=final.block.header,
                    committee=committee,
                    verifier=DirectVerifier(),
                )
                committee = final.rotation.committee

    def _next_message(self) -> int | None:
        return self._queue[0][0] if self._queue else None

    def _next_timer(self) -> int | None:
        times = [
            at
            for node in self.nodes
            if node.machine is not None and (at := node.machine.next_timer()) is not None
        ]
        return max(min(times), self.now_ms) if times else None

    def _step(self) -> None:
        if self._queue and self._queue[0][0] <= self.now_ms:
            _, _, receiver, message = heapq.heappop(self._queue)
            node = self.nodes[receiver]
            if node.machine is not None:
                node.machine.receive(message, self.now_ms)
                self._perform(node)
            return
        for node in self.nodes:
            machine = node.machine
            if machine is None:
                continue
            at = machine.next_timer()
            if at is not None and at <= self.now_ms:
                machine.on_timer(self.now_ms)
                self._perform(node)

    def _perform(self, node: Node) -> None:
        machine = node.machine
        assert machine is not None
        for effect in machine.effects():
            if self.crash_chance and self.random.random() < self.crash_chance:
                self.crash(node.index)
                return
            if isinstance(effect, Persist | Finalized):
                node.disk.write([effect])
            elif isinstance(effect, Evidence):
                node.evidence.append(effect.equivocation)
            elif isinstance(effect, Halted):
                self.halted.append((node.index, effect))
            elif node.byzantine is not None:
                for receiver, message in node.byzantine(effect, node.index):
                    self.send(node.index, receiver, message)
            elif isinstance(effect, Broadcast):
                for receiver in range(len(self.nodes)):
                    if receiver != node.index:
                        self.send(node.index, receiver, effect.message)
            elif isinstance(effect, Send) and effect.to in self._index_of:
                self.send(node.index, self._index_of[effect.to], effect.message)

    def send(self, sender: int, receiver: int, message: Message) -> None:
        conditions = self.conditions
        if not conditions.connects(sender, receiver):
            return
        copies = 1 + (self.random.random() < conditions.duplication)
        for _ in range(copies):
            if self.random.random() < conditions.loss:
                continue
            if conditions.is_encoded:
                message = decode_message(encode_message(message))
            self._sequence += 1
            at = self.now_ms + self.random.randint(*conditions.delay_ms)
            heapq.heappush(self._queue, (at, self._sequence, receiver, message))


def numbered_transactions(prefix: str = "k") -> Iterator[bytes]:
    number = 0
    while True:
        yield f"{prefix}{number}={number}".encode()
        number += 1


def signers_of(certificate: Certificate) -> list[ValidatorId]:
    return [entry.validator for entry in certificate.signatures]


def sign_vote(
    index: int,
    *,
    kind: VoteKind,
    height: int,
    view: int = 0,
    block: Digest | None = None,
    chain: ChainId = CHAIN,
    network: Network = NETWORK,
) -> SignedVote:
    vote = Vote(kind=kind, chain=chain, height=Height(height), view=View(view), block=block)
    return SignedVote(
        validator=key_of(index).validator,
        vote=vote,
        signature=key_of(index).sign(vote_message(network, vote)),
    )


def sign_proposal(
    index: int,
    block: Block,
    *,
    view: int = 0,
    valid: PrevoteCertificate | None = None,
    network: Network = NETWORK,
) -> Proposal:
    unsigned = Proposal(
        leader=key_of(index).validator,
        view=View(view),
        block=block,
        valid=valid,
        signature=Signature(bytes(64)),
    )
    claim = claim_of(unsigned, header_digest(block.header))
    return replace(unsigned, signature=key_of(index).sign(proposal_message(network, claim)))


def make_block(
    ledger: KeyValueLedger,
    machine: Consensus,
    *,
    proposer: int,
    transactions: tuple[bytes, ...],
    time_ms: int,
) -> Block:
    """A block that an honest leader could propose on top of what `machine` has finalized."""
    place = machine._state.place
    parent = machine._intake.parent
    context = BlockContext(
        height=place.height,
        time_ms=TimeMs(time_ms),
        proposer=key_of(proposer).validator,
        previous=place.parent_digest,
        last_certificate=None if parent is None else parent.certificate(),
        transactions=transactions,
    )
    return Block(
        header=make_header(place, context, ledger.finalize_block(context)),
        transactions=transactions,
        last_certificate=context.last_certificate,
    )


class TwoFaced:
    """Tells one half of the others something else than the other half."""

    def __init__(self, network: SimulatedNetwork) -> None:
        self.network = network
        self.other_votes = 0

    def __call__(self, effect: Effect, index: int) -> list[tuple[int, Message]]:
        others = [node.index for node in self.network.nodes if node.index != index]
        if isinstance(effect, Send):
            return []
        assert isinstance(effect, Broadcast)
        message = effect.message
        rival = self._rival(message, index)
        if rival is None:
            return [(other, message) for other in others]
        return [
            (other, message if (other + self.other_votes) % 2 else rival) for other in others
        ] + ([(others[0], rival), (others[0], message)] if self.other_votes % 3 == 0 else [])

    def _rival(self, message: Message, index: int) -> Message | None:
        self.other_votes += 1
        if isinstance(message, SignedVote):
            vote = message.vote
            return sign_vote(
                index,
                kind=vote.kind,
                height=vote.height,
                view=vote.view,
                block=None if vote.block is not None else Digest(bytes(32)),
            )
        node = self.network.nodes[index]
        if isinstance(message, Proposal) and message.valid is None:
            assert node.machine is not None
            if message.block.header.height != node.machine.height:
                return None
            block = make_block(
                node.ledger,
                node.machine,
                proposer=index,
                transactions=(*message.block.transactions, b"rival=1"),
                time_ms=message.block.header.time_ms,
            )
            return sign_proposal(index, block, view=message.view)
        return None


class WrongRoot:
    """Proposes blocks whose header names another state."""

    def __init__(self, network: SimulatedNetwork) -> None:
        self.network = network
        self.lies = 0

    def __call__(self, effect: Effect, index: int) -> list[tuple[int, Message]]:
        others = [node.index for node in self.network.nodes if node.index != index]
        if isinstance(effect, Send):
            return []
        assert isinstance(effect, Broadcast)
        message = effect.message
        if isinstance(message, Proposal) and message.valid is None:
            self.lies += 1
            header = replace(message.block.header, state_root=Digest(bytes(32)))
            message = sign_proposal(index, replace(message.block, header=header), view=message.view)
        return [(other, message) for other in others]


class Babbler:
    """Sends, beside what it should, messages that break every rule that there is."""

    def __init__(self, network: SimulatedNetwork) -> None:
        self.network = network

    def __call__(self, effect: Effect, index: int) -> list[tuple[int, Message]]:
        others = [node.index for node in self.network.nodes if node.index != index]
        rng = self.network.random
        machine = self.network.nodes[index].machine
        assert machine is not None
        height = machine.height
        sent: list[tuple[int, Message]] = []
        if isinstance(effect, Send):
            known = self.network._index_of.get(effect.to)
            return [] if known is None else [(known, effect.message)]
        assert isinstance(effect, Broadcast)
        for other in others:
            sent.append((other, effect.message))
            kind = rng.choice(list(VoteKind))
            block = Digest(rng.randbytes(32))
            nonsense: list[Message] = [
                sign_vote(index, kind=kind, height=height, view=rng.randint(0, 2**31 - 1)),
                sign_vote(index, kind=kind, height=height + rng.randint(1, 9), block=block),
                sign_vote(index, kind=kind, height=height, chain=ChainId("other")),
                sign_vote(index, kind=kind, height=height, network=Network(bytes(32))),
                sign_vote(100, kind=kind, height=height, block=block),
                replace(
                    sign_vote(index, kind=kind, height=height), validator=key_of(other).validator
                ),
                BlockRequest(
                    chain=CHAIN, height=Height(rng.randint(0, 99)), requester=key_of(50).validator
                ),
            ]
            if isinstance(effect.message, Proposal):
                proposal = effect.message
                nonsense += [
                    replace(proposal, view=View(proposal.view + 1)),
                    replace(proposal, signature=Signature(bytes(64))),
                    replace(proposal, block=replace(proposal.block, transactions=(b"swapped=1",))),
                    sign_proposal(index, proposal.block, view=proposal.view + 3),
                    sign_proposal(
                        index,
                        replace(
                            proposal.block,
                            header=replace(proposal.block.header, height=Height(height + 1)),
                        ),
                    ),
                ]
            sent += [(other, message) for message in rng.sample(nonsense, 3)]
        return sent
