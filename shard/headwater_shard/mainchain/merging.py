"""Merging: the end of an epoch turns the shards' models into one.

When every shard that still trains has settled its checkpoints of the epoch, or the epoch has waited
long enough, the inputs are fixed. The delegates compute the example-weighted integer mean and
attest its digest; with more than two thirds of the power it is the merged model.
"""

from dataclasses import replace

from headwater_protocol.chain.checkpoint import Merge, MergeInput
from headwater_protocol.chain.epoch import epoch_key
from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.chain.transaction import AttestMerge
from headwater_protocol.identifiers import (
    AccountId,
    ChainId,
    Digest,
    EpochNumber,
    TimeMs,
    ValidatorId,
)
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.border import BlockContext
from headwater_shard.mainchain.market.models import register_merged_model
from headwater_shard.mainchain.records import (
    ATTESTATIONS,
    MAIN,
    MAIN_KEY,
    MERGES,
    SHARDS,
    MainChain,
    MergeAttestation,
    merge_attestation_key,
)
from headwater_shard.mainchain.staking.election import begin_epoch
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State
from headwater_shard.transition import InvalidTransaction, require_role


def process_merge_attestation(draft: Draft, body: AttestMerge, sender: ValidatorId) -> None:
    """Take one delegate's digest of the open merge, once.

    Raises:
        InvalidMessage: If the sender is no delegate, the merge is not open, or it is attested.
    """
    main = draft.get_existing(MAIN, MAIN_KEY)
    require_role(
        holds=main.committee.power_of(sender) > 0, sender=AccountId(sender), role="delegate"
    )
    if not main.is_merging or body.epoch != main.epoch + 1:
        raise InvalidTransaction(ReasonCode.WRONG_EPOCH, f"merge {body.epoch} is not open")
    key = merge_attestation_key(body.epoch, sender)
    if draft.get(ATTESTATIONS, key) is not None:
        raise InvalidTransaction(ReasonCode.DUPLICATE, f"merge {body.epoch} is attested already")
    draft.put(ATTESTATIONS, key, MergeAttestation(model=body.model))


def advance_merge(draft: Draft, parameters: Parameters, context: BlockContext) -> None:
    """Open the merge that is due, or complete the one that has its quorum and begin its epoch."""
    main = draft.get_existing(MAIN, MAIN_KEY)
    if main.is_merging:
        _complete(draft, main, parameters, context)
    elif _is_due(draft, main, parameters, context.time_ms):
        _open(draft, main)


def next_merge_timer(state: State, parameters: Parameters) -> int | None:
    """The block time at which an epoch stops waiting for the shards that are missing."""
    main = Draft(state).get_existing(MAIN, MAIN_KEY)
    if main.is_merging or main.epoch_started_ms == 0:
        return None
    return main.epoch_started_ms + parameters.epoch_timeout_ms


def _is_due(draft: Draft, main: MainChain, parameters: Parameters, time_ms: TimeMs) -> bool:
    if main.epoch_started_ms == 0:
        return False
    if time_ms >= main.epoch_started_ms + parameters.epoch_timeout_ms:
        return True
    return all(
        entry.is_final or entry.epoch_checkpoints >= parameters.checkpoints_per_epoch
        for _, entry in draft.items(SHARDS)
    )


def _open(draft: Draft, main: MainChain) -> None:
    epoch = EpochNumber(main.epoch + 1)
    inputs = tuple(
        MergeInput(
            shard=ChainId(key.decode()),
            checkpoint=entry.last_checkpoint,
            model=entry.model,
            num_examples=entry.epoch_examples,
        )
        for key, entry in draft.sorted_items(SHARDS)
        if entry.epoch_checkpoints > 0
    )
    draft.put(MERGES, epoch_key(epoch), Merge(epoch=epoch, inputs=inputs, model=None))
    draft.put(MAIN, MAIN_KEY, replace(main, is_merging=True))


def _complete(draft: Draft, main: MainChain, parameters: Parameters, context: BlockContext) -> None:
    epoch = EpochNumber(main.epoch + 1)
    by_model: dict[Digest, list[ValidatorId]] = {}
    for delegate in main.committee.delegates:
        entry = draft.get(ATTESTATIONS, merge_attestation_key(epoch, delegate.validator))
        if entry is not None:
            by_model.setdefault(entry.model, []).append(delegate.validator)
    for model in sorted(by_model):
        if main.committee.is_quorum(main.committee.power_of_all(by_model[model])):
            merge = replace(draft.get_existing(MERGES, epoch_key(epoch)), model=model)
            draft.put(MERGES, epoch_key(epoch), merge)
            register_merged_model(draft, merge)
            for delegate in main.committee.delegates:
                draft.delete(ATTESTATIONS, merge_attestation_key(epoch, delegate.validator))
            for key, shard in draft.sorted_items(SHARDS):
                draft.put(SHARDS, key, replace(shard, epoch_checkpoints=0, epoch_examples=0))
            draft.put(
                MAIN,
                MAIN_KEY,
                replace(main, epoch_started_ms=TimeMs(0), is_merging=False),
            )
            begin_epoch(draft, parameters, merge, context)
            return
