"""Rewards of a round: the budget, split exactly.

Devices share in proportion to what their median score exceeds the task's floor by, times the capped
number of examples. Noise has a cosine near zero, and half of it is positive: paid from zero on, it
would earn by claiming many examples. Delegates share in proportion to their power times
the updates that they scored, if they attested the round's model. A score counts if the committee
had the payload and the delegate did: `UNAVAILABLE` takes no work, and neither does a number for a
payload that nobody can hold against it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from headwater_protocol.chain.account import RewardBalance
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.round import Round
from headwater_protocol.chain.task import Task
from headwater_protocol.chain.transaction import UNAVAILABLE
from headwater_protocol.identifiers import DeviceId, RoundNumber, Units, ValidatorId
from headwater_protocol.reasons import ReasonCode
from headwater_shard.apportion import apportion
from headwater_shard.shardchain.records import (
    BATCHES,
    REWARDS,
    SCORES,
    UPDATES,
    UpdateEntry,
    batch_key,
    score_key,
    update_key,
)
from headwater_shard.state.draft import Draft


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRewards:
    """Who gets what for a round."""

    devices: dict[DeviceId, int]
    delegates: dict[ValidatorId, int]

    @property
    def total(self) -> int:
        """Units paid."""
        return sum(self.devices.values()) + sum(self.delegates.values())


def compute_rewards(
    draft: Draft,
    round_: Round,
    task: Task,
    committee: Committee,
    attesters: Iterable[ValidatorId],
    *,
    budget: int,
) -> RoundRewards:
    """Split `budget` units; nothing is paid where no accepted update is better than noise."""
    contributions: dict[DeviceId, int] = {}
    batches = [_read_batch(draft, round_.number, index) for index in range(round_.num_batches)]
    for batch in batches:
        for device, entry in batch:
            if entry.reason is ReasonCode.OK and entry.score > task.reward_floor:
                examples = min(entry.num_examples, task.max_examples)
                contributions[device] = (entry.score - task.reward_floor) * examples
    if not contributions:
        return RoundRewards(devices={}, delegates={})
    for_delegates = budget * task.delegate_thousandths // 1_000
    work = {
        validator: committee.power_of(validator) * _count_scored(draft, round_, batches, validator)
        for validator in sorted(attesters)
    }
    delegates = apportion(for_delegates, work)
    devices = apportion(budget - sum(delegates.values()), contributions)
    return RoundRewards(devices=devices, delegates=delegates)


def pay(draft: Draft, rewards: RoundRewards) -> None:
    """Add the rewards to the balances."""
    due: dict[bytes, int] = {}
    for account, amount in [*rewards.devices.items(), *rewards.delegates.items()]:
        due[account] = due.get(account, 0) + amount
    for account in sorted(due):
        if due[account]:
            balance = draft.get(REWARDS, account)
            total = due[account] + (0 if balance is None else balance.total)
            draft.put(REWARDS, account, RewardBalance(total=Units(total)))


def _read_batch(
    draft: Draft, round_: RoundNumber, index: int
) -> list[tuple[DeviceId, UpdateEntry]]:
    """What became of a batch's updates, in their order."""
    commits = draft.get_existing(BATCHES, batch_key(round_, index)).commits
    return [
        (commit.device, draft.get_existing(UPDATES, update_key(round_, commit.device)))
        for commit in commits
    ]


def _count_scored(
    draft: Draft,
    round_: Round,
    batches: list[list[tuple[DeviceId, UpdateEntry]]],
    validator: ValidatorId,
) -> int:
    count = 0
    for index, batch in enumerate(batches):
        posted = draft.get(SCORES, score_key(round_.number, index, validator))
        if posted is None:
            continue
        for (_, entry), score in zip(batch, posted.scores, strict=True):
            count += score != UNAVAILABLE and entry.reason is not ReasonCode.UNAVAILABLE
    return count
