"""What a shard's state forgets: the blocks keep everything, and the audit replays them.

Updates, scores and attestations of a round go after `retention_rounds`, the round's own record long
after that. Checkpoints stay, since the main chain may be away for as long as it likes; so do the
last nonces of senders, without which an old transaction could be executed again.
"""

from typing import Final

from headwater_protocol.identifiers import RoundNumber
from headwater_protocol.messages.announcement import round_key
from headwater_shard.shardchain.adoption import get_committee
from headwater_shard.shardchain.records import (
    ATTESTATIONS,
    BATCHES,
    PAYLOADS,
    ROUNDS,
    SCORES,
    UPDATES,
    attestation_key,
    batch_key,
    score_key,
    update_key,
)
from headwater_shard.shardchain.rules import ShardRules
from headwater_shard.state.draft import Draft

MAX_KEPT_ROUNDS: Final = 1_000
"""Closed rounds whose record stays in the state after their updates went: long enough for evidence
against an attestation, which is proven by the record, from a gateway that was away for a while."""


def forget_rounds(draft: Draft, rules: ShardRules, closed: RoundNumber) -> None:
    """Drop what is too old once round `closed` is."""
    retention = rules.parameters.retention_rounds
    _prune(draft, rules, RoundNumber(closed - retention))
    # The record says what a round's entries are, so it goes after them.
    kept = max(MAX_KEPT_ROUNDS, retention + 1)
    if closed > kept:
        draft.delete(ROUNDS, round_key(RoundNumber(closed - kept)))


def _prune(draft: Draft, rules: ShardRules, number: RoundNumber) -> None:
    """Drop a round's updates, scores and attestations from the state; the blocks keep them."""
    round_ = draft.get(ROUNDS, round_key(number)) if number > 0 else None
    if round_ is None:
        return
    committee = get_committee(draft, rules.shard, round_.epoch)
    for index in range(round_.num_batches):
        batch = draft.get_existing(BATCHES, batch_key(number, index))
        for commit in batch.commits:
            draft.delete(UPDATES, update_key(number, commit.device))
            draft.delete(PAYLOADS, commit.payload)
        for delegate in committee.delegates:
            draft.delete(SCORES, score_key(number, index, delegate.validator))
        draft.delete(BATCHES, batch_key(number, index))
    for delegate in committee.delegates:
        draft.delete(ATTESTATIONS, attestation_key(number, delegate.validator))
