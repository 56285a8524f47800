"""The life of a round: open, collect, score, attest, close; moved by block time and by what came.

Nothing waits for a straggler: each phase ends when everybody has spoken or its deadline is past,
and a round without enough accepted updates, or without a quorum for its model, closes on its base.
"""

from dataclasses import replace

from headwater_protocol.chain.block import certificate_digest
from headwater_protocol.chain.round import (
    TOP_RANK,
    Round,
    RoundPhase,
    compute_rank,
)
from headwater_protocol.chain.task import Task
from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.identifiers import (
    DeviceId,
    Digest,
    Height,
    RoundNumber,
    TimeMs,
    Units,
    ValidatorId,
)
from headwater_protocol.messages.announcement import round_key, task_key
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.border import BlockContext
from headwater_shard.shardchain.attest import get_attested_model
from headwater_shard.shardchain.cohort import list_eligible, take_draw
from headwater_shard.shardchain.records import (
    DEVICES,
    ROUNDS,
    SHARD,
    SHARD_KEY,
    TASKS,
    UPDATES,
    DueCheckpoint,
    Shard,
    UpdateEntry,
    update_key,
)
from headwater_shard.shardchain.reputation import judge_device
from headwater_shard.shardchain.retention import forget_rounds
from headwater_shard.shardchain.reward import RoundRewards, compute_rewards, pay
from headwater_shard.shardchain.rules import ShardRules
from headwater_shard.shardchain.score import Verdict, compute_verdicts, is_fully_scored
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State

NO_REWARDS = RoundRewards(devices={}, delegates={})


def advance(draft: Draft, rules: ShardRules, context: BlockContext) -> None:
    """Move the open round as far as block time and the ledger allow, and open the next one."""
    while _step(draft, rules, context):
        pass


def next_timer(state: State, rules: ShardRules) -> int | None:
    """The block time at which `advance` would do something without any transaction."""
    shard = state.get(SHARD, SHARD_KEY)
    if shard is None:
        return None
    if shard.due_checkpoint is not None:
        return 0
    round_ = state.get(ROUNDS, round_key(shard.last_round))
    if round_ is None or round_.phase is RoundPhase.CLOSED:
        if shard.adopted > shard.epoch:
            return 0
        task = state.get(TASKS, task_key(shard.task))
        if shard.is_finished or task is None or state.count(DEVICES) < task.min_updates:
            return None
        return _opens_ms(shard, rules)
    if round_.phase is RoundPhase.COLLECT:
        return round_.collect_until_ms
    return round_.score_until_ms if round_.phase is RoundPhase.SCORE else round_.attest_until_ms


def _step(draft: Draft, rules: ShardRules, context: BlockContext) -> bool:
    shard = draft.get_existing(SHARD, SHARD_KEY)
    task = draft.get_existing(TASKS, task_key(shard.task))
    round_ = draft.get(ROUNDS, round_key(shard.last_round))
    if round_ is None or round_.phase is RoundPhase.CLOSED:
        if shard.adopted > shard.epoch:
            return False  # The next block hands over before it opens a round.
        if shard.is_closing and not shard.is_finished:
            return _finish_early(draft, shard)
        return _open(draft, rules, shard, task, context)
    if round_.phase is RoundPhase.COLLECT:
        return _end_collecting(draft, round_, task, context)
    if round_.phase is RoundPhase.SCORE:
        return _end_scoring(draft, rules, shard, round_, task, context)
    return _end_attesting(draft, rules, shard, round_, task, context)


def _finish_early(draft: Draft, shard: Shard) -> bool:
    """Make the final checkpoint of a closed task due; no round is open."""
    if shard.due_checkpoint is not None:
        return False
    due = DueCheckpoint(
        round=shard.last_round,
        model=shard.model,
        num_examples=shard.num_examples,
        is_final=True,
    )
    draft.put(
        SHARD,
        SHARD_KEY,
        replace(
            shard,
            num_examples=0,
            checkpoints_in_epoch=shard.checkpoints_in_epoch + 1,
            due_checkpoint=due,
            is_finished=True,
        ),
    )
    return True


