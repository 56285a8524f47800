"""Which blobs the ledgers still need: what a gateway repairs, and what it never evicts.

A payload is settled when its round is under a settled checkpoint, and is kept for a few rounds
more, while somebody may still say that it was withheld. Models that anybody may ask for stay: the
last of each shard, what is being merged, and every version that is for sale or was sold. A blob
that no ledger names is nobody's need; what was stored a moment ago is for the caller to spare.
"""

from collections.abc import Iterator
from typing import Final

from headwater_protocol.chain.epoch import epoch_key
from headwater_protocol.identifiers import ChainId, Digest, EpochNumber, RoundNumber
from headwater_protocol.messages.announcement import round_key
from headwater_shard.mainchain.market.records import MODELS, TASKS
from headwater_shard.mainchain.records import (
    CHECKPOINTS,
    MAIN,
    MAIN_KEY,
    MERGES,
    SHARDS,
    checkpoint_key,
    shard_key,
)
from headwater_shard.shardchain.records import BATCHES, ROUNDS, SHARD, SHARD_KEY, batch_key
from headwater_shard.state.state import State

KEPT_ROUNDS: Final = 4
"""Closed rounds whose payloads stay, settled or not."""


def needed_of_main(main: State) -> Iterator[Digest]:
    """Programs, initial models, the shards' last models, merges, and versions on the market."""
    for _, sponsored in main.sorted_items(TASKS):
        yield sponsored.task.program
        yield sponsored.task.initial_model
    for _, entry in main.sorted_items(SHARDS):
        yield entry.model
    for model, version in main.sorted_items(MODELS):
        if version.price is not None or version.sales:
            yield Digest(model)
    chain = main.get(MAIN, MAIN_KEY)
    if chain is None:
        return
    for number in (chain.epoch, chain.epoch + 1):
        merge = main.get(MERGES, epoch_key(EpochNumber(number)))
        if merge is not None:
            for merged in merge.inputs:
                yield merged.model
                if merged.correction is not None:
                    yield merged.correction.reference
            if merge.model is not None:
                yield merge.model


def needed_of_shard(shard: State, main: State) -> Iterator[Digest]:
    """Models and payloads of the rounds that are open, unsettled or closed a moment ago."""
    record = shard.get(SHARD, SHARD_KEY)
    if record is None:
        return
    yield record.model
    yield record.reference
    if record.correction is not None:
        yield record.correction.merged
        yield record.correction.reference
    first = min(settled_round(record.shard, main) + 1, max(1, record.last_round - KEPT_ROUNDS + 1))
    for number in range(first, record.last_round + 1):
        round_ = shard.get(ROUNDS, round_key(RoundNumber(number)))
        if round_ is None:
            continue
        yield round_.base
        if round_.model is not None:
            yield round_.model
        for index in range(round_.num_batches):
            batch = shard.get(BATCHES, batch_key(round_.number, index))
            if batch is not None:
                yield from (commit.payload for commit in batch.commits)


def settled_round(shard: ChainId, main: State) -> RoundNumber:
    """The last round under a settled checkpoint; 0 before the first."""
    entry = main.get(SHARDS, shard_key(shard))
    if entry is None or entry.number == 0:
        return RoundNumber(0)
    signed = main.get(CHECKPOINTS, checkpoint_key(shard, entry.number))
    return RoundNumber(0) if signed is None else signed.checkpoint.round
