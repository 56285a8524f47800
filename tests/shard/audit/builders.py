"""A small network with real payloads and models, in memory or written to a data folder.

Two shards of four validators and five devices each train four rounds: with a low score, a payload
that nobody could get, a round without updates, a merge adopted in time, one adopted late, and a
last merge at the end.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from headwater_protocol.chain.checkpoint import CheckpointSignature, checkpoint_message
from headwater_protocol.chain.claim import Commit
from headwater_protocol.chain.genesis import encode_genesis
from headwater_protocol.chain.round import RoundPhase
from headwater_protocol.chain.task import Task
from headwater_protocol.chain.transaction import (
    UNAVAILABLE,
    AdoptEpoch,
    AttestMerge,
    AttestModel,
    CommitUpdates,
    PostCheckpoint,
    PostScores,
    SignCheckpoint,
    Transfer,
)
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    ChainId,
    Digest,
    EpochNumber,
    RoundNumber,
    Units,
)
from headwater_protocol.messages.announcement import round_key
from headwater_protocol.model.fixed_point import FixedPointModel, encode_model
from headwater_protocol.model.payload import encode_payload
from headwater_protocol.model.quantize import quantize
from headwater_protocol.reasons import ReasonCode
from headwater_shard.application import make_ledger
from headwater_shard.audit.readers import MemoryLedger, iter_entries
from headwater_shard.blobs import BlobStore
from headwater_shard.engine.bft.history import FinalizedBlock
from headwater_shard.engine.bft.leader import Rotation, initial_rotation, next_rotation
from headwater_shard.engine.bft.validation import outcomes_root
from headwater_shard.engine.border import Changes, Execution
from headwater_shard.layout import DataFolder
from headwater_shard.mainchain.records import MAIN, MAIN_KEY, MERGES
from headwater_shard.round_model import compute_merged_model, compute_round_model
from headwater_shard.shardchain.adoption import get_committee
from headwater_shard.shardchain.records import (
    CHECKPOINTS,
    ROUNDS,
    SHARD,
    SHARD_KEY,
    checkpoint_key,
)
from headwater_shard.store import LedgerStore
from tests.support.ledgers import epoch_update, hand_over
from tests.support.network import Cast, Chain, certify, key, make_cast, make_task

NUM_DEVICES = 5
PROGRAM = b"a training program"


def make_model_task(**changes: object) -> Task:
    rng = np.random.default_rng(7)
    model = encode_model(
        FixedPointModel(parameters=rng.integers(-(2**20), 2**20, 10, dtype=np.int32))
    )
    task = make_task(program=blob_digest(PROGRAM), initial_model=blob_digest(model))
    return replace(task, **changes)  # type: ignore[arg-type]


def initial_model() -> bytes:
    rng = np.random.default_rng(7)
    return encode_model(
        FixedPointModel(parameters=rng.integers(-(2**20), 2**20, 10, dtype=np.int32))
    )


@dataclass
class Ledger(Chain):
    """A chain that keeps what a store is given with each block."""

    changes: list[Changes] = field(default_factory=list)
    rotations: list[Rotation] = field(default_factory=list)
    certifiers: list[list[SecretKey]] = field(default_factory=list)
    """Of each block."""

    def block(self, *transactions: bytes, after_ms: int = 10) -> Execution:
        rotation = self.rotations[-1] if self.rotations else initial_rotation(self.app.committee)
        keys = self.committee_keys
        self.certifiers.append(keys)
        execution = super().block(*transactions, after_ms=after_ms)
        block, _ = self.blocks[-1]
        header = replace(block.header, outcomes_root=outcomes_root(execution.outcomes))
        self.blocks[-1] = (
            replace(block, header=header),
            certify(header, keys),
        )
        self.changes.append(
            execution.changes if self.changes else self.with_genesis(execution.changes)
        )
        self.rotations.append(next_rotation(rotation, execution.next_committee))
        return execution

    def with_genesis(self, changes: Changes) -> Changes:
        """A store is given the genesis entries with the first block."""
        entries: dict[str, dict[bytes, bytes | None]] = {}
        state = make_ledger(self.cast.genesis, self.chain).genesis_state()
        for namespace, entry_key, value in iter_entries(self.chain, state):
            entries.setdefault(namespace, {})[entry_key] = value
        for namespace, changed in changes.items():
            entries.setdefault(namespace, {}).update(changed)
        return entries

    def accepted(self, *transactions: bytes, after_ms: int = 10) -> Execution:
        execution = self.block(*transactions, after_ms=after_ms)
        assert [outcome.reason for outcome in execution.outcomes] == [ReasonCode.OK] * len(
            transactions
        )
        return execution

    @property
    def committee_keys(self) -> list[SecretKey]:
        return [self.cast.keys[delegate.validator] for delegate in self.app.committee.delegates]

    def keys_of(self, epoch: EpochNumber) -> list[SecretKey]:
        """Who serves a shard in an epoch that it adopted."""
        committee = get_committee(self.app.state, self.chain, epoch)
        return [self.cast.keys[delegate.validator] for delegate in committee.delegates]

    def require_closed(self, number: RoundNumber, *, model: Digest) -> None:
        round_ = self.app.state.get(ROUNDS, round_key(number))
        assert round_ is not None
        assert (round_.phase, round_.model) == (RoundPhase.CLOSED, model)

    def memory(self) -> MemoryLedger:
        return MemoryLedger(
            genesis=self.cast.genesis,
            chain=self.chain,
            blocks=[FinalizedBlock(block=b, certificate=c) for b, c in self.blocks],
            state=self.app.state,
        )


def post_scores(ledger: Ledger, batch: int, *scores: int) -> PostScores:
    """Scores of a batch of the open round."""
    return PostScores(
        task=ledger.round.task,
        round=ledger.round.number,
        batch=batch,
        scores=scores,
        reference=blob_digest(b"reference"),
    )


@dataclass
class SmallNetwork:
    """The ledgers of two shards and the main chain, with their blobs."""

    cast: Cast
    ledgers: dict[ChainId, Ledger]
    devices: dict[ChainId, list[SecretKey]]
    blobs: dict[Digest, bytes] = field(default_factory=dict)

    @property
    def main(self) -> Ledger:
        return self.ledgers[MAIN_CHAIN]

    def put(self, blob: bytes) -> Digest:
        digest = blob_digest(blob)
        self.blobs[digest] = blob
        return digest

    def make_commits(self, shard: ChainId) -> list[Commit]:
        """A real payload of each device, in order of the keys."""
        ledger, task = self.ledgers[shard], self.cast.genesis.task
        commits: list[Commit] = []
        for index, device in enumerate(self.devices[shard]):
            rng = np.random.default_rng([ledger.round.number, index, len(shard), ord(shard[-1])])
            delta = quantize(
                rng.normal(0, 0.1, task.num_parameters).astype(np.float32),
                tensor_sizes=task.tensor_sizes,
                bits=task.codec.bits,
                rng=rng,
                fraction_bits=task.fraction_bits,
            )
            payload = encode_payload(delta)
            self.put(payload)
            commits.append(ledger.commit(device, payload, num_examples=10 + index))
        return sorted(commits, key=lambda commit: commit.device)

    def train_round(self, shard: ChainId, *, model: bytes | None = None) -> None:
        """Run the open round to its end; `model` is attested in place of the right one."""
        ledger, task = self.ledgers[shard], self.cast.genesis.task
        keys = ledger.committee_keys
        number = ledger.round.number
        commits = self.make_commits(shard)
        ledger.accepted(
            ledger.sign(keys[0], CommitUpdates(round=number, commits=tuple(commits[:3]))),
            ledger.sign(keys[1], CommitUpdates(round=number, commits=tuple(commits[3:]))),
        )
        assert ledger.round.phase is RoundPhase.SCORE
        del self.blobs[commits[0].payload]
        scores = [
            [UNAVAILABLE if row < 2 else 900, 5_000 + 100 * row, -300 if row < 3 else 4_000]
            for row in range(len(keys))
        ]
        ledger.accepted(
            *(
                ledger.sign(entry, post_scores(ledger, 0, *scores[row]))
                for row, entry in enumerate(keys)
            ),
            *(
                ledger.sign(entry, post_scores(ledger, 1, 7_000, 10 * row))
                for row, entry in enumerate(keys)
            ),
        )
        round_ = ledger.round
        assert round_.phase is RoundPhase.ATTEST
        assert round_.num_accepted == 3
        right = compute_round_model(
            task,
            base=round_.base,
            accepted=[commits[1], *commits[3:]],
            correction=round_.correction,
            fetch=self.blobs.__getitem__,
        )
        digest = self.put(right if model is None else model)
        ledger.accepted(
            *(ledger.sign(entry, AttestModel(round=number, model=digest)) for entry in keys[:3])
        )
        ledger.require_closed(number, model=digest)
        hand_over(ledger)

    def skip_round(self, shard: ChainId) -> None:
        """Let the open round pass without an update."""
        ledger = self.ledgers[shard]
        round_ = ledger.round
        ledger.block(after_ms=self.cast.genesis.task.collect_ms)
        ledger.require_closed(round_.number, model=round_.base)

    def settle(self, shard: ChainId) -> None:
        """Emit, sign and post the due checkpoint."""
        ledger = self.ledgers[shard]
        ledger.block()
        record = ledger.app.state.get(SHARD, SHARD_KEY)
        assert record is not None
        signed = ledger.app.state.get(CHECKPOINTS, checkpoint_key(record.checkpoints))
        assert signed is not None
        message = checkpoint_message(self.cast.network, signed.checkpoint)
        ledger.accepted(
            *(
                ledger.sign(
                    entry,
                    SignCheckpoint(
                        number=signed.checkpoint.number,
                        checkpoint=record.last_checkpoint,
                        signature=CheckpointSignature(
                            validator=entry.validator, signature=entry.sign(message)
                        ),
                    ),
                )
                for entry in ledger.keys_of(signed.checkpoint.epoch)[:3]
            )
        )
        signed = ledger.app.state.get(CHECKPOINTS, checkpoint_key(record.checkpoints))
        assert signed is not None
        main = self.main
        main.accepted(main.sign(self.cast.sponsor, PostCheckpoint(signed=signed)))

    def merge(self, *, model: bytes | None = None) -> None:
        """Attest the open merge of the main chain; `model` in place of the right one."""
        main = self.main
        (merge,) = [entry for _, entry in main.app.state.items(MERGES) if entry.model is None]
        right = compute_merged_model(
            self.cast.genesis.task, merge.inputs, fetch=self.blobs.__getitem__
        )
        digest = self.put(right if model is None else model)
        main.accepted(
            *(
                main.sign(
                    entry, AttestMerge(epoch=merge.epoch, model=digest, attempt=self.merge_attempt)
                )
                for entry in self.cast.all_validators
            )
        )
        hand_over(main)

    @property
    def merge_attempt(self) -> int:
        record = self.main.app.state.get(MAIN, MAIN_KEY)
        assert record is not None
        return record.merge_attempt

    def adoption(self, epoch: int) -> AdoptEpoch:
        """An epoch, as the block proves it that hands over to it."""
        return AdoptEpoch(update=epoch_update(self.main, epoch))

    def adopt(self, shard: ChainId, epoch: int) -> None:
        ledger = self.ledgers[shard]
        ledger.accepted(ledger.sign(self.cast.sponsor, self.adoption(epoch)))
        hand_over(ledger)

    def memory(self) -> dict[ChainId, MemoryLedger]:
        return {chain: ledger.memory() for chain, ledger in self.ledgers.items()}

    def write(self, path: Path) -> DataFolder:
        """A data folder as a gateway leaves it."""
        folder = DataFolder(path)
        path.mkdir(parents=True, exist_ok=True)
        genesis = encode_genesis(self.cast.genesis)
        folder.genesis.write_bytes(genesis)
        blobs = BlobStore(folder.blobs)
        every = list(self.blobs.values())
        for start in range(0, len(every), 4):
            blobs.put_all(every[start : start + 4])
        blobs.close()
        for chain, ledger in sorted(self.ledgers.items()):
            folder.chain(chain).mkdir()
            with LedgerStore.open(
                folder.ledger(chain), network=self.cast.network, chain=chain, genesis=genesis
            ) as store:
                for (block, certificate), changes, rotation in zip(
                    ledger.blocks, ledger.changes, ledger.rotations, strict=True
                ):
                    store.append(block, certificate, changes, rotation)
        return folder


def make_network(**task: object) -> SmallNetwork:
    """Two shards with enrolled devices, their first rounds open."""
    shards = [ChainId("shard-0"), ChainId("shard-1")]
    cast = make_cast(shards=shards, task=make_model_task(**task), balances=[("alice", 1_000)])
    network = SmallNetwork(
        cast=cast,
        ledgers={chain: Ledger(cast, chain) for chain in [MAIN_CHAIN, *shards]},
        devices={
            shard: [key(f"{shard}/device/{index}") for index in range(NUM_DEVICES)]
            for shard in shards
        },
    )
    network.put(PROGRAM)
    network.put(initial_model())
    for shard in shards:
        network.ledgers[shard].enrol(*network.devices[shard])
    return network


def train_network(network: SmallNetwork) -> SmallNetwork:
    """All rounds of both shards, with merges on time, late, and last."""
    first, second = ChainId("shard-0"), ChainId("shard-1")
    main = network.main
    main.accepted(
        main.sign(key("alice"), Transfer(recipient=key("bob").account, amount=Units(250)))
    )
    for shard in (first, second):
        network.train_round(shard)
        network.train_round(shard)
        network.settle(shard)
    network.merge()
    network.adopt(first, 1)
    # The other shard hears of the merge too late and moves by the difference.
    late = network.ledgers[second]
    late.block(after_ms=network.cast.genesis.parameters.merge_wait_ms)
    network.adopt(second, 1)
    for shard in (first, second):
        assert network.ledgers[shard].round.number == 3
        network.train_round(shard)
    network.skip_round(first)
    network.train_round(second)
    for shard in (first, second):
        network.settle(shard)
    network.merge()
    for shard in (first, second):
        network.adopt(shard, 2)
    return network
