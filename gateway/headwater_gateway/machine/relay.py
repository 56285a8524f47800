"""The settlement relay: checkpoints up to the main chain, claims behind them, epochs down.

It holds no state: what is due is the difference between the two ledgers, so checkpoints queue by
themselves while the main chain is away, and settle in order when it is back.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from headwater_gateway.machine.publisher import FinalizedTip
from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.chain.market import ClaimRewards, SettleDeposit, SponsoredTask
from headwater_protocol.chain.transaction import AdoptEpoch, AdoptTask, PostCheckpoint
from headwater_protocol.identifiers import ChainId, EpochNumber
from headwater_protocol.light.update import EpochUpdate
from headwater_protocol.messages.announcement import task_key
from headwater_shard.claiming import ClaimProgress, due_reward_claim, due_settlements
from headwater_shard.mainchain.market.records import TASKS
from headwater_shard.mainchain.market.tasks import get_last_task
from headwater_shard.mainchain.records import SHARDS, shard_key
from headwater_shard.mainchain.staking.election import get_shard_committee
from headwater_shard.shardchain.records import CHECKPOINTS, SHARD, SHARD_KEY, checkpoint_key
from headwater_shard.state.state import State

CLAIM_INTERVAL: Final = 8
"""Checkpoints whose rewards are claimed together: each account of a claim takes a proof on the main
chain, and totals are cumulative, so nobody loses by waiting."""

MAX_SETTLEMENTS_UNDER_WAY: Final = 100
"""Deposits settled at a time, so that the end of a task does not fill the main chain's queue."""


def due_checkpoint(
    shard_id: ChainId, shard_state: State, main_state: State
) -> Iterator[tuple[str, PostCheckpoint]]:
    """The shard's next checkpoint that the main chain lacks, once enough delegates signed it."""
    shard = shard_state.get(SHARD, SHARD_KEY)
    entry = main_state.get(SHARDS, shard_key(shard_id))
    if shard is None or entry is None or entry.number >= shard.checkpoints:
        return
    number = entry.number + 1
    signed = shard_state.get(CHECKPOINTS, checkpoint_key(number))
    if signed is None:
        return
    committee = get_shard_committee(main_state, signed.checkpoint.epoch, shard_id)
    if committee is None:
        return
    power = committee.power_of_all(row.validator for row in signed.signatures)
    if committee.is_quorum(power):
        yield f"{shard_id}/post/{number}", PostCheckpoint(signed=signed)


def due_payouts(
    shard: ChainId, shard_state: State, main_state: State, progress: ClaimProgress
) -> Iterator[tuple[str, ClaimRewards | SettleDeposit]]:
    """What the shard's last settled checkpoint proves and the main chain has not paid or taken.

    The relay claims for all devices and delegates of the shard alike: a claim pays whom it names.
    """
    claim = due_reward_claim(
        shard, shard_state, main_state, interval=CLAIM_INTERVAL, progress=progress
    )
    if claim is not None:
        first, last = claim.claims[0], claim.claims[-1]
        span = f"{first.account.hex()}/{first.total}/{last.account.hex()}/{last.total}"
        yield f"{shard}/claim/{span}", claim
    settlements = due_settlements(shard, shard_state, main_state)
    for settlement in islice(settlements, MAX_SETTLEMENTS_UNDER_WAY):
        ticket = f"{shard}/settle/{settlement.device.hex()}/{settlement.checkpoint}"
        yield ticket, settlement


def due_epoch(
    shard_id: ChainId,
    shard_state: State,
    updates: Mapping[EpochNumber, EpochUpdate],
    latest: EpochUpdate | None,
    parameters: Parameters,
) -> Iterator[tuple[str, AdoptEpoch]]:
    """The next epoch that the shard lacks, or a later proof of its last one before trust runs out.

    Args:
        shard_id: Which shard.
        shard_state: Its state.
        updates: By epoch, what leads there from the one before.
        latest: The main chain's current epoch, proven at its tip.
        parameters: The network's.
    """
    shard = shard_state.get(SHARD, SHARD_KEY)
    if shard is None:
        return
    following = updates.get(EpochNumber(shard.adopted + 1))
    if following is not None:
        if shard.adopted == shard.epoch and shard.correction is None:
            yield f"{shard_id}/adopt/{following.epoch.epoch}", AdoptEpoch(update=following)
    elif latest is not None and latest.epoch.epoch == shard.adopted:
        age_ms = latest.header.time_ms - shard.adopted_ms
        if age_ms * 2 >= parameters.trust_period_ms:
            ticket = f"{shard_id}/refresh/{shard.adopted}/{shard.adopted_ms}"
            yield ticket, AdoptEpoch(update=latest)


def due_task(
    shard_id: ChainId, shard_state: State, main: FinalizedTip
) -> Iterator[tuple[str, AdoptTask]]:
    """The task after the one that the shard has finished, or that a sponsor has ended its own."""
    shard = shard_state.get(SHARD, SHARD_KEY)
    if shard is None:
        return
    if not shard.is_finished:
        current = main.state.get(TASKS, task_key(shard.task))
        if current is not None and current.is_closing and not shard.is_closing:
            yield f"{shard_id}/close/{current.number}", _prove_task(current, main)
        return
    entry = get_last_task(main.state)
    if shard.adopted == shard.epoch and entry.number > shard.task_number:
        yield f"{shard_id}/task/{entry.number}", _prove_task(entry, main)


def _prove_task(entry: SponsoredTask, main: FinalizedTip) -> AdoptTask:
    return AdoptTask(
        entry=entry,
        proof=main.state.prove(TASKS.namespace, task_key(entry.task.task)),
        header=main.block.header,
        certificate=main.certificate,
    )
