"""Tasks and their escrow: a budget a shard, of which comes back what no round paid.

One task is open at a time, and all shards train it, since their models are merged. The genesis'
task is the first. A task's budget waits in one pot a shard: a shard whose committee lies about its
rewards can spend no more than its own. The final checkpoint of a shard says what was paid in all;
the rest of its pot's budget goes back to the sponsor in the same block.
"""

from collections.abc import Iterable
from dataclasses import replace

from headwater_protocol.chain.checkpoint import Checkpoint
from headwater_protocol.chain.market import CloseTask, OpenTask, SponsoredTask
from headwater_protocol.chain.task import MAX_PARAMETERS, Task
from headwater_protocol.identifiers import MAX_UNSIGNED, NOTHING, AccountId, ChainId, Units
from headwater_protocol.messages.announcement import task_key
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.market.records import POTS, TASKS, ShardPot
from headwater_shard.mainchain.records import CHECKPOINTS, MAIN, MAIN_KEY, SHARDS, checkpoint_key
from headwater_shard.mainchain.transfer import credit, debit
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State
from headwater_shard.transition import InvalidTransaction, require_role


def shard_budget(task: Task) -> int:
    """Units that each shard may pay for a task."""
    return task.round_budget * task.rounds


def make_pot(task: Task) -> ShardPot:
    """The pot of a shard that begins with `task`."""
    return ShardPot(
        task=task.task,
        units=Units(shard_budget(task)),
        budget=Units(shard_budget(task)),
        paid_before=NOTHING,
        claimed=NOTHING,
        is_open=True,
    )


def make_first_task(task: Task, sponsor: AccountId, shards: Iterable[ChainId]) -> SponsoredTask:
    """The genesis' task."""
    return SponsoredTask(
        number=1,
        task=task,
        sponsor=sponsor,
        open_shards=len(list(shards)),
        returned=NOTHING,
        is_closing=False,
    )


def get_last_task(state: Draft | State) -> SponsoredTask:
    """The task that was opened last."""
    return max((task for _, task in state.items(TASKS)), key=lambda task: task.number)


def process_open_task(draft: Draft, body: OpenTask, sender: AccountId) -> None:
    """Escrow a task's budget and open it on all shards.

    Raises:
        InvalidTransaction: If its name is taken, it is too large or pays nothing, another task or
            merge is open, or the sender does not hold the budget.
    """
    task = body.task
    if draft.get(TASKS, task_key(task.task)) is not None:
        raise InvalidTransaction(ReasonCode.DUPLICATE, f"there is a task {task.task}")
    shards = draft.sorted_items(SHARDS)
    budget = shard_budget(task) * len(shards)
    if not 0 < budget <= MAX_UNSIGNED:
        raise InvalidTransaction(ReasonCode.OUT_OF_BOUNDS, f"a budget of {budget} units")
    if task.num_parameters > MAX_PARAMETERS:
        raise InvalidTransaction(
            ReasonCode.OUT_OF_BOUNDS, f"{task.num_parameters} parameters, limit {MAX_PARAMETERS}"
        )
    last, main = get_last_task(draft), draft.get_existing(MAIN, MAIN_KEY)
    if last.open_shards or main.is_merging or main.epoch_started_ms:
        raise InvalidTransaction(ReasonCode.WRONG_PHASE, f"task {last.task.task} is not finished")
    debit(draft, sender, budget)
    draft.put(
        TASKS,
        task_key(task.task),
        SponsoredTask(
            number=last.number + 1,
            task=task,
            sponsor=sender,
            open_shards=len(shards),
            returned=NOTHING,
            is_closing=False,
        ),
    )
    for key, entry in shards:
        pot = draft.get_existing(POTS, key)
        paid = get_paid_total(draft, ChainId(key.decode()), entry.number)
        draft.put(
            POTS,
            key,
            replace(
                make_pot(task),
                units=Units(pot.units + shard_budget(task)),
                paid_before=Units(paid),
                claimed=pot.claimed,
            ),
        )
        draft.put(SHARDS, key, replace(entry, is_final=False, model=task.initial_model))


def process_close_task(draft: Draft, body: CloseTask, sender: AccountId) -> None:
    """Mark a task as ended by its sponsor; each shard is told by a proof of it.

    Rounds that are open end and are paid as if nothing had happened: nobody works for nothing. What
    is left returns with the final checkpoint of each shard.

    Raises:
        InvalidTransaction: If there is no such task, the sender is not its sponsor, every shard has
            finished it, or it is closing already.
    """
    key = task_key(body.task)
    entry = draft.get(TASKS, key)
    if entry is None:
        raise InvalidTransaction(ReasonCode.UNKNOWN_TASK, f"there is no task {body.task}")
    require_role(holds=entry.sponsor == sender, sender=sender, role="sponsor of the task")
    if entry.open_shards == 0:
        raise InvalidTransaction(ReasonCode.WRONG_PHASE, f"task {body.task} is finished")
    if entry.is_closing:
        raise InvalidTransaction(ReasonCode.DUPLICATE, f"task {body.task} is closing already")
    draft.put(TASKS, key, replace(entry, is_closing=True))


def get_paid_total(state: Draft | State, shard: ChainId, number: int) -> int:
    """What a shard had paid in all at its checkpoint `number`; 0 before the first."""
    signed = state.get(CHECKPOINTS, checkpoint_key(shard, number))
    return 0 if signed is None else signed.checkpoint.contributions.total


def settle_task(draft: Draft, checkpoint: Checkpoint) -> None:
    """Check what a shard says it has paid, and return what a finished task leaves.

    Raises:
        InvalidTransaction: If the total went down or exceeds the budget.
    """
    key = checkpoint.shard.encode()
    pot = draft.get_existing(POTS, key)
    total = checkpoint.contributions.total
    before = get_paid_total(draft, checkpoint.shard, checkpoint.number - 1)
    if not before <= total <= pot.paid_before + pot.budget:
        raise InvalidTransaction(
            ReasonCode.BUDGET_SPENT,
            f"{total} units paid, allowed {before} to {pot.paid_before + pot.budget}",
        )
    if not checkpoint.is_final or not pot.is_open:
        return
    # Claims on forged rewards can have taken what the final checkpoint calls unspent.
    unspent = min(pot.units, pot.paid_before + pot.budget - total)
    entry = draft.get_existing(TASKS, task_key(pot.task))
    draft.put(POTS, key, replace(pot, units=Units(pot.units - unspent), is_open=False))
    draft.put(
        TASKS,
        task_key(pot.task),
        replace(
            entry,
            open_shards=entry.open_shards - 1,
            returned=Units(entry.returned + unspent),
        ),
    )
    if unspent:
        credit(draft, entry.sponsor, unspent)
