"""Following the main chain: its supply, checkpoints, merges, and the epochs that they begin."""

from collections.abc import Mapping, Sequence

from headwater_protocol.chain.block import NO_DIGEST
from headwater_protocol.chain.checkpoint import (
    MAX_EPOCH_EXAMPLES,
    Checkpoint,
    Merge,
    MergeInput,
    checkpoint_digest,
)
from headwater_protocol.chain.committee import committee_digest
from headwater_protocol.chain.epoch import Epoch, epoch_key
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.chain.transaction import AttestMerge, PostCheckpoint
from headwater_protocol.crypto.hashing import Domain, blob_digest, hash_bytes
from headwater_protocol.identifiers import ChainId, Digest, EpochNumber, Height, ValidatorId
from headwater_shard.audit.failure import AuditFailure, Mismatch, require_equal
from headwater_shard.audit.readers import BlobReader
from headwater_shard.audit.replay import ReplayedBlock
from headwater_shard.audit.shard import AdoptedEpoch, ShardAudit
from headwater_shard.mainchain.late import find_correction
from headwater_shard.mainchain.market.tasks import get_last_task
from headwater_shard.mainchain.records import CANDIDATES, EPOCHS, MAIN, MAIN_KEY, MERGES
from headwater_shard.mainchain.staking.shuffle import deal_committees
from headwater_shard.mainchain.supply import HOLDINGS, compute_supply
from headwater_shard.round_model import compute_merged_model
from headwater_shard.state.state import State


