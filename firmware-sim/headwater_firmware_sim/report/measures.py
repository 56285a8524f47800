"""How evenly rewards fall, and who was caught.

Gini, "Variabilità e mutabilità", 1912; Jain, Chiu and Hawe, "A Quantitative Measure of Fairness and
Discrimination for Resource Allocation in Shared Computer Systems", DEC-TR-301, 1984.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headwater_firmware_sim.results import HONEST, DeviceRoundRow, DeviceRow, RoundRow, RunResult


def compute_gini(amounts: Iterable[int]) -> float | None:
    """0 where all have the same, towards 1 where one has everything; None where nobody has any."""
    ordered = sorted(amounts)
    total = sum(ordered)
    if not total:
        return None
    count = len(ordered)
    weighted = sum((2 * rank - count - 1) * x for rank, x in enumerate(ordered, start=1))
    return weighted / (count * total)


def compute_jain(amounts: Iterable[int]) -> float | None:
    """1 where all have the same, 1/n where one of n has everything; None where nobody has any."""
    held = list(amounts)
    squares = sum(x * x for x in held)
    return sum(held) ** 2 / (len(held) * squares) if squares else None


def compute_quantile(ordered: Sequence[int], *, thousandths: int) -> int:
    """The least entry that `thousandths` of a thousand do not exceed; `ordered` has entries."""
    return ordered[(len(ordered) - 1) * thousandths // 1_000]


@dataclass(frozen=True, slots=True, kw_only=True)
class FairnessPoint:
    """How evenly honest devices were paid, from the start to the end of a round."""

    round: int
    gini: float | None
    jain: float | None


def list_fairness(result: RunResult) -> tuple[FairnessPoint, ...]:
    """After each round; empty without rows of devices by round."""
    totals = {row.device: 0 for row in result.fleet if row.attack == HONEST}
    by_round: defaultdict[int, list[DeviceRoundRow]] = defaultdict(list)
    for row in result.device_rounds:
        by_round[row.round].append(row)
    points = []
    for number in sorted(by_round):
        for row in by_round[number]:
            if row.device in totals:
                totals[row.device] += row.reward
        points.append(
            FairnessPoint(
                round=number,
                gini=compute_gini(totals.values()),
                jain=compute_jain(totals.values()),
            )
        )
    return tuple(points)


def final_fairness(result: RunResult) -> FairnessPoint:
    """At the end of the run, over honest devices."""
    rewards = [row.reward for row in result.fleet if row.attack == HONEST]
    return FairnessPoint(
        round=max((row.round for row in result.rounds), default=0),
        gini=compute_gini(rewards),
        jain=compute_jain(rewards),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRewards:
    """What the devices of one class were paid, each over the whole run."""

    device_class: str
    is_honest: bool
    devices: int
    mean: float
    low: int
    """The tenth of a hundred."""
    high: int
    """The ninetieth of a hundred."""


def list_class_rewards(fleet: Iterable[DeviceRow]) -> tuple[ClassRewards, ...]:
    """By class, honest devices first."""
    groups: defaultdict[tuple[bool, str], list[int]] = defaultdict(list)
    for row in fleet:
        groups[(row.attack != HONEST, row.device_class)].append(row.reward)
    return tuple(
        ClassRewards(
            device_class=device_class,
            is_honest=not attacks,
            devices=len(rewards),
            mean=sum(rewards) / len(rewards),
            low=compute_quantile(sorted(rewards), thousandths=100),
            high=compute_quantile(sorted(rewards), thousandths=900),
        )
        for (attacks, device_class), rewards in sorted(groups.items())
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTotals:
    """One round over all shards."""

    round: int
    cohort: int
    updates: int
    accepted: int
    received: int
    bytes_up: int
    paid: int
    rejected: Mapping[str, int]
    attackers_judged: int
    attackers_refused: int
    honest_judged: int
    honest_refused: int
    accuracy: float | None
    """Mean of the shards that were evaluated."""


def list_round_totals(rounds: Iterable[RoundRow]) -> tuple[RoundTotals, ...]:
    """In order of the rounds' numbers."""
    groups: defaultdict[int, list[RoundRow]] = defaultdict(list)
    for row in rounds:
        groups[row.round].append(row)
    return tuple(_add_up(number, groups[number]) for number in sorted(groups))


def _add_up(number: int, rows: list[RoundRow]) -> RoundTotals:
    rejected: defaultdict[str, int] = defaultdict(int)
    for row in rows:
        for reason, count in row.rejected.items():
            rejected[reason] += count
    known = [row.accuracy for row in rows if row.accuracy is not None]
    return RoundTotals(
        round=number,
        cohort=sum(row.cohort for row in rows),
        updates=sum(row.updates for row in rows),
        accepted=sum(row.accepted for row in rows),
        received=sum(row.received for row in rows),
        bytes_up=sum(row.bytes_up for row in rows),
        paid=sum(row.paid for row in rows),
        rejected=dict(sorted(rejected.items())),
        attackers_judged=sum(row.attackers_judged for row in rows),
        attackers_refused=sum(row.attackers_refused for row in rows),
        honest_judged=sum(row.honest_judged for row in rows),
        honest_refused=sum(row.honest_refused for row in rows),
        accuracy=sum(known) / len(known) if known else None,
    )


def share(part: int, whole: int) -> float | None:
    """`part` of `whole`, 0 to 1; None of nothing."""
    return part / whole if whole else None
