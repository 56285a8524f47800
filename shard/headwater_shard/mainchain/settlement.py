"""Settling a shard's checkpoint: signatures, height and link, or a refusal with its reason."""

from dataclasses import replace

from headwater_protocol.chain.checkpoint import (
    MAX_EPOCH_EXAMPLES,
    checkpoint_digest,
    verify_checkpoint,
)
from headwater_protocol.chain.transaction import PostCheckpoint
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.identifiers import Network
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.border import BlockContext
from headwater_shard.mainchain.market.models import register_settled_model
from headwater_shard.mainchain.market.tasks import settle_task
from headwater_shard.mainchain.records import (
    CHECKPOINTS,
    MAIN,
    MAIN_KEY,
    SHARDS,
    checkpoint_key,
    shard_key,
)
from headwater_shard.mainchain.staking.election import get_shard_committee
from headwater_shard.state.draft import Draft
from headwater_shard.transition import InvalidTransaction


def process_checkpoint(
    draft: Draft, network: Network, body: PostCheckpoint, context: BlockContext, verifier: Verifier
) -> None:
    """Record a checkpoint.

    Only a checkpoint whose model was made from the current epoch's base counts for the next merge,
    and a shard's last one; another older one still settles, since a shard goes on when the main
    chain is away. What settles while a merge is open waits for the next attempt at it.

    Raises:
        InvalidMessage: If the shard is unknown, the checkpoint is there already, does not follow
            the last one, goes back in height or epoch, is of an epoch to come, or is not signed
            by more than two thirds of the power of the committee that it names.
    """
    checkpoint = body.signed.checkpoint
    main = draft.get_existing(MAIN, MAIN_KEY)
    entry = draft.get(SHARDS, shard_key(checkpoint.shard))
    if entry is None:
        raise InvalidTransaction(
            ReasonCode.WRONG_SHARD, f"shard {checkpoint.shard} is not registered"
        )
    if checkpoint.number <= entry.number:
        recorded = draft.get(CHECKPOINTS, checkpoint_key(checkpoint.shard, checkpoint.number))
        is_same = recorded is not None and recorded.checkpoint == checkpoint
        raise InvalidTransaction(
            ReasonCode.DUPLICATE if is_same else ReasonCode.BROKEN_LINK,
            f"checkpoint {checkpoint.number} after {entry.number}",
        )
    if checkpoint.number != entry.number + 1 or checkpoint.previous != entry.last_checkpoint:
        raise InvalidTransaction(
            ReasonCode.BROKEN_LINK,
            f"checkpoint {checkpoint.number} does not follow {entry.number}",
        )
    if entry.is_final:
        raise InvalidTransaction(ReasonCode.OUT_OF_BOUNDS, "the shard's task is finished")
    if checkpoint.height <= entry.height:
        raise InvalidTransaction(
            ReasonCode.OUT_OF_BOUNDS, f"height {checkpoint.height} after {entry.height}"
        )
    for found, lowest in ((checkpoint.epoch, entry.epoch), (checkpoint.merged, entry.merged)):
        if not lowest <= found <= main.epoch:
            raise InvalidTransaction(
                ReasonCode.WRONG_EPOCH, f"epoch {found}, allowed {lowest} to {main.epoch}"
            )
    committee = get_shard_committee(draft, checkpoint.epoch, checkpoint.shard)
    if committee is None:
        raise InvalidTransaction(
            ReasonCode.WRONG_SHARD, f"nobody serves {checkpoint.shard} in {checkpoint.epoch}"
        )
    verify_checkpoint(body.signed, network=network, committee=committee, verifier=verifier)
    is_mergeable = checkpoint.merged == main.epoch or checkpoint.is_final
    counts, is_late = is_mergeable and not main.is_merging, is_mergeable and main.is_merging
    # Capped, since a dishonest shard may claim any number, and the sum must fit every store.
    claimed = entry.epoch_examples + (checkpoint.num_examples if counts else 0)
    claimed_late = entry.late_examples + (checkpoint.num_examples if is_late else 0)
    draft.put(CHECKPOINTS, checkpoint_key(checkpoint.shard, checkpoint.number), body.signed)
    draft.put(
        SHARDS,
        shard_key(checkpoint.shard),
        replace(
            entry,
            number=checkpoint.number,
            last_checkpoint=checkpoint_digest(checkpoint),
            height=checkpoint.height,
            epoch=checkpoint.epoch,
            merged=checkpoint.merged,
            model=checkpoint.model,
            epoch_checkpoints=entry.epoch_checkpoints + counts,
            epoch_examples=min(claimed, MAX_EPOCH_EXAMPLES),
            is_final=checkpoint.is_final,
            late_checkpoints=entry.late_checkpoints + is_late,
            late_examples=min(claimed_late, MAX_EPOCH_EXAMPLES),
        ),
    )
    settle_task(draft, checkpoint)
    register_settled_model(draft, checkpoint)
    if counts and main.epoch_started_ms == 0:
        draft.put(MAIN, MAIN_KEY, replace(main, epoch_started_ms=context.time_ms))
