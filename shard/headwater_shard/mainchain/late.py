"""A shard's last model that came too late for a merge, and how it still enters the next one.

A shard that trains on takes what it missed with it. One that has finished does not, so its last
model enters the next merge moved as a shard would have moved it: by what the merges since have
that its own way did not go through.
"""

from headwater_protocol.chain.epoch import epoch_key
from headwater_protocol.chain.round import MergeCorrection
from headwater_protocol.identifiers import ChainId, Digest, EpochNumber
from headwater_shard.mainchain.market.records import MODELS
from headwater_shard.mainchain.market.tasks import get_last_task
from headwater_shard.mainchain.records import MERGES
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State


def find_correction(
    state: Draft | State, shard: ChainId, *, merged: EpochNumber, epoch: EpochNumber
) -> MergeCorrection | None:
    """By what a shard's model has to move before it is merged; None where it is up to date.

    Args:
        state: Of the main chain.
        shard: Whose model.
        merged: Merges that the model contains.
        epoch: Merges completed.
    """
    if merged >= epoch:
        return None
    latest = state.get(MERGES, epoch_key(epoch))
    if latest is None or latest.model is None:
        return None
    return MergeCorrection(
        epoch=epoch, merged=latest.model, reference=_reference(state, shard, merged, epoch)
    )


def _reference(
    state: Draft | State, shard: ChainId, merged: EpochNumber, epoch: EpochNumber
) -> Digest:
    """The model of the shard that is in the merges, or else the one that it started from."""
    for number in range(epoch, merged, -1):
        merge = state.get(MERGES, epoch_key(EpochNumber(number)))
        for entry in () if merge is None else merge.inputs:
            if entry.shard == shard:
                return entry.model
    task = get_last_task(state).task
    base = state.get(MERGES, epoch_key(merged))
    version = None if base is None or base.model is None else state.get(MODELS, base.model)
    if base is None or base.model is None or version is None or version.task != task.task:
        return task.initial_model
    return base.model
