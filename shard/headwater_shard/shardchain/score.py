"""Scoring: the committee's weighted median decides which updates count.

A score is the cosine between an update and the delegate's own reference delta. An update is
accepted when delegates with more than two thirds of the power could score it and its standing
reaches the task's threshold: the median of their scores, weighted by power, plus the task's share
of the device's reputation, which is the decayed mean of its earlier medians.

Li et al., "A Blockchain-Based Decentralized Federated Learning Framework with Committee Consensus",
IEEE Network 2021; Cao et al., "FLTrust", NDSS 2021, for the reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from headwater_protocol.chain.claim import Commit
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.round import Round, RoundPhase
from headwater_protocol.chain.task import Task
from headwater_protocol.chain.transaction import UNAVAILABLE, PostScores
from headwater_protocol.identifiers import AccountId, ValidatorId
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain.collect import get_round
from headwater_shard.shardchain.records import (
    BATCHES,
    DEVICES,
    SCORES,
    SHARD,
    SHARD_KEY,
    ScoreList,
    batch_key,
    score_key,
)
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State
from headwater_shard.transition import InvalidTransaction, require_role


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the committee made of one commit."""

    commit: Commit
    batch: int
    reason: ReasonCode
    """`ok`, `low_score` or `unavailable`."""
    score: int
    """The weighted median; `UNAVAILABLE` where too little power scored."""


def process_scores(draft: Draft, body: PostScores, sender: ValidatorId) -> None:
    """Take one delegate's scores of one batch, once.

    Raises:
        InvalidMessage: If the sender is no delegate, the round is past scoring, there is no such
            batch, the task is not the round's, the number of scores is not the batch's, or they are
            there already.
    """
    shard = draft.get_existing(SHARD, SHARD_KEY)
    require_role(
        holds=shard.committee.power_of(sender) > 0, sender=AccountId(sender), role="delegate"
    )
    round_ = get_round(draft, body.round, {RoundPhase.COLLECT, RoundPhase.SCORE})
    if body.task != round_.task:
        raise InvalidTransaction(ReasonCode.UNKNOWN_TASK, f"round {body.round} is no {body.task}")
    batch = draft.get(BATCHES, batch_key(round_.number, body.batch))
    if batch is None:
        raise InvalidTransaction(ReasonCode.OUT_OF_BOUNDS, f"there is no batch {body.batch}")
    if len(batch.commits) != len(body.scores):
        raise InvalidTransaction(
            ReasonCode.OUT_OF_BOUNDS,
            f"{len(body.scores)} scores for a batch of {len(batch.commits)}",
        )
    key = score_key(round_.number, body.batch, sender)
    if draft.get(SCORES, key) is not None:
        raise InvalidTransaction(ReasonCode.DUPLICATE, f"batch {body.batch} is scored already")
    draft.put(SCORES, key, ScoreList(scores=body.scores))


def is_fully_scored(state: Draft | State, round_: Round, committee: Committee) -> bool:
    """Whether every delegate has scored every batch."""
    return all(
        state.get(SCORES, score_key(round_.number, batch, delegate.validator)) is not None
        for batch in range(round_.num_batches)
        for delegate in committee.delegates
    )


def compute_weighted_median(scores: Sequence[tuple[int, int]]) -> int:
    """The lower weighted median of `(score, power)` pairs, at least one, powers positive."""
    total = sum(power for _, power in scores)
    running = 0
    for score, power in sorted(scores):
        running += power
        if running * 2 >= total:
            return score
    raise ValueError("the median of nothing")


def compute_standing(median: int, reputation: int, task: Task) -> int:
    """What the task's threshold is held against, in ten-thousandths."""
    return median + reputation * task.reputation_thousandths // 1_000


def compute_verdicts(
    state: Draft | State, round_: Round, committee: Committee, task: Task
) -> list[Verdict]:
    """The verdicts on all updates of a round, in order of batch and device.

    To be computed once, before the verdicts change the reputations that they depend on.
    """
    verdicts: list[Verdict] = []
    for index in range(round_.num_batches):
        batch = state.get(BATCHES, batch_key(round_.number, index))
        if batch is None:
            raise KeyError((round_.number, index))
        lists = [
            (entry.scores, delegate.voting_power)
            for delegate in committee.delegates
            if (entry := state.get(SCORES, score_key(round_.number, index, delegate.validator)))
        ]
        for position, commit in enumerate(batch.commits):
            scores = [
                (row[position], power) for row, power in lists if row[position] != UNAVAILABLE
            ]
            if not committee.is_quorum(sum(power for _, power in scores)):
                reason, median = ReasonCode.UNAVAILABLE, UNAVAILABLE
            else:
                median = compute_weighted_median(scores)
                device = state.get(DEVICES, commit.device)
                reputation = 0 if device is None else device.reputation
                standing = compute_standing(median, reputation, task)
                is_accepted = standing >= task.score_threshold
                reason = ReasonCode.OK if is_accepted else ReasonCode.LOW_SCORE
            verdicts.append(Verdict(commit=commit, batch=index, reason=reason, score=median))
    return verdicts
