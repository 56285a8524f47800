"""Merging: the end of an epoch turns the shards' models into one.

When every shard that still trains has settled its checkpoints of the epoch, or the epoch has waited
long enough, the inputs are fixed. The delegates compute the example-weighted integer mean and
attest its digest; with more than two thirds of the power it is the merged model.

A merge that gets no such majority in the same time, because attestations split or a model cannot be
had, is opened again: with what has settled since, and without the attestations so far. A finished
shard's last checkpoint that came while a merge was open goes into the one after it.
"""

from dataclasses import replace

from headwater_protocol.chain.checkpoint import MAX_EPOCH_EXAMPLES, Merge, MergeInput
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
from headwater_shard.mainchain.late import find_correction
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
from headwater_shard.mainchain.staking.election import elect_epoch
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State
from headwater_shard.transition import InvalidTransaction, require_role


def process_merge_attestation(draft: Draft, body: AttestMerge, sender: ValidatorId) -> None:
    """Take one delegate's digest of the open merge, once.

    Raises:
        InvalidMessage: If the sender is no delegate, the merge or the attempt is not the open one,
            or the sender has attested it.
    """
    main = draft.get_existing(MAIN, MAIN_KEY)
    require_role(
        holds=main.committee.power_of(sender) > 0, sender=AccountId(sender), role="delegate"
    )
    if not main.is_merging or body.epoch != main.epoch + 1:
        raise InvalidTransaction(ReasonCode.WRONG_EPOCH, f"merge {body.epoch} is not open")
    if body.attempt != main.merge_attempt:
        raise InvalidTransaction(
            ReasonCode.WRONG_EPOCH,
            f"attempt {body.attempt} at merge {body.epoch}, open is {main.merge_attempt}",
        )
    key = merge_attestation_key(body.epoch, sender)
    if draft.get(ATTESTATIONS, key) is not None:
        raise InvalidTransaction(ReasonCode.DUPLICATE, f"merge {body.epoch} is attested already")
    draft.put(ATTESTATIONS, key, MergeAttestation(model=body.model))


def advance_merge(draft: Draft, parameters: Parameters, context: BlockContext) -> None:
    """Open the merge that is due; complete one that has its quorum, which elects, or reopen it."""
    main = draft.get_existing(MAIN, MAIN_KEY)
    if not main.is_merging:
        if _is_due(draft, main, parameters, context.time_ms):
            _open(draft, main, context.time_ms, attempt=0)
    elif not _complete(draft, main, parameters, context) and (
        context.time_ms >= main.merge_opened_ms + parameters.epoch_timeout_ms
    ):
        _reopen(draft, main, context.time_ms)


def next_merge_timer(state: State, parameters: Parameters) -> int | None:
    """The block time at which an epoch stops waiting for shards, or a merge for its majority."""
    main = Draft(state).get_existing(MAIN, MAIN_KEY)
    if main.is_merging:
        return main.merge_opened_ms + parameters.epoch_timeout_ms
    if main.epoch_started_ms == 0:
        return None
    if _all_have_settled(state, parameters):
        return main.epoch_started_ms
    return main.epoch_started_ms + parameters.epoch_timeout_ms


def _is_due(draft: Draft, main: MainChain, parameters: Parameters, time_ms: TimeMs) -> bool:
    if main.epoch_started_ms == 0:
        return False
    if time_ms >= main.epoch_started_ms + parameters.epoch_timeout_ms:
        return True
    return _all_have_settled(draft, parameters)


def _all_have_settled(state: Draft | State, parameters: Parameters) -> bool:
    return all(
        entry.is_final or entry.epoch_checkpoints >= parameters.checkpoints_per_epoch
        for _, entry in state.items(SHARDS)
    )


def _open(draft: Draft, main: MainChain, time_ms: TimeMs, *, attempt: int) -> None:
    epoch = EpochNumber(main.epoch + 1)
    inputs = tuple(
        MergeInput(
            shard=ChainId(key.decode()),
            checkpoint=entry.last_checkpoint,
            model=entry.model,
            num_examples=entry.epoch_examples,
            correction=find_correction(
                draft, ChainId(key.decode()), merged=entry.merged, epoch=main.epoch
            ),
        )
        for key, entry in draft.sorted_items(SHARDS)
        if entry.epoch_checkpoints > 0
    )
    draft.put(MERGES, epoch_key(epoch), Merge(epoch=epoch, inputs=inputs, model=None))
    draft.put(
        MAIN,
        MAIN_KEY,
        replace(main, is_merging=True, merge_attempt=attempt, merge_opened_ms=time_ms),
    )


def _reopen(draft: Draft, main: MainChain, time_ms: TimeMs) -> None:
    """Attempt a merge once more: what nobody agreed on is forgotten, what came since is in it."""
    _forget_attestations(draft, main)
    for key, shard in draft.sorted_items(SHARDS):
        if shard.late_checkpoints:
            examples = shard.epoch_examples + shard.late_examples
            draft.put(
                SHARDS,
                key,
                replace(
                    shard,
                    epoch_checkpoints=shard.epoch_checkpoints + shard.late_checkpoints,
                    epoch_examples=min(examples, MAX_EPOCH_EXAMPLES),
                    late_checkpoints=0,
                    late_examples=0,
                ),
            )
    _open(draft, main, time_ms, attempt=main.merge_attempt + 1)


def _forget_attestations(draft: Draft, main: MainChain) -> None:
    for delegate in main.committee.delegates:
        key = merge_attestation_key(EpochNumber(main.epoch + 1), delegate.validator)
        draft.delete(ATTESTATIONS, key)


def _begin_counting(draft: Draft) -> bool:
    """Start an epoch's count of checkpoints; whether a finished shard's late one is in it."""
    is_anything_late = False
    for key, shard in draft.sorted_items(SHARDS):
        # A shard that goes on takes what it missed along in its next checkpoint.
        is_late = shard.is_final and shard.late_checkpoints > 0
        is_anything_late |= is_late
        draft.put(
            SHARDS,
            key,
            replace(
                shard,
                epoch_checkpoints=shard.late_checkpoints if is_late else 0,
                epoch_examples=shard.late_examples if is_late else 0,
                late_checkpoints=0,
                late_examples=0,
            ),
        )
    return is_anything_late


def _complete(draft: Draft, main: MainChain, parameters: Parameters, context: BlockContext) -> bool:
    """Complete the open merge if a quorum attested one model; whether it did."""
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
            _forget_attestations(draft, main)
            is_anything_late = _begin_counting(draft)
            draft.put(
                MAIN,
                MAIN_KEY,
                replace(
                    main,
                    epoch_started_ms=context.time_ms if is_anything_late else TimeMs(0),
                    is_merging=False,
                    merge_attempt=0,
                    merge_opened_ms=TimeMs(0),
                ),
            )
            elect_epoch(draft, parameters, merge, context)
            return True
    return False
