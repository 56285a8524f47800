"""Following a shard: its rounds, the checkpoints that it emits, the epochs that it adopts."""

from dataclasses import dataclass

from headwater_protocol.chain.block import NO_DIGEST, header_digest
from headwater_protocol.chain.checkpoint import Checkpoint, Merge, checkpoint_digest
from headwater_protocol.chain.contribution import commit_contributions, list_contributions
from headwater_protocol.chain.epoch import Epoch
from headwater_protocol.chain.genesis import Genesis, genesis_network
from headwater_protocol.chain.market import SponsoredTask
from headwater_protocol.chain.round import Round
from headwater_protocol.chain.transaction import AdoptEpoch, AdoptTask
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.identifiers import ChainId, Digest, EpochNumber, Height, RoundNumber
from headwater_shard.audit.failure import Mismatch, require_equal
from headwater_shard.audit.readers import BlobReader
from headwater_shard.audit.replay import ReplayedBlock
from headwater_shard.audit.rounds import RoundAudit
from headwater_shard.shardchain.records import CHECKPOINTS, SHARD, SHARD_KEY
from headwater_shard.state.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptedEpoch:
    """An epoch as a shard took it over."""

    shard: ChainId
    height: Height
    """The shard's block that took it."""
    epoch: Epoch
    main_height: Height
    """The main chain's block that proved it."""
    main_block: Digest
    """Its header's digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    round: RoundNumber
    model: Digest
    num_examples: int


class ShardAudit:
    """One shard, up to the last block followed."""

    def __init__(
        self, *, genesis: Genesis, shard: ChainId, blobs: BlobReader, verifier: Verifier
    ) -> None:
        self._shard = shard
        self._task = genesis.task
        self._task_number = 1
        self._is_closing = False
        self._is_finished = False
        self._model = genesis.task.initial_model
        self._rounds_before = 0
        self._last_closed = 0
        self._interval = genesis.parameters.checkpoint_interval
        self._merges: dict[EpochNumber, Merge] = {}
        self._epochs = {EpochNumber(0): genesis.epoch()}
        self._term = EpochNumber(0)
        self._due: _Due | None = None
        self._last_digest = NO_DIGEST
        self._num_examples = 0
        self.rounds = RoundAudit(
            network=genesis_network(genesis),
            shard=shard,
            task=genesis.task,
            blobs=blobs,
            verifier=verifier,
        )
        self.checkpoints: list[Checkpoint] = []
        """Emitted, in order."""
        self.adopted: list[AdoptedEpoch] = []
        """In order of adoption."""

    def follow(self, block: ReplayedBlock) -> None:
        """Check the next block.

        Raises:
            HeadwaterError: Says what does not hold.
        """
        self._take_checkpoint(block)
        for transaction in block.transactions:
            if isinstance(transaction.body, AdoptEpoch):
                self._adopt(block, transaction.body)
            elif isinstance(transaction.body, AdoptTask):
                self._take_task(transaction.body.entry)
        for round_ in self.rounds.follow(block, self._merges):
            self._close(round_)
        self._require_committee(block)
        self._finish_early(block)

    def finish(self, state: State) -> None:
        """Check the sums at the end of the ledger.

        Raises:
            HeadwaterError: Says what does not hold.
        """
        self.rounds.finish(state)

    def _take_task(self, entry: SponsoredTask) -> None:
        self._is_closing = entry.is_closing
        if entry.number == self._task_number:
            return
        self._task, self._task_number = entry.task, entry.number
        self._model, self._is_finished = entry.task.initial_model, False
        self._rounds_before = self._last_closed
        self.rounds.begin_task(self._task)

    def _finish_early(self, block: ReplayedBlock) -> None:
        """A closed task is finished where no round is open."""
        record = block.state.get(SHARD, SHARD_KEY)
        has_open_round = record is not None and record.last_round > self._last_closed
        if not self._is_closing or self._is_finished or has_open_round:
            return
        self._is_finished = True
        self._due = _Due(
            round=RoundNumber(self._last_closed),
            model=self._model,
            num_examples=self._num_examples,
        )
        self._num_examples = 0

    def _adopt(self, block: ReplayedBlock, body: AdoptEpoch) -> None:
        epoch, header = body.update.epoch, body.update.header
        item = f"epoch {epoch.epoch}"
        last = max(self._epochs)
        if epoch.epoch == last:
            require_equal(
                "record", found=epoch, expected=self._epochs[last], by="the first proof", item=item
            )
        else:
            require_equal("number", found=epoch.epoch, expected=last + 1, by="order", item=item)
            if epoch.merge is None:
                raise Mismatch("starts without a merged model", item=item)
            self._epochs[epoch.epoch] = epoch
            self._merges[epoch.epoch] = epoch.merge
        self.adopted.append(
            AdoptedEpoch(
                shard=self._shard,
                height=block.header.height,
                epoch=epoch,
                main_height=header.height,
                main_block=header_digest(header),
            )
        )

    def _require_committee(self, block: ReplayedBlock) -> None:
        """Who is in office is who the adopted epoch names, and changes only between rounds."""
        record = block.state.get(SHARD, SHARD_KEY)
        if record is None:
            raise Mismatch("the shard's record is missing")
        epoch = self._epochs.get(record.epoch)
        if epoch is None or record.committee != epoch.committee_of(self._shard):
            raise Mismatch(f"its committee is not that of epoch {record.epoch}")
        if record.epoch != self._term and self._due is not None:
            raise Mismatch("its committee changed before the last checkpoint was made")
        self._term = record.epoch

    def _close(self, round_: Round) -> None:
        if round_.model is None:
            raise Mismatch("closed without a model", item=f"round {round_.number}")
        self._last_closed, self._model = round_.number, round_.model
        if round_.model != round_.base:
            self._num_examples += round_.num_examples
        is_last = self._is_closing or round_.number - self._rounds_before >= self._task.rounds
        self._is_finished = is_last
        if is_last or round_.number % self._interval == 0:
            self._due = _Due(
                round=round_.number, model=round_.model, num_examples=self._num_examples
            )
            self._num_examples = 0

    def _take_checkpoint(self, block: ReplayedBlock) -> None:
        """A checkpoint stands in the block after the round that made it due, and nowhere else."""
        number = len(self.checkpoints) + 1
        emitted = [
            signed.checkpoint
            for key in sorted(block.changes.get(CHECKPOINTS.namespace, {}))
            if (signed := block.state.get(CHECKPOINTS, key)) is not None
            and signed.checkpoint.number >= number
        ]
        if self._due is None:
            if emitted:
                raise Mismatch("was not due", item=f"checkpoint {emitted[0].number}")
            return
        due, parent = self._due, block.parent
        if len(emitted) != 1 or parent is None:
            raise Mismatch("was due and is not there", item=f"checkpoint {number}")
        checkpoint = emitted[0]
        last_merged = self.checkpoints[-1].merged if self.checkpoints else EpochNumber(0)
        for what, found, expected in (
            ("shard", checkpoint.shard, self._shard),
            ("number", checkpoint.number, number),
            ("previous", checkpoint.previous, self._last_digest),
            ("height", checkpoint.height, parent.height),
            ("state root", checkpoint.state_root, parent.state_root),
            ("epoch", checkpoint.epoch, self._term),
            ("round", checkpoint.round, due.round),
            ("model", checkpoint.model, due.model),
            ("examples", checkpoint.num_examples, due.num_examples),
            (
                "contributions",
                checkpoint.contributions,
                commit_contributions(list_contributions(self.rounds.balances.items())),
            ),
            ("is_final", checkpoint.is_final, self._is_finished),
        ):
            require_equal(
                what,
                found=found,
                expected=expected,
                by="recomputation",
                item=f"checkpoint {number}",
            )
        if not last_merged <= checkpoint.merged <= max(self._merges, default=0):
            raise Mismatch(
                f"merge {checkpoint.merged} after {last_merged}, "
                f"with merges up to {max(self._merges, default=0)} adopted",
                item=f"checkpoint {number}",
            )
        self.checkpoints.append(checkpoint)
        self._last_digest = checkpoint_digest(checkpoint)
        self._due = None
