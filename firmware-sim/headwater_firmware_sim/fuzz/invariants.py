"""The invariants I1 to I15 of docs/ARCHITECTURE.md, looked at from outside after every block.

A follower of each chain executes every block again, without the executions that the replicas share,
so that what the run believes is compared with what the blocks say.
"""

from headwater_firmware_sim.fuzz.economy import EconomyInvariants
from headwater_firmware_sim.fuzz.violation import Violation, require
from headwater_firmware_sim.virtual.chain import ChainNode
from headwater_firmware_sim.virtual.run import VirtualRun
from headwater_gateway.machine.publisher import FinalizedTip
from headwater_protocol.chain.block import header_digest
from headwater_protocol.chain.checkpoint import Checkpoint, checkpoint_digest
from headwater_protocol.chain.claim import Commit
from headwater_protocol.chain.epoch import epoch_key
from headwater_protocol.chain.round import Round, RoundPhase
from headwater_protocol.chain.statement import SignedVote
from headwater_protocol.chain.transaction import CommitUpdates, PostCheckpoint, decode_transaction
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.errors import InvalidMessage
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    ChainId,
    DeviceId,
    Digest,
    EpochNumber,
    RoundNumber,
    ValidatorId,
)
from headwater_protocol.messages.announcement import round_key
from headwater_protocol.messages.receipt import Stage, decode_receipt
from headwater_protocol.messages.topics import TopicKind, parse_topic
from headwater_protocol.messages.update import decode_update
from headwater_protocol.reasons import ReasonCode
from headwater_shard.application import LedgerApplication, make_ledger
from headwater_shard.engine.bft.history import FinalizedBlock
from headwater_shard.engine.bft.messages import Message
from headwater_shard.engine.bft.validation import make_context
from headwater_shard.mainchain.records import MAIN, MAIN_KEY, MERGES
from headwater_shard.mainchain.supply import compute_supply
from headwater_shard.round_model import compute_merged_model, compute_round_model
from headwater_shard.shardchain.records import (
    BATCHES,
    REWARDS,
    ROUNDS,
    SHARD,
    SHARD_KEY,
    UPDATES,
    batch_key,
    update_key,
)
from headwater_shard.state.state import State


