"""Adopting an epoch: a shard goes on with the committee and the model that the main chain decided.

A shard never stops for the main chain, and a round is judged by one committee. So an epoch, once
proven, waits for the open round to end: the old committee closes it and signs its checkpoint. The
block after that puts the new one in office; it is the last one that the old committee certifies.
Epochs are adopted in order, one at a time, each by what the one before it proved.

If no round has closed since the checkpoint that went into the merge, the next base is the merged
model itself. Otherwise the model moves by `merged - reference`, so that what the shard learned
meanwhile stays; the delegates compute that model when they attest the open round.
"""

from dataclasses import replace

from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.epoch import Epoch, epoch_key
from headwater_protocol.chain.round import MergeCorrection, RoundPhase
from headwater_protocol.chain.transaction import AdoptEpoch
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.identifiers import ChainId, EpochNumber
from headwater_protocol.light.client import TrustedState, advance
from headwater_protocol.messages.announcement import round_key
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.border import BlockContext
from headwater_shard.shardchain.records import EPOCHS, ROUNDS, SHARD, SHARD_KEY, Shard
from headwater_shard.shardchain.rules import ShardRules
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State
from headwater_shard.transition import InvalidTransaction


def get_committee(state: Draft | State, shard: ChainId, epoch: EpochNumber) -> Committee:
    """The shard's committee in an epoch that it has adopted.

    Raises:
        KeyError: If it has not, which is a mistake of ours.
    """
    record = state.get(EPOCHS, epoch_key(epoch))
    committee = None if record is None else record.committee_of(shard)
    if committee is None:
        raise KeyError((shard, epoch))
    return committee


def get_trusted(state: Draft | State, rules: ShardRules) -> TrustedState:
    """What the shard holds of the main chain, as a light client has it."""
    shard = state.get(SHARD, SHARD_KEY)
    record = None if shard is None else state.get(EPOCHS, epoch_key(shard.adopted))
    if shard is None or record is None:
        raise KeyError(rules.shard)
    return TrustedState(
        network=rules.network,
        epoch=record,
        time_ms=shard.adopted_ms,
        trust_period_ms=rules.parameters.trust_period_ms,
    )


def start_trust(draft: Draft, context: BlockContext) -> None:
    """With a chain's first block its validators vouch for the genesis, however old that is."""
    if context.height == 1:
        shard = draft.get_existing(SHARD, SHARD_KEY)
        draft.put(SHARD, SHARD_KEY, replace(shard, adopted_ms=context.time_ms))


def process_adoption(
    draft: Draft, rules: ShardRules, body: AdoptEpoch, context: BlockContext, verifier: Verifier
) -> None:
    """Note a proven epoch; it takes effect when no round is open.

    A later proof of the epoch that was adopted last makes what the shard trusts younger. Anybody
    may send either: the main chain's certificate is what counts.

    Raises:
        InvalidMessage: If it is not proven, not the next one, or the last one is not in effect.
    """
    shard = draft.get_existing(SHARD, SHARD_KEY)
    epoch = body.update.epoch
    is_refresh = epoch.epoch == shard.adopted
    age_ms = body.update.header.time_ms - shard.adopted_ms
    if epoch.epoch < shard.adopted or (
        is_refresh and age_ms * 4 < rules.parameters.trust_period_ms
    ):
        raise InvalidTransaction(ReasonCode.DUPLICATE, f"epoch {epoch.epoch} after {shard.adopted}")
    trusted = advance(get_trusted(draft, rules), body.update, context.time_ms, verifier)
    if is_refresh:
        draft.put(SHARD, SHARD_KEY, replace(shard, adopted_ms=trusted.time_ms))
        return
    if shard.adopted > shard.epoch or shard.correction is not None:
        raise InvalidTransaction(
            ReasonCode.WRONG_PHASE, f"epoch {shard.adopted} is not in effect yet"
        )
    draft.put(EPOCHS, epoch_key(epoch.epoch), epoch)
    draft.put(
        SHARD,
        SHARD_KEY,
        replace(
            shard,
            adopted=epoch.epoch,
            adopted_ms=trusted.time_ms,
            correction=_correction(shard, epoch),
        ),
    )


def is_handing_over(state: Draft | State, shard: Shard) -> bool:
    """Whether the next block puts the adopted epoch's committee in office: no round is open."""
    if shard.adopted <= shard.epoch or shard.due_checkpoint is not None:
        return False
    round_ = state.get(ROUNDS, round_key(shard.last_round))
    return round_ is None or round_.phase is RoundPhase.CLOSED


def get_elected_committee(state: State) -> Committee | None:
    """Who is in office with the next block, where that is the one to hand over."""
    shard = state.get(SHARD, SHARD_KEY)
    if shard is None or not is_handing_over(state, shard):
        return None
    return get_committee(state, shard.shard, shard.adopted)


def enter_office(draft: Draft, state: State) -> None:
    """Put the committee of the adopted epoch in office, if the block before left it at that."""
    shard = draft.get_existing(SHARD, SHARD_KEY)
    if not is_handing_over(state, shard):
        return
    committee = get_committee(draft, shard.shard, shard.adopted)
    # Nothing is trained on the model of a finished shard, so there is nothing to correct.
    correction = None if shard.is_finished else shard.correction
    draft.put(
        SHARD,
        SHARD_KEY,
        replace(shard, epoch=shard.adopted, committee=committee, correction=correction),
    )


def _correction(shard: Shard, epoch: Epoch) -> MergeCorrection | None:
    merge = epoch.merge
    if merge is None or merge.model is None:
        raise InvalidTransaction(
            ReasonCode.WRONG_PHASE, f"epoch {epoch.epoch} starts without a merged model"
        )
    own = [entry.model for entry in merge.inputs if entry.shard == shard.shard]
    return MergeCorrection(
        epoch=epoch.epoch, merged=merge.model, reference=own[0] if own else shard.reference
    )
