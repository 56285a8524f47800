"""Verdicts and rewards of a round, computed anew from its transactions.

The replay runs the ledger's own rules, so it cannot tell a ledger that follows its rules from rules
that are wrong. Here the same numbers come from the protocol's description, by other code over other
input: the transactions and not the state.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor

from headwater_protocol.chain.claim import Commit
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.task import Task
from headwater_protocol.chain.transaction import UNAVAILABLE
from headwater_protocol.identifiers import DeviceId, Digest, RoundNumber, ValidatorId
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain.reputation import REPUTATION_DECAY


@dataclass(slots=True, kw_only=True)
class RoundRecord:
    """What the executed transactions said about one round."""

    number: RoundNumber
    batches: list[tuple[Commit, ...]] = field(default_factory=list)
    """In order of execution."""
    scores: dict[tuple[int, ValidatorId], tuple[int, ...]] = field(default_factory=dict)
    """By batch and delegate."""
    attestations: dict[ValidatorId, Digest] = field(default_factory=dict)

    @property
    def commits(self) -> list[Commit]:
        """All commits, in order of the batches."""
        return [commit for batch in self.batches for commit in batch]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the scores make of one commit."""

    commit: Commit
    batch: int
    reason: ReasonCode
    """`ok`, `low_score` or `unavailable`."""
    score: int
    """The median by power; `UNAVAILABLE` where too little power scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payout:
    """Who is owed what for one round."""

    devices: Mapping[DeviceId, int]
    delegates: Mapping[ValidatorId, int]

    @property
    def total(self) -> int:
        """Units owed."""
        return sum(self.devices.values()) + sum(self.delegates.values())

    def by_account(self) -> dict[bytes, int]:
        """What each key is owed, whichever role it holds; zeros left out, in order of the keys."""
        owed: dict[bytes, int] = {}
        for key, amount in [*self.devices.items(), *self.delegates.items()]:
            owed[key] = owed.get(key, 0) + amount
        return {key: owed[key] for key in sorted(owed) if owed[key]}


NO_PAYOUT = Payout(devices={}, delegates={})


def judge_round(
    record: RoundRecord, committee: Committee, task: Task, reputations: Mapping[DeviceId, int]
) -> list[Judgement]:
    """The verdict on every commit, in order of the batches.

    Args:
        record: The round.
        committee: Whose power counts.
        task: Says what is accepted.
        reputations: Of the devices before this round; 0 for those left out.
    """
    judgements: list[Judgement] = []
    for index, batch in enumerate(record.batches):
        for position, commit in enumerate(batch):
            ballots = [
                (record.scores[index, delegate.validator][position], delegate.voting_power)
                for delegate in committee.delegates
                if (index, delegate.validator) in record.scores
            ]
            cast = [(score, power) for score, power in ballots if score != UNAVAILABLE]
            if 3 * sum(power for _, power in cast) <= 2 * committee.total_power:
                reason, median = ReasonCode.UNAVAILABLE, UNAVAILABLE
            else:
                median = weigh_median(cast)
                share = Fraction(task.reputation_thousandths, 1_000)
                standing = median + floor(share * reputations.get(commit.device, 0))
                is_accepted = standing >= task.score_threshold
                reason = ReasonCode.OK if is_accepted else ReasonCode.LOW_SCORE
            judgements.append(Judgement(commit=commit, batch=index, reason=reason, score=median))
    return judgements


def age_reputations(
    reputations: Mapping[DeviceId, int], judgements: Sequence[Judgement]
) -> dict[DeviceId, int]:
    """The reputations after a round: a scored update moves its device's a part of the way."""
    aged = dict(reputations)
    for entry in judgements:
        if entry.reason is not ReasonCode.UNAVAILABLE:
            before = aged.get(entry.commit.device, 0)
            aged[entry.commit.device] = before + floor(
                Fraction(entry.score - before, REPUTATION_DECAY)
            )
    return aged


def weigh_median(cast: Sequence[tuple[int, int]]) -> int:
    """The least score at or under which half of the power, or more, stands."""
    half = Fraction(sum(power for _, power in cast), 2)
    return min(
        score for score, _ in cast if sum(power for other, power in cast if other <= score) >= half
    )


def find_attested(record: RoundRecord, committee: Committee) -> Digest | None:
    """The digest that more than two thirds of the power attested, or None."""
    for model in sorted(set(record.attestations.values())):
        power = sum(
            delegate.voting_power
            for delegate in committee.delegates
            if record.attestations.get(delegate.validator) == model
        )
        if 3 * power > 2 * committee.total_power:
            return model
    return None


def compute_payout(
    record: RoundRecord,
    judgements: Sequence[Judgement],
    *,
    committee: Committee,
    task: Task,
    model: Digest,
    budget: int,
) -> Payout:
    """Split a round's budget between the accepted devices and the delegates who attested `model`.

    Args:
        record: The round.
        judgements: Of all its commits.
        committee: Whose power counts.
        task: Says the delegates' share and the cap on examples.
        model: What the round closed on.
        budget: Units to split.
    """
    merits = {
        entry.commit.device: min(entry.commit.num_examples, task.max_examples)
        * (entry.score - task.reward_floor)
        for entry in judgements
        if entry.reason is ReasonCode.OK and entry.score > task.reward_floor
    }
    if not merits:
        return NO_PAYOUT
    # A delegate's word counts where it had the payload, and the committee had it too.
    verdicts: dict[int, list[ReasonCode]] = {}
    for entry in judgements:
        verdicts.setdefault(entry.batch, []).append(entry.reason)
    numbers: Counter[ValidatorId] = Counter()
    for (index, validator), scores in record.scores.items():
        numbers[validator] += sum(
            score != UNAVAILABLE and verdict is not ReasonCode.UNAVAILABLE
            for score, verdict in zip(scores, verdicts[index], strict=True)
        )
    labour = {
        delegate.validator: delegate.voting_power * numbers[delegate.validator]
        for delegate in committee.delegates
        if record.attestations.get(delegate.validator) == model
    }
    delegates = split_exactly(budget * task.delegate_thousandths // 1_000, labour)
    devices = split_exactly(budget - sum(delegates.values()), merits)
    return Payout(
        devices={DeviceId(key): amount for key, amount in devices.items()},
        delegates={ValidatorId(key): amount for key, amount in delegates.items()},
    )


def split_exactly(
    amount: int, merits: Mapping[DeviceId, int] | Mapping[ValidatorId, int]
) -> dict[bytes, int]:
    """Split `amount` by merit; whole units first, the rest by the largest fractions lost.

    Equal fractions go to the smaller key. Where nobody has merit nobody gets anything.
    """
    total = sum(merits.values())
    if total == 0:
        return {}
    exact = {bytes(key): Fraction(amount * merit, total) for key, merit in merits.items()}
    shares = {key: int(share) for key, share in exact.items()}
    short = amount - sum(shares.values())
    neediest = sorted(exact, key=lambda key: (shares[key] - exact[key], key))
    for key in neediest[:short]:
        shares[key] += 1
    return shares
