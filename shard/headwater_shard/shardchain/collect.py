"""Collecting: commits of updates go on the ledger in batches, payloads never do."""

from dataclasses import replace

from headwater_protocol.chain.round import Round, RoundPhase, is_in_cohort
from headwater_protocol.chain.transaction import (
    Commit,
    CommitUpdates,
    UpdateClaim,
    update_message,
)
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.errors import BadSignature
from headwater_protocol.identifiers import (
    AccountId,
    ChainId,
    DeviceId,
    RoundNumber,
    Units,
    ValidatorId,
)
from headwater_protocol.messages.announcement import round_key
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain.records import (
    BATCHES,
    DEVICES,
    ROUNDS,
    SHARD,
    SHARD_KEY,
    UPDATES,
    Batch,
    Device,
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


def is_drawn(round_: Round, device_id: DeviceId, device: Device) -> bool:
    """Whether an enrolled device is in a round's cohort.

    One that was enrolled after the round opened is not: whoever enrols could choose its key to suit
    the seed.
    """
    return device.enrolled_height <= round_.opened_height and is_in_cohort(
        round_, device_id, device.weight
    )


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
            out of order, of a device that is not enrolled, not in the cohort or already has an
            update in this round, or not signed by it.
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
    if not is_drawn(round_, commit.device, device):
        raise InvalidTransaction(ReasonCode.NOT_IN_COHORT, f"{name} is not in the cohort")
    if draft.get(UPDATES, update_key(round_.number, commit.device)) is not None:
        raise InvalidTransaction(ReasonCode.DUPLICATE, f"{name} has an update in this round")
