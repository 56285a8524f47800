"""Builders for the agent: certified announcements, receipts, and a virtual world for one device."""

from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from headwater_agent.device import Device
from headwater_agent.machine.effects import (
    Effect,
    Notice,
    Persist,
    Publish,
    Rejected,
    Subscribe,
    Train,
    Unsubscribe,
)
from headwater_agent.machine.inputs import Arrived, Connected, Connecting, Trained
from headwater_agent.machine.limits import DeviceLimits
from headwater_agent.state import DeviceState, apply_changes
from headwater_protocol.chain.block import (
    NO_DIGEST,
    BlockHeader,
    Certificate,
    Vote,
    VoteKind,
    VoteSignature,
    header_digest,
    transactions_root,
    vote_message,
)
from headwater_protocol.chain.committee import committee_digest
from headwater_protocol.chain.genesis import (
    Genesis,
    GenesisAccount,
    GenesisValidator,
    Parameters,
    genesis_network,
)
from headwater_protocol.chain.proof import SHARD_NAMESPACES, StateProof, compute_state_root
from headwater_protocol.chain.round import TOP_RANK, Round, RoundPhase
from headwater_protocol.chain.task import Codec, OptimizerKind, Task, Training
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import (
    ChainId,
    Digest,
    EpochNumber,
    Height,
    Network,
    NumExamples,
    RoundNumber,
    Score,
    TaskId,
    TimeMs,
    Units,
    View,
    VotingPower,
)
from headwater_protocol.merkle.trie import MerkleMap
from headwater_protocol.messages.announcement import Announcement, round_key, task_key
from headwater_protocol.messages.chunk import split_blob
from headwater_protocol.messages.receipt import Receipt, Stage, sign_receipt
from headwater_protocol.messages.topics import Topics
from headwater_protocol.messages.update import Update, decode_update
from headwater_protocol.model.fixed_point import encode_model, from_float32
from headwater_protocol.model.rule import AggregationRule
from headwater_protocol.reasons import ReasonCode

E = TypeVar("E")
SHARD = ChainId("shard-1")
START_MS = 1_700_000_000_000
COLLECT_MS = 60_000
ENTROPY = b"e" * 32
DEVICE_KEY = SecretKey(b"d" * 32)
PROGRAM = bytes(range(256)) * 200
"""Two chunks that no trainer has to understand here."""
TENSOR_SIZES = (6, 4)
BASE = encode_model(from_float32(np.linspace(-1, 1, 10, dtype=np.float32)))
DELTA = np.linspace(-0.5, 0.7, 10, dtype=np.float32)


