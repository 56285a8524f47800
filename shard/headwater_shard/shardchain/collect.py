"""Collecting: commits of updates go on the ledger in batches, payloads never do."""

from dataclasses import replace

from headwater_protocol.chain.claim import Commit, UpdateClaim, update_message
from headwater_protocol.chain.round import Round, RoundPhase
from headwater_protocol.chain.transaction import CommitUpdates
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.errors import BadSignature
from headwater_protocol.identifiers import (
    AccountId,
    ChainId,
    RoundNumber,
    Units,
    ValidatorId,
)
from headwater_protocol.messages.announcement import round_key
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain.cohort import is_drawn, is_quarantined
from headwater_shard.shardchain.records import (
    BATCHES,
    DEVICES,
    PAYLOADS,
    ROUNDS,
    SHARD,
    SHARD_KEY,
    UPDATES,
    Batch,
    PayloadEntry,
    UpdateEntry,
    batch_key,
    update_key,
)
from headwater_shard.shardchain.rules import ShardRules
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State
from headwater_shard.transition import InvalidTransaction, require_role


def get_round(state: Draft | State, number: RoundNumber, phases: set[RoundPhase]) -> Round:
    """The round `number`, if it is in one of `phases`.

    Raises:
        InvalidTransaction: With `stale_round` where it is not the shard's last one, or with
            `wrong_phase`.
    """
    shard = state.get(SHARD, SHARD_KEY)
    round_ = state.get(ROUNDS, round_key(number))
    if shard is None or round_ is None or number != shard.last_round:
        raise InvalidTransaction(ReasonCode.STALE_ROUND, f"round {number} is not the open one")
    if round_.phase not in phases:
        raise InvalidTransaction(ReasonCode.WRONG_PHASE, f"round {number} is in {round_.phase}")
    return round_


def claim_of(commit: Commit, round_: Round, shard: ChainId) -> UpdateClaim:
    """What the device signed, restored from its commit and the round."""
    return UpdateClaim(
        shard=shard,
        round=round_.number,
        base=round_.base,
        device=commit.device,
        payload=commit.payload,
        num_examples=commit.num_examples,
    )


def process_commits(
    draft: Draft, rules: ShardRules, body: CommitUpdates, sender: ValidatorId, verifier: Verifier
) -> None:
    """Take a batch, whole or not at all.

    Raises:
        InvalidMessage: If the sender is no delegate, the round does not collect, or any commit is
            out of order, of a device that is not enrolled, revoked, quarantined, not in the cohort
            or already has an update in this round, repeats a payload that somebody sent in the last
            `PAYLOAD_ROUNDS` rounds, or is not signed by its device.
    """
    shard = draft.get_existing(SHARD, SHARD_KEY)
    require_role(
        holds=shard.committee.power_of(sender) > 0, sender=AccountId(sender), role="delegate"
    )
    round_ = get_round(draft, body.round, {RoundPhase.COLLECT})
    keys = [commit.device for commit in body.commits]
    if keys != sorted(set(keys)):
        raise InvalidTransaction(
            ReasonCode.DUPLICATE, "a batch lists each device once, in order of the keys"
        )
    for commit in body.commits:
        _require_takes(draft, round_, commit)
        message = update_message(rules.network, claim_of(commit, round_, rules.shard))
        if not verifier.verify(commit.device, message, commit.signature):
            raise BadSignature(f"no update signature of {commit.device.hex()[:16]}")
        draft.put(
            PAYLOADS,
            commit.payload,
            PayloadEntry(round=round_.number, device=commit.device),
        )
        draft.put(
            UPDATES,
            update_key(round_.number, commit.device),
            UpdateEntry(
                payload=commit.payload,
                num_examples=commit.num_examples,
                batch=round_.num_batches,
                is_judged=False,
                reason=ReasonCode.OK,
                score=0,
                reward=Units(0),
            ),
        )
    draft.put(
        BATCHES,
        batch_key(round_.number, round_.num_batches),
        Batch(gateway=sender, commits=body.commits),
    )
    draft.put(
        ROUNDS,
        round_key(round_.number),
        replace(
            round_,
            num_batches=round_.num_batches + 1,
            num_updates=round_.num_updates + len(body.commits),
        ),
    )


def _require_takes(draft: Draft, round_: Round, commit: Commit) -> None:
    device = draft.get(DEVICES, commit.device)
    name = commit.device.hex()[:16]
    if device is None:
        raise InvalidTransaction(ReasonCode.NOT_ENROLLED, f"{name} is not enrolled")
    if device.is_revoked:
        raise InvalidTransaction(ReasonCode.REVOKED, f"{name} was revoked")
    if is_quarantined(device, round_.number):
        raise InvalidTransaction(
            ReasonCode.QUARANTINED, f"{name} is left out until round {device.quarantined_until}"
        )
    if not is_drawn(device, round_):
        raise InvalidTransaction(ReasonCode.NOT_IN_COHORT, f"{name} is not in the cohort")
    if draft.get(UPDATES, update_key(round_.number, commit.device)) is not None:
        raise InvalidTransaction(ReasonCode.DUPLICATE, f"{name} has an update in this round")
    known = draft.get(PAYLOADS, commit.payload)
    if known is not None:
        raise InvalidTransaction(
            ReasonCode.DUPLICATE,
            f"{name} repeats what {known.device.hex()[:16]} sent in round {known.round}",
        )