def _opens_ms(shard: Shard, rules: ShardRules) -> int:
    waits = (
        shard.checkpoints_in_epoch >= rules.parameters.checkpoints_per_epoch
        and shard.correction is None
    )
    return shard.last_closed_ms + (rules.parameters.merge_wait_ms if waits else 0)


def _open(draft: Draft, rules: ShardRules, shard: Shard, task: Task, context: BlockContext) -> bool:
    if shard.is_finished or shard.due_checkpoint is not None:
        return False
    if context.time_ms < _opens_ms(shard, rules):
        return False
    number = RoundNumber(shard.last_round + 1)
    devices = list_eligible(draft, number, shard.clock)
    # Those in quarantine are counted: without them no round might ever open that ends it. Those
    # that were revoked are too, as `next_timer` counts the table without reading it: a round that
    # nobody is left for closes with its base.
    if sum(1 for _ in draft.items(DEVICES)) < task.min_updates:
        return False
    if shard.correction is not None and shard.correction.reference == shard.model:
        shard = replace(
            shard,
            model=shard.correction.merged,
            reference=shard.correction.merged,
            merged=shard.correction.epoch,
            checkpoints_in_epoch=0,
            correction=None,
        )
    seed = hash_bytes(
        Domain.SEED,
        context.previous,
        certificate_digest(context.last_certificate),
        number.to_bytes(8, "big"),
    )
    rank_threshold = compute_rank_threshold(seed, devices, task.cohort_size)
    clock = take_draw(
        draft,
        devices,
        number=number,
        seed=seed,
        rank_threshold=rank_threshold,
        clock=shard.clock,
    )
    draft.put(SHARD, SHARD_KEY, replace(shard, last_round=number, clock=clock))
    draft.put(
        ROUNDS,
        round_key(number),
        Round(
            number=number,
            epoch=shard.epoch,
            task=shard.task,
            phase=RoundPhase.COLLECT,
            base=shard.model,
            seed=seed,
            rank_threshold=rank_threshold,
            clock=shard.clock,
            cohort_size=min(len(devices), task.cohort_size),
            opened_height=context.height,
            opened_ms=context.time_ms,
            collect_until_ms=TimeMs(context.time_ms + task.collect_ms),
            score_until_ms=TimeMs(0),
            attest_until_ms=TimeMs(0),
            num_batches=0,
            num_updates=0,
            num_accepted=0,
            num_examples=0,
            correction=None,
            model=None,
            paid=Units(0),
            closed_height=Height(0),
        ),
    )
    return True


def compute_rank_threshold(
    seed: Digest, devices: list[tuple[DeviceId, int]], cohort_size: int
) -> Digest:
    """The rank of the last of the `cohort_size` devices that `seed` draws."""
    if len(devices) <= cohort_size:
        return TOP_RANK
    ranks = sorted(compute_rank(seed, device, weight) for device, weight in devices)
    return Digest(ranks[cohort_size - 1].to_bytes(32, "big"))


def _end_collecting(draft: Draft, round_: Round, task: Task, context: BlockContext) -> bool:
    if context.time_ms < round_.collect_until_ms and round_.num_updates < round_.cohort_size:
        return False
    draft.put(
        ROUNDS,
        round_key(round_.number),
        replace(
            round_,
            phase=RoundPhase.SCORE,
            score_until_ms=TimeMs(context.time_ms + task.score_ms),
        ),
    )
    return True


def _end_scoring(
    draft: Draft, rules: ShardRules, shard: Shard, round_: Round, task: Task, context: BlockContext
) -> bool:
    if context.time_ms < round_.score_until_ms and not is_fully_scored(
        draft, round_, shard.committee
    ):
        return False
    verdicts = compute_verdicts(draft, round_, shard.committee, task)
    accepted = [verdict for verdict in verdicts if verdict.reason is ReasonCode.OK]
    for verdict in verdicts:
        _judge(draft, rules, round_, verdict)
    draft.put(
        ROUNDS,
        round_key(round_.number),
        replace(
            round_,
            phase=RoundPhase.ATTEST,
            attest_until_ms=TimeMs(context.time_ms + task.attest_ms),
            num_accepted=len(accepted),
            num_examples=sum(
                min(verdict.commit.num_examples, task.max_examples) for verdict in accepted
            ),
            correction=shard.correction,
        ),
    )
    return True