def make_task(**changes: object) -> Task:
    task = Task(
        task=TaskId("digits"),
        program=blob_digest(PROGRAM),
        tensor_sizes=TENSOR_SIZES,
        fraction_bits=20,
        initial_model=blob_digest(BASE),
        training=Training(
            optimizer=OptimizerKind.SGD,
            learning_rate_millionths=100_000,
            momentum_thousandths=0,
            proximal_millionths=0,
            clip_norm_thousandths=0,
            local_epochs=1,
            max_steps=100,
            batch_size=16,
        ),
        codec=Codec(bits=4, keep_thousandths=1_000),
        rule=AggregationRule(),
        max_examples=NumExamples(1_000),
        score_threshold=Score(0),
        reputation_thousandths=0,
        rounds=100,
        cohort_size=100,
        min_updates=1,
        collect_ms=COLLECT_MS,
        score_ms=10_000,
        attest_ms=10_000,
        round_budget=Units(100),
        delegate_thousandths=100,
    )
    return replace(task, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Net:
    """A network of one shard whose delegates' keys are known."""

    task: Task = field(default_factory=make_task)
    num_delegates: int = 4

    @property
    def delegates(self) -> tuple[SecretKey, ...]:
        keys = [SecretKey(bytes([index + 1]) * 32) for index in range(self.num_delegates)]
        return tuple(sorted(keys, key=lambda key: key.validator))

    @property
    def genesis(self) -> Genesis:
        sponsor = SecretKey(b"s" * 32).account
        return Genesis(
            name="test",
            time_ms=TimeMs(START_MS),
            parameters=Parameters(
                checkpoint_interval=1,
                checkpoints_per_epoch=1,
                merge_wait_ms=1,
                epoch_timeout_ms=1,
                retention_rounds=1,
                clock_drift_ms=1,
            ),
            accounts=(GenesisAccount(account=sponsor, balance=Units(10**9)),),
            validators=tuple(
                GenesisValidator(validator=key.validator, stake=VotingPower(10), shard=SHARD)
                for key in self.delegates
            ),
            shards=(SHARD,),
            registrars=(sponsor,),
            sponsor=sponsor,
            task=self.task,
        )

    @property
    def network(self) -> Network:
        return genesis_network(self.genesis)

    @property
    def topics(self) -> Topics:
        return Topics(self.network, SHARD)

    def round(self, number: int = 1, **changes: object) -> Round:
        round_ = Round(
            number=RoundNumber(number),
            epoch=EpochNumber(0),
            task=self.task.task,
            phase=RoundPhase.COLLECT,
            base=blob_digest(BASE),
            seed=Digest(b"r" * 32),
            rank_threshold=TOP_RANK,
            cohort_size=1,
            opened_height=Height(1),
            opened_ms=TimeMs(START_MS),
            collect_until_ms=TimeMs(START_MS + number * COLLECT_MS),
            score_until_ms=TimeMs(0),
            attest_until_ms=TimeMs(0),
            num_batches=0,
            num_updates=0,
            num_accepted=0,
            num_examples=0,
            correction=None,
            model=None,
            paid=Units(0),
            closed_height=Height(0),
        )
        return replace(round_, **changes)  # type: ignore[arg-type]

    def announce(
        self, round_: Round, *, num_signers: int | None = None, height: int | None = None
    ) -> Announcement:
        """A block whose state holds the round and the task, certified by the first delegates."""
        maps: dict[str, MerkleMap[bytes]] = {name: MerkleMap() for name in SHARD_NAMESPACES}
        round_bytes, task_bytes = encode_record(round_), encode_record(self.task)
        maps["rounds"] = maps["rounds"].updated(
            {
                round_key(round_.number): (round_bytes, b""),
                round_key(RoundNumber(round_.number + 1_000)): (b"another", b""),
            }
        )
        maps["tasks"] = maps["tasks"].updated({task_key(self.task.task): (task_bytes, b"")})
        roots = tuple(maps[name].root for name in SHARD_NAMESPACES)
        committee = committee_digest(self.genesis.committee(SHARD))
        height = 10 * round_.number if height is None else height
        header = BlockHeader(
            network=self.network,
            chain=SHARD,
            height=Height(height),
            time_ms=TimeMs(round_.collect_until_ms - COLLECT_MS),
            previous=NO_DIGEST,
            last_certificate=NO_DIGEST,
            transactions_root=transactions_root(()),
            outcomes_root=NO_DIGEST,
            state_root=compute_state_root(roots),
            committee=committee,
            next_committee=committee,
            proposer=self.delegates[0].validator,
        )
        digest = header_digest(header)
        vote = Vote(
            kind=VoteKind.PRECOMMIT,
            chain=SHARD,
            height=header.height,
            view=View(0),
            block=digest,
        )
        message = vote_message(self.network, vote)
        signers = self.delegates[:num_signers]
        return Announcement(
            header=header,
            certificate=Certificate(
                chain=SHARD,
                height=header.height,
                view=View(0),
                block=digest,
                signatures=tuple(
                    VoteSignature(validator=key.validator, signature=key.sign(message))
                    for key in signers
                ),
            ),
            round=round_,
            round_proof=StateProof(
                namespace="rounds",
                map_proof=maps["rounds"].prove(round_key(round_.number)),
                namespace_roots=roots,
            ),
            task=self.task,
            task_proof=StateProof(
                namespace="tasks",
                map_proof=maps["tasks"].prove(task_key(self.task.task)),
                namespace_roots=roots,
            ),
        )

    def announced(self, number: int = 1, **changes: object) -> Arrived:
        return Arrived(
            topic=self.topics.round,
            payload=encode_record(self.announce(self.round(number, **changes))),
        )

    def pieces(self, blob: bytes) -> list[Arrived]:
        return [
            Arrived(topic=self.topics.chunk(chunk.blob, chunk.index), payload=encode_record(chunk))
            for chunk in split_blob(blob)
        ]

    def answered(
        self,
        update: Update,
        reason: ReasonCode = ReasonCode.OK,
        *,
        stage: Stage = Stage.INTAKE,
        gateway: int | SecretKey = 0,
        **changes: object,
    ) -> Arrived:
        key = self.delegates[gateway] if isinstance(gateway, int) else gateway
        receipt = Receipt(
            stage=stage,
            shard=SHARD,
            round=update.round,
            device=update.device,
            payload=blob_digest(update.payload),
            reason=reason,
            height=Height(1),
            score=0,
            reward=Units(0),
            time_ms=TimeMs(START_MS),
            gateway=key.validator,
        )
        signed = sign_receipt(key, self.network, replace(receipt, **changes))  # type: ignore[arg-type]
        return Arrived(topic=self.topics.receipt(update.device), payload=encode_record(signed))


class World:
    """A device with a disk that takes its `Persist` effects, and a virtual clock."""

    def __init__(
        self, net: Net | None = None, *, limits: DeviceLimits | None = None, weight: int = 1
    ) -> None:
        self.net = net or Net()
        self.limits = limits
        self.weight = weight
        self.now_ms = START_MS
        self.disk = DeviceState()
        self.trace: list[Effect] = []
        self.device = self._boot()

    def _boot(self) -> Device:
        return Device(
            key=DEVICE_KEY,
            genesis=self.net.genesis,
            network=self.net.network,
            shard=SHARD,
            entropy=ENTROPY,
            state=self.disk,
            weight=self.weight,
            limits=self.limits,
        )

    def restart(self) -> None:
        """Lose everything but the disk."""
        self.device = self._boot()

    def perform(self, at_most: int | None = None) -> list[Effect]:
        """Perform pending effects; with `at_most`, the power goes after so many."""
        done: list[Effect] = []
        for effect in self.device.effects():
            if at_most is not None and len(done) >= at_most:
                break
            if isinstance(effect, Persist):
                self.disk = apply_changes(self.disk, effect.changes)
            done.append(effect)
        self.trace.extend(done)
        return done

    def tell(self, *messages: object) -> list[Effect]:
        done: list[Effect] = []
        for message in messages:
            self.device.receive(message, self.now_ms)  # type: ignore[arg-type]
            done.extend(self.perform())
        return done

    def connect(self) -> list[Effect]:
        done = self.tell(Connecting())
        return done + self.tell(Connected(session=self.device.state.session))

    def run_timers(self, until_ms: int) -> list[Effect]:
        """Let virtual time pass, calling every timer when it is due."""
        done: list[Effect] = []
        while True:
            due_ms = self.device.next_timer()
            if due_ms is None or due_ms > until_ms:
                self.now_ms = max(self.now_ms, until_ms)
                return done
            self.now_ms = max(self.now_ms, due_ms)
            self.device.on_timer(self.now_ms)
            done.extend(self.perform())
            following_ms = self.device.next_timer()
            assert following_ms is None or following_ms > self.now_ms, "the timer stands still"

    def begin_round(self, number: int = 1, **changes: object) -> list[Effect]:
        """Announce, deliver the blobs, and return what the device did."""
        done = self.tell(self.net.announced(number, **changes))
        if any(isinstance(effect, Subscribe) for effect in done):
            done += self.tell(*self.net.pieces(BASE), *self.net.pieces(PROGRAM))
        return done

    def train(self, number: int = 1, delta: "np.ndarray | None" = None) -> list[Effect]:  # type: ignore[type-arg]
        return self.tell(
            Trained(
                round=RoundNumber(number), delta=DELTA if delta is None else delta, num_examples=7
            )
        )

    def sign_round(self, number: int = 1) -> Update:
        self.begin_round(number)
        return updates_in(self.train(number))[0]


def only(effects: list[Effect], kind: type[E]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


def updates_in(effects: list[Effect]) -> list[Update]:
    return [
        decode_update(effect.payload)
        for effect in effects
        if isinstance(effect, Publish) and effect.topic.endswith("/update")
    ]


def requests_in(effects: list[Effect]) -> list[Train]:
    return [effect for effect in effects if isinstance(effect, Train)]


def shape_of(effects: list[Effect]) -> list[str]:
    """The effects as words, for golden traces."""
    words = []
    for effect in effects:
        match effect:
            case Notice():
                words.append(f"notice {effect.event} {effect.reason}")
            case Rejected():
                words.append(f"rejected {effect.reason} {effect.count}")
            case Publish():
                words.append(f"publish {effect.topic.rsplit('/', 1)[1]}")
            case Subscribe() | Unsubscribe():
                word = type(effect).__name__.lower()
                words.append(f"{word} {len(effect.topics)}")
            case _:
                words.append(type(effect).__name__.lower())
    return words
