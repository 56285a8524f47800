"""Taking up the next task, or ending the current one early: both proven by the main chain.

A shard trains one task at a time. When its final checkpoint of one is settled and a sponsor has
opened the next one, anybody may bring the proof; rounds go on counting, devices keep their names
and reputations, and the model begins anew.

A task that its sponsor has closed ends as one whose rounds are over: the open round closes and is
paid, the next block has the final checkpoint.
"""

from dataclasses import replace

from headwater_protocol.chain.transaction import AdoptTask
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.identifiers import MAIN_CHAIN, Units
from headwater_protocol.light.client import verify_header
from headwater_protocol.light.facts import verify_entry
from headwater_protocol.messages.announcement import task_key
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.border import BlockContext
from headwater_shard.shardchain.adoption import get_trusted
from headwater_shard.shardchain.records import SHARD, SHARD_KEY, TASKS
from headwater_shard.shardchain.rules import ShardRules
from headwater_shard.state.draft import Draft
from headwater_shard.transition import InvalidTransaction


def process_task(
    draft: Draft, rules: ShardRules, body: AdoptTask, context: BlockContext, verifier: Verifier
) -> None:
    """Begin a proven task, or note that the current one is closed.

    Raises:
        InvalidMessage: If it is not proven, is the current one and not closed or known to be, is
            not the next one, or the last one is not finished.
    """
    shard = draft.get_existing(SHARD, SHARD_KEY)
    entry, task = body.entry, body.entry.task
    is_end = entry.number == shard.task_number and entry.is_closing
    if entry.number <= shard.task_number and (not is_end or shard.is_closing or shard.is_finished):
        raise InvalidTransaction(
            ReasonCode.DUPLICATE, f"task {entry.number} after {shard.task_number}"
        )
    verify_header(
        get_trusted(draft, rules),
        body.header,
        body.certificate,
        chain=MAIN_CHAIN,
        now_ms=context.time_ms,
        verifier=verifier,
    )
    verify_entry(body.header, body.proof, namespace="tasks", key=task_key(task.task), record=entry)
    if is_end:
        draft.put(SHARD, SHARD_KEY, replace(shard, is_closing=True))
        return
    is_idle = shard.is_finished and shard.due_checkpoint is None and shard.adopted == shard.epoch
    if entry.number != shard.task_number + 1 or not is_idle:
        raise InvalidTransaction(
            ReasonCode.WRONG_PHASE, f"task {shard.task_number} is not finished and settled"
        )
    draft.put(TASKS, task_key(task.task), task)
    draft.put(
        SHARD,
        SHARD_KEY,
        replace(
            shard,
            task=task.task,
            task_number=entry.number,
            rounds_before=shard.last_round,
            merged=shard.adopted,
            model=task.initial_model,
            reference=task.initial_model,
            last_closed_ms=context.time_ms,
            num_examples=0,
            budget_left=Units(task.round_budget * task.rounds),
            checkpoints_in_epoch=0,
            correction=None,
            is_closing=entry.is_closing,
            is_finished=False,
        ),
    )
