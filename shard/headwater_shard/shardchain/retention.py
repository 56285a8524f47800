"""What a shard's state forgets: the blocks keep everything, and the audit replays them.

Updates, scores and attestations of a round go after `retention_rounds`, the round's own record long
after that, and so do the digests of payloads: an update that points the right way does so for many
rounds, and would earn as long as it may be sent again. Checkpoints stay, since the main chain may
be away for as long as it likes; so do the last nonces of senders, without which an old transaction
could be executed again.
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

PAYLOAD_ROUNDS: Final = 1_000
"""Rounds for which no payload may be sent again, at the least."""

PAYLOAD_PART_BITS: Final = 8
"""Each round looks for forgotten payloads in one of 256 parts: nothing lists those of a round any
more, and to look at all of them would stop a large shard for seconds."""


def forget_rounds(draft: Draft, rules: ShardRules, closed: RoundNumber) -> None:
    """Drop what is too old once round `closed` is."""
    retention = rules.parameters.retention_rounds
    _prune(draft, rules, RoundNumber(closed - retention))
    # The record says what a round's entries are, so it goes after them.
    kept = max(MAX_KEPT_ROUNDS, retention + 1)
    if closed > kept:
        draft.delete(ROUNDS, round_key(RoundNumber(closed - kept)))
    remembered = max(PAYLOAD_ROUNDS, retention)
    if closed > remembered:
        _forget_payloads(draft, closed, RoundNumber(closed - remembered))


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
        for delegate in committee.delegates:
            draft.delete(SCORES, score_key(number, index, delegate.validator))
        draft.delete(BATCHES, batch_key(number, index))
    for delegate in committee.delegates:
        draft.delete(ATTESTATIONS, attestation_key(number, delegate.validator))


def _forget_payloads(draft: Draft, closed: RoundNumber, last: RoundNumber) -> None:
    """Drop the digests of payloads up to round `last` from the part whose turn it is."""
    bits = PAYLOAD_PART_BITS
    part = draft.part(PAYLOADS, closed % 2**bits, bits=bits)
    for key in [key for key, entry in part if entry.round <= last]:
        draft.delete(PAYLOADS, key)