class MainAudit:
    """The main chain, up to the last block followed, beside the shards that were audited before."""

    def __init__(
        self, *, genesis: Genesis, blobs: BlobReader, shards: Mapping[ChainId, ShardAudit]
    ) -> None:
        self._blobs = blobs
        self._shards = shards
        self._supply = sum(entry.balance for entry in genesis.accounts) + sum(
            entry.stake for entry in genesis.validators
        )
        self._settled: dict[ChainId, Checkpoint] = {}
        self._in_epoch: dict[ChainId, list[Checkpoint]] = {}
        self._late: dict[ChainId, list[Checkpoint]] = {}
        """Settled while a merge was open."""
        self._attempt = 0
        self._attestations: dict[ValidatorId, Digest] = {}
        self._open: Merge | None = None
        self._epoch = EpochNumber(0)
        self._last_epoch = genesis.epoch()
        self._elected: Epoch | None = None
        self._wanted: dict[Height, list[AdoptedEpoch]] = {}
        for shard in sorted(shards):
            for adopted in shards[shard].adopted:
                self._wanted.setdefault(adopted.main_height, []).append(adopted)
        self.num_checkpoints = 0
        """Settled."""
        self.num_compared = 0
        """Of these, found on the ledgers of their shards."""
        self.model: Digest | None = None
        """Of the last merge."""

    @property
    def num_merges(self) -> int:
        """Merges recomputed."""
        return self._epoch

    def follow(self, block: ReplayedBlock) -> None:
        """Check the next block.

        Raises:
            HeadwaterError: Says what does not hold.
        """
        self._require_handover(block)
        if any(namespace in block.changes for namespace in HOLDINGS):
            require_equal("supply", found=compute_supply(block.state), expected=self._supply)
        # The ledger executes a block's transactions before it opens or completes a merge.
        for transaction in block.transactions:
            body = transaction.body
            if isinstance(body, PostCheckpoint):
                self._settle(body.signed.checkpoint)
            elif isinstance(body, AttestMerge):
                self._attestations[ValidatorId(transaction.sender)] = body.model
        self._follow_attempt(block.state)
        for key in sorted(block.changes.get(MERGES.namespace, {})):
            merge = block.state.get(MERGES, key)
            if merge is None:
                raise Mismatch(f"merge {int.from_bytes(key, 'big')} is gone from the ledger")
            if merge.model is None:
                self._require_opened(block.state, merge)
            else:
                self._require_completed(block, merge, merge.model)
        for adopted in self._wanted.pop(block.header.height, ()):
            _require_adopted(block, adopted)

    def _require_handover(self, block: ReplayedBlock) -> None:
        """The block after an election hands over to the elected, and no other block to anybody."""
        expected, self._elected = self._elected, None
        found = block.header.next_committee
        if expected is None:
            require_equal("next_committee", found=found, expected=block.header.committee)
        else:
            require_equal(
                "next_committee",
                found=found,
                expected=committee_digest(expected.committee),
                by="the election",
                item=f"epoch {expected.epoch}",
            )

    def finish(self, state: State) -> None:
        """Check the sums at the end, and that nothing was adopted that is not here.

        Raises:
            HeadwaterError: Says what does not hold.
        """
        require_equal("supply", found=compute_supply(state), expected=self._supply)
        for main_height in sorted(self._wanted):
            adopted = self._wanted[main_height][0]
            raise AuditFailure(
                f"adopted from block {main_height} of the main chain, which ends before it here",
                chain=adopted.shard,
                height=adopted.height,
                item=f"epoch {adopted.epoch.epoch}",
            )

    def _settle(self, checkpoint: Checkpoint) -> None:
        shard, last = checkpoint.shard, self._settled.get(checkpoint.shard)
        item = f"checkpoint {checkpoint.number} of {shard}"
        for what, found, expected in (
            ("number", checkpoint.number, 1 if last is None else last.number + 1),
            (
                "previous",
                checkpoint.previous,
                NO_DIGEST if last is None else checkpoint_digest(last),
            ),
        ):
            require_equal(what, found=found, expected=expected, by="the order", item=item)
        if last is not None and checkpoint.height <= last.height:
            raise Mismatch(f"height {checkpoint.height} after {last.height}", item=item)
        for what, found, lowest in (
            ("epoch", checkpoint.epoch, 0 if last is None else last.epoch),
            ("merge", checkpoint.merged, 0 if last is None else last.merged),
        ):
            if not lowest <= found <= self._epoch:
                raise Mismatch(f"{what} {found}, merges made {self._epoch}", item=item)
        audited = self._shards.get(shard)
        if audited is not None:
            _require_emitted(checkpoint, audited.checkpoints, item=item)
            self.num_compared += 1
        self._settled[shard] = checkpoint
        self.num_checkpoints += 1
        if checkpoint.merged == self._epoch or checkpoint.is_final:
            counted = self._in_epoch if self._open is None else self._late
            counted.setdefault(shard, []).append(checkpoint)

    def _follow_attempt(self, state: State) -> None:
        """What a merge that found no majority is opened with again."""
        main = state.get(MAIN, MAIN_KEY)
        attempt = 0 if main is None else main.merge_attempt
        if attempt > self._attempt:
            self._attestations = {}
            for shard, checkpoints in self._late.items():
                self._in_epoch.setdefault(shard, []).extend(checkpoints)
            self._late = {}
        self._attempt = attempt

    def _require_opened(self, state: State, merge: Merge) -> None:
        item = f"merge {merge.epoch}"
        inputs = tuple(
            MergeInput(
                shard=shard,
                checkpoint=checkpoint_digest(self._settled[shard]),
                model=self._settled[shard].model,
                num_examples=min(
                    sum(entry.num_examples for entry in self._in_epoch[shard]),
                    MAX_EPOCH_EXAMPLES,
                ),
                correction=find_correction(
                    state,
                    shard,
                    merged=self._settled[shard].merged,
                    epoch=EpochNumber(self._epoch),
                ),
            )
            for shard in sorted(self._in_epoch)
        )
        require_equal("number", found=merge.epoch, expected=self._epoch + 1, by="order", item=item)
        require_equal("inputs", found=merge.inputs, expected=inputs, by="recomputation", item=item)
        self._open = merge
        self._attestations = {}

    def _require_completed(self, block: ReplayedBlock, merge: Merge, model: Digest) -> None:
        item = f"merge {merge.epoch}"
        if self._open is None or merge.inputs != self._open.inputs:
            raise Mismatch("its inputs are not those with which it was opened", item=item)
        attesters = [key for key, digest in self._attestations.items() if digest == model]
        block.committee.require_quorum(block.committee.power_of_all(attesters))
        task = get_last_task(block.state).task
        computed = compute_merged_model(task, merge.inputs, fetch=self._blobs.get)
        require_equal(
            "model", found=model, expected=blob_digest(computed), by="recomputation", item=item
        )
        if model not in self._blobs:
            raise Mismatch(f"its model, blob {model.hex()}, is missing", item=item)
        self._open, self._epoch, self.model = None, merge.epoch, model
        self._in_epoch = {
            shard: checkpoints
            for shard, checkpoints in self._late.items()
            if checkpoints[-1].is_final
        }
        self._late = {}
        self._require_begun(block, merge)

    def _require_begun(self, block: ReplayedBlock, merge: Merge) -> None:
        """The epoch that a merge begins: who was elected, by what stake, dealt by which seed."""
        item = f"epoch {merge.epoch}"
        epoch = block.state.get(EPOCHS, epoch_key(merge.epoch))
        if epoch is None:
            raise Mismatch("is not on the ledger", item=item)
        seed = hash_bytes(Domain.SEED, block.header.last_certificate, epoch_key(merge.epoch))
        for what, found, expected in (
            ("number", epoch.epoch, merge.epoch),
            ("merge", epoch.merge, merge),
            ("seed", epoch.seed, seed),
            ("start height", epoch.start_height, block.header.height + 1),
            ("start time", epoch.start_ms, block.header.time_ms),
        ):
            require_equal(what, found=found, expected=expected, by="recomputation", item=item)
        if epoch.shards != self._last_epoch.shards:
            self._require_elected(block.state, epoch, item)
        self._last_epoch = self._elected = epoch

    def _require_elected(self, state: State, epoch: Epoch, item: str) -> None:
        elected = {entry.validator: entry.voting_power for entry in epoch.committee.delegates}
        for validator, power in elected.items():
            candidate = state.get(CANDIDATES, validator)
            if candidate is None or candidate.bonded != power:
                raise Mismatch(
                    f"the power of {validator.hex()[:16]} is not what is bonded", item=item
                )
        dealt = deal_committees(
            {entry.shard: entry.committee for entry in self._last_epoch.shards}, elected, epoch.seed
        )
        found = {entry.shard: entry.committee for entry in epoch.shards}
        require_equal("shards", found=found, expected=dealt, by="recomputation", item=item)


def _require_emitted(checkpoint: Checkpoint, emitted: Sequence[Checkpoint], *, item: str) -> None:
    if checkpoint.number > len(emitted):
        raise Mismatch(
            f"made at block {checkpoint.height}, and the shard's ledger here has "
            f"{len(emitted)} checkpoints",
            item=item,
        )
    own = emitted[checkpoint.number - 1]
    if own != checkpoint:
        raise Mismatch(
            f"state root {checkpoint.state_root.hex()[:16]}… of block {checkpoint.height} is not "
            f"the shard's, {own.state_root.hex()[:16]}… of block {own.height}",
            item=item,
        )


def _require_adopted(block: ReplayedBlock, adopted: AdoptedEpoch) -> None:
    """Check a shard's epoch against the main chain's block that proved it."""
    problem = None
    if block.digest != adopted.main_block:
        problem = f"proven by another block {adopted.main_height} than the main chain has here"
    elif block.state.get(EPOCHS, epoch_key(adopted.epoch.epoch)) != adopted.epoch:
        problem = "differs from the main chain's"
    if problem is not None:
        raise AuditFailure(
            problem,
            chain=adopted.shard,
            height=adopted.height,
            item=f"epoch {adopted.epoch.epoch}",
        )
