"""The settlement relay: checkpoints up to the main chain in order, merges down to the shards.

It holds no state: what is due is the difference between the two ledgers, so checkpoints queue by
themselves while the main chain is away, and settle in order when it is back.
"""

from collections.abc import Iterator

from headwater_gateway.machine.publisher import FinalizedTip
from headwater_protocol.chain.transaction import AdoptMerge, PostCheckpoint
from headwater_protocol.identifiers import ChainId
from headwater_shard.mainchain.records import MAIN, MAIN_KEY, MERGES, SHARDS, shard_key
from headwater_shard.shardchain.merges import merge_key
from headwater_shard.shardchain.records import CHECKPOINTS, SHARD, SHARD_KEY, checkpoint_key
from headwater_shard.state.state import State


def due_checkpoint(
    shard_id: ChainId, shard_state: State, main_state: State
) -> Iterator[tuple[str, PostCheckpoint]]:
    """The shard's next checkpoint that the main chain lacks, once enough delegates signed it."""
    shard = shard_state.get(SHARD, SHARD_KEY)
    entry = main_state.get(SHARDS, shard_key(shard_id))
    if shard is None or entry is None or entry.number >= shard.checkpoints:
        return
    number = entry.number + 1
    signed = shard_state.get(CHECKPOINTS, checkpoint_key(number))
    if signed is None:
        return
    power = entry.committee.power_of_all(row.validator for row in signed.signatures)
    if entry.committee.is_quorum(power):
        yield f"{shard_id}/post/{number}", PostCheckpoint(signed=signed)


def due_merge(
    shard_id: ChainId, shard_state: State, main: FinalizedTip
) -> Iterator[tuple[str, AdoptMerge]]:
    """The main chain's last merge, proven at its tip, if the shard has not adopted it."""
    shard = shard_state.get(SHARD, SHARD_KEY)
    chain = main.state.get(MAIN, MAIN_KEY)
    if shard is None or chain is None or shard.is_finished or shard.correction is not None:
        return
    if chain.epoch <= shard.epoch:
        return
    merge = main.state.get(MERGES, merge_key(chain.epoch))
    if merge is None or merge.model is None:
        return
    yield (
        f"{shard_id}/adopt/{chain.epoch}",
        AdoptMerge(
            merge=merge,
            proof=main.state.prove(MERGES.namespace, merge_key(chain.epoch)),
            header=main.block.header,
            certificate=main.certificate,
        ),
    )