def _judge(draft: Draft, rules: ShardRules, round_: Round, verdict: Verdict) -> None:
    device_id = verdict.commit.device
    draft.put(
        UPDATES,
        update_key(round_.number, device_id),
        UpdateEntry(
            payload=verdict.commit.payload,
            num_examples=verdict.commit.num_examples,
            batch=verdict.batch,
            is_judged=True,
            reason=verdict.reason,
            score=verdict.score,
            reward=Units(0),
        ),
    )
    judge_device(
        draft,
        rules.parameters.incentives,
        device_id,
        number=round_.number,
        reason=verdict.reason,
        score=verdict.score,
    )


def _end_attesting(
    draft: Draft, rules: ShardRules, shard: Shard, round_: Round, task: Task, context: BlockContext
) -> bool:
    aggregates = round_.num_accepted >= task.min_updates
    if not aggregates and round_.correction is None:
        _close(draft, rules, shard, round_, task, context, model=round_.base, rewards=NO_REWARDS)
        return True
    attested = get_attested_model(draft, round_, shard.committee)
    if attested is None:
        if context.time_ms < round_.attest_until_ms:
            return False
        failed = replace(round_, correction=None, num_accepted=0, num_examples=0)
        _close(draft, rules, shard, failed, task, context, model=round_.base, rewards=NO_REWARDS)
        return True
    model, attesters = attested
    if not aggregates:
        round_ = replace(round_, num_examples=0)
    rewards = _pay_round(draft, shard, round_, task, attesters) if aggregates else NO_REWARDS
    if round_.correction is not None:
        shard = replace(
            shard,
            merged=round_.correction.epoch,
            reference=round_.correction.merged,
            checkpoints_in_epoch=0,
            correction=None,
        )
    _close(draft, rules, shard, round_, task, context, model=model, rewards=rewards)
    return True


def _pay_round(
    draft: Draft,
    shard: Shard,
    round_: Round,
    task: Task,
    attesters: tuple[ValidatorId, ...],
) -> RoundRewards:
    rewards = compute_rewards(
        draft,
        round_,
        task,
        shard.committee,
        attesters,
        budget=min(task.round_budget, shard.budget_left),
    )
    pay(draft, rewards)
    for device, amount in sorted(rewards.devices.items()):
        key = update_key(round_.number, device)
        entry = draft.get_existing(UPDATES, key)
        draft.put(UPDATES, key, replace(entry, reward=Units(amount)))
    return rewards


def _close(
    draft: Draft,
    rules: ShardRules,
    shard: Shard,
    round_: Round,
    task: Task,
    context: BlockContext,
    *,
    model: Digest,
    rewards: RoundRewards,
) -> None:
    is_final = shard.is_closing or round_.number - shard.rounds_before >= task.rounds
    num_examples = shard.num_examples + (round_.num_examples if model != round_.base else 0)
    due = None
    if is_final or round_.number % rules.parameters.checkpoint_interval == 0:
        due = DueCheckpoint(
            round=round_.number, model=model, num_examples=num_examples, is_final=is_final
        )
    draft.put(
        ROUNDS,
        round_key(round_.number),
        replace(
            round_,
            phase=RoundPhase.CLOSED,
            model=model,
            paid=Units(rewards.total),
            closed_height=Height(context.height),
        ),
    )
    draft.put(
        SHARD,
        SHARD_KEY,
        replace(
            shard,
            model=model,
            last_closed_ms=context.time_ms,
            num_examples=num_examples if due is None else 0,
            budget_left=Units(shard.budget_left - rewards.total),
            checkpoints_in_epoch=shard.checkpoints_in_epoch + (due is not None),
            due_checkpoint=due,
            is_finished=is_final,
        ),
    )
    forget_rounds(draft, rules, round_.number)