class Invariants:
    """Watches one run; raises the first violation."""

    def __init__(self) -> None:
        self._run: VirtualRun | None = None
        self._liars: frozenset[ValidatorId] = frozenset()
        self._blocks: dict[tuple[ChainId, int], Digest] = {}
        self._roots: dict[tuple[ChainId, int], Digest] = {}
        self._seen: dict[int, int] = {}
        self._followers: dict[ChainId, LedgerApplication] = {}
        self._commits: dict[tuple[ChainId, RoundNumber, DeviceId], Digest] = {}
        self._updates: dict[tuple[DeviceId, RoundNumber], Digest] = {}
        self._votes: dict[tuple[object, ...], Digest | None] = {}
        self._rounds: dict[ChainId, int] = {}
        self._paid: dict[ChainId, int] = {}
        self._checkpoints: dict[ChainId, Digest] = {}
        self._merges = 0
        self._supply = 0
        self._economy: EconomyInvariants | None = None
        self.num_blocks = 0

    def watch(self, run: VirtualRun) -> None:
        """Begin with a run that has not started."""
        self._run = run
        genesis = run.stage.plan.genesis
        for chain in (MAIN_CHAIN, *genesis.shards):
            self._followers[chain] = LedgerApplication(
                make_ledger(genesis, chain), run.world.verifier
            )
        start = self._followers[MAIN_CHAIN].state
        self._supply = compute_supply(start)
        self._economy = EconomyInvariants(run, start)
        self._liars = run.liars
        run.world.broker.taps.append(self.on_publish)

    def on_block(self, node: ChainNode, _: FinalizedTip) -> None:
        """A gateway finalized one or more blocks."""
        first = self._seen.get(id(node), 0)
        for final in node.disk.blocks[first:]:
            self._follow(node.chain, final)
        self._seen[id(node)] = len(node.disk.blocks)

    def on_message(self, sender: ValidatorId, message: Message) -> None:
        """A delegate says something to another one."""
        if not isinstance(message, SignedVote) or sender in self._liars:
            return
        vote = message.vote
        key = (message.validator, vote.chain, vote.height, vote.view, vote.kind)
        known = self._votes.setdefault(key, vote.block)
        require("I11", known == vote.block, f"{sender.hex()[:8]} voted twice: {vote}")

    def on_publish(self, topic: str, payload: bytes) -> None:
        """The broker takes a message."""
        try:
            parsed = parse_topic(topic)
            if parsed.kind is TopicKind.UPDATE:
                update = decode_update(payload)
                digest = blob_digest(update.payload)
                known = self._updates.setdefault((update.device, update.round), digest)
                require("I10", known == digest, f"{topic} has two updates of round {update.round}")
            elif parsed.kind is TopicKind.RECEIPT:
                receipt = decode_receipt(payload).receipt
                if receipt.stage is Stage.INTAKE and receipt.reason is ReasonCode.OK:
                    held = self._commits.get((parsed.shard, receipt.round, receipt.device))
                    require(
                        "I9",
                        held == receipt.payload,
                        f"{topic} has a receipt for round {receipt.round}, the ledger no update",
                    )
        except InvalidMessage as error:
            raise Violation("encoding", f"{topic}: {error}") from error

    # One new block

    def _follow(self, chain: ChainId, final: FinalizedBlock) -> None:
        header = final.block.header
        digest = header_digest(header)
        key = (chain, header.height)
        known = self._blocks.setdefault(key, digest)
        require("I1", known == digest, f"{chain} has two blocks of height {header.height}")
        follower = self._followers[chain]
        if follower.height >= header.height:
            return
        self.num_blocks += 1
        context = make_context(final.block)
        execution = follower.finalize_block(context)
        require(
            "I2",
            execution.state_root == header.state_root,
            f"{chain} block {header.height} replays to another root",
        )
        follower.commit(context)
        self._roots[key] = header.state_root
        for data, outcome in zip(final.block.transactions, execution.outcomes, strict=True):
            if outcome.reason is ReasonCode.OK:
                self._follow_body(chain, data)
        if chain == MAIN_CHAIN:
            self._check_main(follower.state)
        else:
            self._check_shard(chain, follower.state)

    def _follow_body(self, chain: ChainId, data: bytes) -> None:
        body = decode_transaction(data).transaction.body
        if isinstance(body, CommitUpdates):
            for commit in body.commits:
                key = (chain, body.round, commit.device)
                require("I4", key not in self._commits, f"two updates of one device: {key}")
                self._commits[key] = commit.payload
        elif isinstance(body, PostCheckpoint):
            self._check_checkpoint(body.signed.checkpoint)

    def _check_checkpoint(self, checkpoint: Checkpoint) -> None:
        shard = checkpoint.shard
        root = self._roots.get((shard, checkpoint.height))
        require(
            "I7",
            root == checkpoint.state_root,
            f"{shard} checkpoint {checkpoint.number} has no root of height {checkpoint.height}",
        )
        last = self._checkpoints.get(shard, Digest(bytes(32)))
        require(
            "I7", last == checkpoint.previous, f"{shard} checkpoint {checkpoint.number} is not next"
        )
        self._checkpoints[shard] = checkpoint_digest(checkpoint)

    def _check_main(self, state: State) -> None:
        supply = compute_supply(state)
        require("I3", supply == self._supply, f"supply went from {self._supply} to {supply}")
        main, run = state.get(MAIN, MAIN_KEY), self._run
        if main is None or run is None:
            return
        for epoch in range(self._merges + 1, main.epoch + 1):
            merge = state.get(MERGES, epoch_key(EpochNumber(epoch)))
            if merge is not None and merge.model is not None:
                task = run.stage.plan.genesis.task
                model = compute_merged_model(task, merge.inputs, fetch=run.blobs.get)
                require(
                    "I8", blob_digest(model) == merge.model, f"merge {epoch} is not its inputs'"
                )
        self._merges = main.epoch
        if self._economy is not None:
            self._economy.check(state)

    def _check_shard(self, chain: ChainId, state: State) -> None:
        record = state.get(SHARD, SHARD_KEY)
        if record is None:
            return
        if self._economy is not None:
            main = self._followers[MAIN_CHAIN].state
            self._economy.check_shard(main, chain, record.epoch, record.committee)
        for number in range(self._rounds.get(chain, 0) + 1, record.last_round + 1):
            round_ = state.get(ROUNDS, round_key(RoundNumber(number)))
            if round_ is None or round_.phase is not RoundPhase.CLOSED:
                break
            self._rounds[chain] = number
            self._check_model(chain, state, round_)
            self._check_rewards(chain, state, round_)

    def _check_model(self, chain: ChainId, state: State, round_: Round) -> None:
        run = self._run
        if run is None or round_.model in {None, round_.base}:
            return
        task = run.stage.plan.genesis.task
        accepted = _accepted(state, round_) if round_.num_accepted >= task.min_updates else []
        model = compute_round_model(
            task,
            base=round_.base,
            accepted=accepted,
            correction=round_.correction,
            fetch=run.blobs.get,
        )
        require(
            "I5",
            blob_digest(model) == round_.model,
            f"{chain} round {round_.number} has a model that its updates do not make",
        )

    def _check_rewards(self, chain: ChainId, state: State, round_: Round) -> None:
        run = self._run
        if run is None:
            return
        budget = run.stage.plan.genesis.task.round_budget
        require(
            "I6",
            round_.paid <= budget,
            f"{chain} round {round_.number} pays {round_.paid} of a budget of {budget}",
        )
        total = sum(balance.total for _, balance in state.items(REWARDS))
        before = self._paid.get(chain, 0)
        require(
            "I6",
            total - before == round_.paid,
            f"{chain} round {round_.number} says {round_.paid} and pays {total - before}",
        )
        self._paid[chain] = total


def _accepted(state: State, round_: Round) -> list[Commit]:
    accepted: list[Commit] = []
    for index in range(round_.num_batches):
        batch = state.get(BATCHES, batch_key(round_.number, index))
        for commit in () if batch is None else batch.commits:
            entry = state.get(UPDATES, update_key(round_.number, commit.device))
            if entry is not None and entry.reason is ReasonCode.OK:
                accepted.append(commit)
    return accepted
